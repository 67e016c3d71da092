from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from odysseus.sse import PING, Decoder, Event, EventTooLong, encode


def decode(*chunks: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def bytewise(document: bytes) -> list[bytes]:
    return [document[i : i + 1] for i in range(len(document))]


@pytest.mark.parametrize(
    ("data", "event_id", "frame"),
    [
        (b"{}", None, b"data: {}\n\n"),
        (b"{}", "run.0", b"id: run.0\ndata: {}\n\n"),
        (b"", "", b"id: \ndata: \n\n"),
        (b" \xc3\xa4:", "\u00e4.1", b"id: \xc3\xa4.1\ndata:  \xc3\xa4:\n\n"),
    ],
)
def test_encode(data: bytes, event_id: str | None, frame: bytes) -> None:
    assert encode(data, event_id) == frame


DOCUMENTS: list[tuple[str, bytes, list[Event]]] = [
    ("empty", b"", []),
    ("lf", b"data: a\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
    ("cr", b"data: a\r\rdata: b\r\r", [Event(b"a"), Event(b"b")]),
    ("crlf", b"data: a\r\n\r\ndata: b\r\n\r\n", [Event(b"a"), Event(b"b")]),
    ("mixed line ends", b"data: a\r\ndata: b\rdata: c\n\r\n", [Event(b"a\nb\nc")]),
    ("lf cr is two line ends", b"data: a\n\rdata: b\n\r", [Event(b"a"), Event(b"b")]),
    ("crlf is one line end", b"data: a\r\ndata: b\r\n\r\n", [Event(b"a\nb")]),
    (
        "no other character ends a line",
        "data: \u2028\u2029\x85\x0b\x0c\n\n".encode(),
        [Event("\u2028\u2029\x85\x0b\x0c".encode())],
    ),
    ("bom", b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
    ("only one bom", b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    ("only a leading bom", b"\n\xef\xbb\xbfdata: a\n\n", []),
    ("bom alone on its line", b"\xef\xbb\xbf\ndata: a\n\n", [Event(b"a")]),
    ("bom as data", b"data: \xef\xbb\xbf\n\n", [Event(b"\xef\xbb\xbf")]),
    ("comments", b": ping\n\n:\ndata: a\n:data: b\n\n", [Event(b"a")]),
    ("several data lines", b"data: a\ndata: b\ndata:\ndata\n\n", [Event(b"a\nb\n\n")]),
    ("no colon", b"data\n\ndata\ndata\n\n", [Event(b""), Event(b"\n")]),
    ("empty data", b"data:\n\ndata: \n\n", [Event(b""), Event(b"")]),
    ("no data, no event", b"id: 1\nevent: e\n\ndata: a\n\n", [Event(b"a", "message", "1")]),
    ("one space is dropped", b"data:a\ndata: b\ndata:  c\ndata:\td\n\n", [Event(b"a\nb\n c\n\td")]),
    ("a colon in the value", b"data::a: b\n\n", [Event(b":a: b")]),
    ("names are exact", b"Data: a\ndata : b\n data: c\nxdata: d\n\n", []),
    ("unknown field", b"foo: a\nbar\ndata: b\n\n", [Event(b"b")]),
    ("event type", b"event: e\ndata: a\n\ndata: b\n\n", [Event(b"a", "e"), Event(b"b", "message")]),
    ("last event type counts", b"event: e\nevent: f\ndata: a\n\n", [Event(b"a", "f")]),
    ("empty event type", b"event: e\nevent\ndata: a\n\n", [Event(b"a", "message")]),
    ("the id stays", b"id: 1\ndata: a\n\ndata: b\n\n", [Event(b"a", "message", "1"), Event(b"b", "message", "1")]),
    ("an empty id resets", b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event(b"a", "message", "1"), Event(b"b")]),
    ("an id with NUL is ignored", b"id: 1\nid: 2\x003\ndata: a\n\n", [Event(b"a", "message", "1")]),
    ("an id that is not ASCII", "id: \u00e4\u20ac\ndata: a\n\n".encode(), [Event(b"a", "message", "\u00e4\u20ac")]),
    ("invalid UTF-8", b"id: \xff\ndata: \xff\n\n", [Event(b"\xff", "message", "\ufffd")]),
    ("unfinished line", b"data: a\n\ndata: b", [Event(b"a")]),
    ("unfinished event", b"data: a\n\ndata: b\n", [Event(b"a")]),
]


@pytest.mark.parametrize(("document", "events"), [case[1:] for case in DOCUMENTS], ids=[case[0] for case in DOCUMENTS])
def test_decode(document: bytes, events: list[Event]) -> None:
    assert decode(document) == events
    assert decode(*bytewise(document)) == events
    for at in range(len(document)):
        assert decode(document[:at], b"", document[at:]) == events


@pytest.mark.parametrize(
    ("document", "retry"),
    [
        (b"retry: 1500\n", 1500),
        (b"retry:0\n", 0),
        (b"retry: 007\n", 7),
        (b"retry: 1\nretry: 2\n", 2),
        *(
            (b"retry: 1\n" + line + b"\n", 1)
            for line in (b"retry", b"retry:", b"retry:  2", b"retry: 2 ", b"retry: -2")
        ),
        *((b"retry: 1\n" + line + b"\n", 1) for line in (b"retry: +2", b"retry: 2.0", b"retry: 2_0", b"retry: 0x2")),
        ("retry: \u0663\u00b2\n".encode(), None),
        (b"data: a\n\n", None),
    ],
)
def test_retry_takes_digits_only(document: bytes, retry: int | None) -> None:
    decoder = Decoder()
    decoder.feed(document)
    assert decoder.retry == retry


def test_long_lines_in_small_pieces() -> None:
    texts = [bytes([letter]) * 1024 * 1024 for letter in b"abc"]
    document = b"".join(encode(text) for text in texts)
    chunks = (document[at : at + 1024] for at in range(0, len(document), 1024))
    assert decode(*chunks) == [Event(text) for text in texts]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([b"data: " + b"x" * 100_000], id="a line without an end"),
        pytest.param([b"data: "] + [b"x"] * 995, id="a line without an end, in pieces"),
        pytest.param([b":" + b"x" * 999, b"x"], id="a comment without an end"),
        pytest.param([b"data: " + b"x" * 1001 + b"\n"], id="a line with an end"),
        pytest.param([b"data: " + b"x" * 1001 + b"\n\n"], id="an event that is all there"),
        pytest.param([b"data: " + b"x" * 99 + b"\n"] * 10, id="data lines"),
        pytest.param([(b"data: " + b"x" * 99 + b"\n") * 11], id="data lines at once"),
        pytest.param([b"data\n" * 1001], id="empty data lines"),
        pytest.param([b"data: " + b"x" * 600 + b"\n", b"data: " + b"x" * 600], id="data and a line without an end"),
    ],
)
def test_an_event_over_the_limit(chunks: list[bytes]) -> None:
    decoder = Decoder(max_event_bytes=1000)
    *fitting, last = chunks
    for chunk in fitting:
        decoder.feed(chunk)
    with pytest.raises(EventTooLong, match="longer than 1000 bytes") as caught:
        decoder.feed(last)
    assert caught.value.limit == 1000


def test_the_events_before_one_over_the_limit_are_returned() -> None:
    decoder = Decoder(max_event_bytes=1000)
    assert decoder.feed(b"data: a\n\ndata: " + b"x" * 2000) == [Event(b"a")]
    with pytest.raises(EventTooLong):
        decoder.feed(b"")


def test_the_limit_does_not_depend_on_the_cut() -> None:
    for length in range(990, 1000):
        document = b"data: " + b"x" * length + b"\n\n"
        outcomes = set()
        for pieces in ([document], list(bytewise(document))):
            decoder = Decoder(max_event_bytes=1000)
            try:
                outcomes.add(len([event for piece in pieces for event in decoder.feed(piece)]))
            except EventTooLong:
                outcomes.add(-1)
        assert len(outcomes) == 1


def test_a_retry_time_of_thousands_of_digits_is_ignored() -> None:
    decoder = Decoder()
    decoder.feed(b"retry: 5\nretry: " + b"9" * 5000 + b"\n\n")
    assert decoder.retry == 5


def test_the_limit_is_for_one_event() -> None:
    decoder = Decoder(max_event_bytes=1000)
    document = (b"data: " + b"x" * 400 + b"\n: " + b"y" * 500 + b"\n\n") * 10
    events = [event for piece in (document, *bytewise(document)) for event in decoder.feed(piece)]
    assert events == [Event(b"x" * 400)] * 20


# A second decoder, slow and after the letter of the standard (section 9.2.6), over a document that is all there.


def reference(document: bytes) -> tuple[list[tuple[str, str, str]], int | None]:
    """Return the events as (data, type, last event id), and the reconnection time."""
    events = []
    data = event_type = last_event_id = ""
    retry = None
    *lines, _unfinished = re.split("\r\n|\n|\r", document.decode("utf-8", "replace").removeprefix("\ufeff"))
    for line in lines:
        if line == "":
            if data != "":
                events.append((data[:-1], event_type if event_type != "" else "message", last_event_id))
            data = event_type = ""
            continue
        if line.startswith(":"):
            continue
        field, value = line.split(":", 1) if ":" in line else (line, "")
        if value.startswith(" "):
            value = value[1:]
        match field:
            case "event":
                event_type = value
            case "data":
                data += value + "\n"
            case "id" if "\0" not in value:
                last_event_id = value
            case "retry" if re.fullmatch("[0-9]+", value):
                retry = int(value)
    return events, retry


names = st.sampled_from(["data", "event", "id", "retry", "", "datum", " data", "\ufeffdata"])
values = st.text() | st.sampled_from(["1", "\0", "\ufeff", " ", "data: x", "\u2028"]) | st.integers(0, 10**6).map(str)
fields = st.builds(lambda *parts: "".join(parts).encode(), names, st.sampled_from(["", ":", ": ", ":  "]), values)
line_ends = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n"])
lines = st.builds(bytes.__add__, fields | st.binary(max_size=8), line_ends)
documents = st.builds(
    lambda bom, lines, rest: bom + b"".join(lines) + rest,
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.lists(lines, max_size=12),
    fields | st.just(b""),
)


@st.composite
def cut_documents(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    document = draw(documents)
    cuts = draw(st.lists(st.integers(0, len(document)), max_size=20).map(sorted))
    return document, [document[start:end] for start, end in pairwise([0, *cuts, len(document)])]


@settings(deadline=None, max_examples=500)
@given(cut_documents())
@example((b"data: a\r\n\r\n", [b"data: a\r", b"\n\r", b"", b"\n"]))
def test_any_cut_gives_what_the_standard_says(cut: tuple[bytes, list[bytes]]) -> None:
    document, chunks = cut
    events, retry = reference(document)
    for way in ([document], chunks, bytewise(document)):
        decoder = Decoder()
        got = [event for chunk in way for event in decoder.feed(chunk)]
        assert [(event.data.decode("utf-8", "replace"), *event[1:]) for event in got] == events
        assert decoder.retry == retry


one_line = st.text().filter(lambda text: not {"\r", "\n", "\0"} & set(text))
messages = st.tuples(st.binary().filter(lambda data: not {10, 13} & set(data)), st.none() | one_line)


@settings(deadline=None)
@given(st.lists(messages))
def test_what_was_encoded_is_decoded(messages: list[tuple[bytes, str | None]]) -> None:
    document = PING.join([b"", *(encode(data, event_id) for data, event_id in messages)])
    events = decode(*bytewise(document))
    assert [event.data for event in events] == [data for data, _ in messages]
    assert [event.last_event_id for event in events] == list(_last_ids(event_id for _, event_id in messages))


def _last_ids(event_ids: Iterable[str | None]) -> Iterable[str]:
    last = ""
    for event_id in event_ids:
        last = last if event_id is None else event_id
        yield last
