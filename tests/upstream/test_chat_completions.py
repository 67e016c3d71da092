from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from odysseus.errors import UpstreamError
from odysseus.upstream import Ask, Finish, Piece, Reasoning, Text, Tokens
from odysseus.upstream.chat_completions import AnswerDecoder, request_body

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
COUNTED = Tokens({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
DONE = b"data: [DONE]\n\n"
INCOMPLETE = "upstream_protocol: the model server ended the stream before the answer was complete"
NOT_JSON = "upstream_protocol: the model server sent something that isn't JSON"
NO_CHUNK = "upstream_protocol: the model server sent something that isn't a chunk of an answer"
REPORTED = "upstream_protocol: the model server reported an error in the middle of its answer"


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def choice(finish_reason: Any = None, **delta: Any) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]})


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    whole: list[Piece] = []
    for piece in pieces:
        match (whole[-1] if whole else None), piece:
            case (Text(before), Text(text)):
                whole[-1] = Text(before + text)
            case (Reasoning(before), Reasoning(text)):
                whole[-1] = Reasoning(before + text)
            case _:
                whole.append(piece)
    return whole


def answer(*chunks: bytes) -> tuple[list[Piece], str | None]:
    """Return what came, and how the answer broke; None if it was complete."""
    decoder = AnswerDecoder()
    pieces: list[Piece] = []
    try:
        for chunk in chunks:
            pieces += decoder.feed(chunk)
        decoder.end()
    except UpstreamError as error:
        return joined(pieces), str(error)
    return joined(pieces), None


def cut(document: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(places), len(document)]
    return [document[start:end] for start, end in pairwise(edges)]


MESSAGE: Any = {"role": "user", "content": "Hi \u2028\U0001f6a2"}


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({}, {}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"max_tokens": 1}, {"max_tokens": 1}),
        ({"temperature": 0.7, "max_tokens": 9}, {"temperature": 0.7, "max_tokens": 9}),
    ],
)
def test_request_body(options: dict[str, Any], sent: dict[str, Any]) -> None:
    assert json.loads(request_body(Ask(model="m", messages=[MESSAGE], **options))) == {
        "model": "m",
        "messages": [MESSAGE],
        "stream": True,
        "stream_options": {"include_usage": True},
        **sent,
    }


HI, BYE = choice(content="Hi"), choice("stop")
FAILED_500 = "upstream_status: the model server failed in the middle of its answer, with 500"

ANSWERS: list[tuple[str, bytes, list[Piece], str | None]] = [
    ("text", choice(content="Hel") + choice(content="lo") + DONE, [Text("Hello")], None),
    ("role first", choice(role="assistant", content="") + HI + DONE, [Text("Hi")], None),
    ("null content", choice(role="assistant", content=None) + HI + DONE, [Text("Hi")], None),
    ("DeepSeek, vLLM", choice(reasoning_content="Hm", content=None) + HI + DONE, [Reasoning("Hm"), Text("Hi")], None),
    ("Ollama", choice(reasoning="Hm", content="") + HI + DONE, [Reasoning("Hm"), Text("Hi")], None),
    ("both names", choice(reasoning_content="Hm", reasoning="Hm") + DONE, [Reasoning("Hm")], None),
    ("both at once", choice(reasoning="Hm", content="Hi") + DONE, [Reasoning("Hm"), Text("Hi")], None),
    ("text and its end", choice("length", content="Hi") + DONE, [Text("Hi"), Finish("length")], None),
    ("usage", HI + event({"choices": [], "usage": USAGE}) + DONE, [Text("Hi"), COUNTED], None),
    ("usage without choices", event({"usage": USAGE}) + DONE, [COUNTED], None),
    ("usage with a choice", event({"choices": [{"delta": {"content": "Hi"}}], "usage": USAGE}) + DONE,
     [Text("Hi"), COUNTED], None),
    ("null usage", event({"choices": [], "usage": None}) + HI + DONE, [Text("Hi")], None),
    ("more than we know", event({"id": 1, "choices": [{"delta": {"content": "Hi", "x": {}}, "logprobs": []}]}) + DONE,
     [Text("Hi")], None),
    ("nothing said", DONE, [], None),
    ("nothing after the end", HI + DONE + HI + event({"error": {}}) + b"data: {\n\n", [Text("Hi")], None),
    ("no sentinel, but finished", HI + BYE, [Text("Hi"), Finish("stop")], None),
    ("no sentinel, finished, usage", HI + BYE + event({"usage": USAGE}), [Text("Hi"), Finish("stop"), COUNTED], None),
    ("no sentinel, not finished", HI, [Text("Hi")], INCOMPLETE),
    ("nothing at all", b"", [], INCOMPLETE),
    ("a sentinel cut short", HI + DONE[:-1], [Text("Hi")], INCOMPLETE),
    ("no stream of events", b'{"choices": []}', [], INCOMPLETE),
    ("cr", (HI + DONE).replace(b"\n", b"\r"), [Text("Hi")], None),
    ("crlf", (HI + DONE).replace(b"\n", b"\r\n"), [Text("Hi")], None),
    ("bom", b"\xef\xbb\xbf" + HI + DONE, [Text("Hi")], None),
    ("comments", b": OPENROUTER PROCESSING\n\n" + HI + b":\n\n" + DONE, [Text("Hi")], None),
    ("ids, names, retry", b"retry: 1\nid: 7\nevent: chunk\n" + HI + b"id: 8\n" + DONE, [Text("Hi")], None),
    ("no space", (HI + DONE).replace(b"data: ", b"data:"), [Text("Hi")], None),
    ("several data lines", HI.replace(b", ", b",\ndata: ") + DONE, [Text("Hi")], None),
    ("error", HI + event({"error": {"message": "sesame"}}), [Text("Hi")], REPORTED),
    ("error with a number", HI + event({"error": {"message": "sesame", "code": 500}}), [Text("Hi")], FAILED_500),
    ("error with a word", HI + event({"error": {"message": "sesame", "code": "bad"}}), [Text("Hi")], REPORTED),
    ("error with no status", HI + event({"error": {"code": 7}}), [Text("Hi")], REPORTED),
    ("error as text", HI + event({"error": "sesame"}), [Text("Hi")], REPORTED),
    ("null error", event({"error": None, "choices": [{"delta": {"content": "Hi"}}]}) + DONE, [Text("Hi")], None),
    ("first of two errors", event({"error": {"code": 500}}) + event({"error": {}}) + HI + DONE, [], FAILED_500),
    ("an error after the end of the text", HI + BYE + event({"error": {"code": 500}}), [Text("Hi"), Finish("stop")],
     FAILED_500),
    ("not JSON", HI + b"data: sesame\n\n" + HI + DONE, [Text("Hi")], NOT_JSON),
    ("JSON cut short", HI + b'data: {"choices": [\n\n' + DONE, [Text("Hi")], NOT_JSON),
    ("no data", HI + b"data:\n\n" + DONE, [Text("Hi")], NOT_JSON),
    *(
        (f"{value} is no chunk", HI + event(value) + DONE, [Text("Hi")], NO_CHUNK)
        for value in (None, 1, "sesame", [], True)
    ),
    *(
        (f"{value} says nothing", event(value) + HI + DONE, [Text("Hi")], None)
        for value in (
            {},
            {"choices": None},
            {"choices": []},
            {"choices": [None, 1, "sesame", {}]},
            {"choices": [{"delta": None}]},
            {"choices": [{"delta": []}]},
            {"choices": [{"delta": {"content": 1, "reasoning": {}}, "finish_reason": 1}]},
            {"choices": [{"delta": {"content": ["sesame"]}}], "usage": "sesame"},
        )
    ),
    ("counts that are none", event({"usage": {"prompt_tokens": None, "total_tokens": "5"}}) + DONE,
     [Tokens({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0})], None),
    ("a pair of surrogates", choice(content="\U0001f6a2") + DONE, [Text("\U0001f6a2")], None),
    ("a cut pair", choice(content="a\ud83d") + choice(content="\udea2b") + DONE, [Text("a\ufffd\ufffdb")], None),
    ("lone surrogates", choice(reasoning="\udea2\ud83d", content="\ud83dx\U0001f6a2") + DONE,
     [Reasoning("\ufffd\ufffd"), Text("\ufffdx\U0001f6a2")], None),
    ("NUL", choice(content="a\0b", reasoning="\0") + DONE, [Reasoning("\ufffd"), Text("a\ufffdb")], None),
    ("not UTF-8", choice(content="a?b").replace(b"?", b"\xff") + DONE, [Text("a\ufffdb")], None),
    ("a character cut in the middle", choice(content="a?b").replace(b"?", b"\xf0\x9f\x9a") + DONE, [Text("a\ufffdb")],
     None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("document", "pieces", "error"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS]
)
def test_answers(document: bytes, pieces: list[Piece], error: str | None) -> None:
    assert answer(document) == (pieces, error)
    assert answer(*cut(document, range(1, len(document)))) == (pieces, error)
    for at in range(len(document)):
        assert answer(*cut(document, [at])) == (pieces, error)


def test_neighbours_of_one_read_are_joined() -> None:
    document = choice(reasoning="H") + choice(reasoning="m") + choice(content="H") + choice(content="i")
    document += choice("stop", content="!") + event({"usage": USAGE}) + event({"usage": USAGE}) + DONE
    assert AnswerDecoder().feed(document) == [Reasoning("Hm"), Text("Hi!"), Finish("stop"), COUNTED, COUNTED]


@pytest.mark.parametrize(
    ("broken", "error"), [(event({"error": {"code": 500}}), FAILED_500), (b"data: {\n\n", NOT_JSON)]
)
def test_what_came_before_an_error_is_returned_first(broken: bytes, error: str) -> None:
    decoder = AnswerDecoder()
    assert decoder.feed(HI + broken + HI) == [Text("Hi")]
    for again in (partial(decoder.feed, HI), partial(decoder.feed, b""), decoder.end):
        with pytest.raises(UpstreamError) as raised:
            again()
        assert str(raised.value) == error


def test_done_is_told() -> None:
    decoder = AnswerDecoder()
    assert (decoder.feed(HI), decoder.done) == ([Text("Hi")], False)
    assert (decoder.feed(HI + DONE + HI), decoder.done) == ([Text("Hi")], True)
    assert (decoder.feed(HI), decoder.done) == ([], True)


def test_long_lines() -> None:
    texts = ["\u20ac" * 350_000, "b" * 1024 * 1024]
    document = b"".join(choice(content=text) for text in texts) + DONE
    assert len(document) > 3 * 1024 * 1024
    assert answer(*cut(document, range(1000, len(document), 1000))) == ([Text("".join(texts))], None)


def test_a_line_without_end() -> None:
    endless = b"data: " + b"x" * 17 * 1024 * 1024
    pieces, error = answer(HI + endless)
    assert pieces == [Text("Hi")]
    assert error is not None and error.startswith("upstream_protocol: ") and "16777216" in error


SAID = st.one_of(
    st.builds(lambda text: choice(content=text), st.text()),
    st.builds(lambda text: choice(reasoning_content=text), st.text()),
    st.builds(choice, st.sampled_from(["stop", "length"])),
    st.just(event({"usage": USAGE})),
    st.just(event({"error": {"code": 500}})),
    st.sampled_from([b": ping\n\n", b"data: {\n\n", b"\n", b"data: \xff\n\n", DONE]),
)


@settings(deadline=None)
@given(st.data())
def test_any_cut_gives_the_same_answer(data: st.DataObject) -> None:
    said = data.draw(st.lists(SAID, max_size=6))
    line_end = data.draw(st.sampled_from([b"\n", b"\r", b"\r\n"]))
    document = b"".join(said).replace(b"\n", line_end)
    cuts = data.draw(st.lists(st.integers(0, len(document))))
    assert answer(*cut(document, cuts)) == answer(document)


def can_be_sent_and_stored(pieces: Sequence[Piece]) -> bool:
    return b"\\u0000" not in orjson.dumps([asdict(piece) for piece in pieces])


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(event({"choices": 5}), id="choices are a number"),
        pytest.param(event({"choices": True}), id="choices are a boolean"),
        pytest.param(b"data: " + b"[" * 100_000 + b"\n\n", id="nested too deep"),
        pytest.param(choice("\ud800"), id="finish_reason without UTF-8"),
        pytest.param(choice("a\0b"), id="finish_reason with NUL"),
        pytest.param(
            b'data: {"x": "\\ud800", "usage": {"total_tokens": 1' + b"0" * 30 + b"}}\n\n",
            id="a count beyond 64 bits",
        ),
        pytest.param(event({"usage": {"total_tokens": True}}), id="a boolean count"),
    ],
)
def test_nonsense(document: bytes) -> None:
    """It spoils the answer, or nothing; it is never an error of ours, now or when the answer is sent and saved."""
    decoder = AnswerDecoder()
    pieces = decoder.feed(HI + document)
    assert pieces[0] == Text("Hi")
    assert can_be_sent_and_stored(pieces)
    assert all(type(count) is int for piece in pieces if isinstance(piece, Tokens) for count in piece.usage.values())


NAMES = st.sampled_from(
    ["choices", "delta", "content", "reasoning", "finish_reason", "usage", "prompt_tokens", "error"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(JSON, max_size=3), st.booleans())
@example([{"choices": True}], False)
def test_any_json(values: list[Any], done: bool) -> None:
    decoder = AnswerDecoder()
    try:
        pieces = decoder.feed(b"".join(map(event, values)) + (DONE if done else b""))
        decoder.end()
    except UpstreamError:
        return
    assert can_be_sent_and_stored(pieces)


@settings(deadline=None)
@given(
    st.binary() | st.lists(st.sampled_from([b"data", b":", b" ", b"\n", b"\r", b"{", b"}", b"[", b"]"])).map(b"".join)
)
def test_any_bytes(document: bytes) -> None:
    pieces, error = answer(document)
    assert error is not None
    assert can_be_sent_and_stored(pieces)


PLAIN = {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}], "usage": None}
ODD: list[Any] = [
    choice(content="Hi"),
    choice(role="assistant", content="Hi"),
    choice(reasoning_content="Hm"),
    choice(reasoning="Hm"),
    choice(content=""),
    choice(content=None),
    choice(content=5),
    choice(content="Hi", reasoning="Hm"),
    choice(content="a\0\n\ndata: b"),
    choice("stop", content="end"),
    choice("stop"),
    choice(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}}]),
    event(PLAIN | {"usage": USAGE}),
    event(PLAIN | {"choices": []}),
    event(PLAIN | {"choices": PLAIN["choices"] * 2}),
    event(PLAIN | {"error": {"code": 500}}),
    event([PLAIN]),
    b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n',
    b"data: {\n\n",
    b": comment\n\n",
    b"event: x\ndata: {}\n\n",
    b"data: {}\ndata: {}\n\n",
    b"id: 1\n\n",
    b"\n",
    event(PLAIN).replace(b"\n", b"\r\n"),
    DONE,
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(ODD), max_size=12), st.data())
def test_whole_events_say_what_single_bytes_say(events: list[bytes], data: st.DataObject) -> None:
    """The short way for plain events gives what the long way gives, which events that come byte by byte must take."""
    document = b"".join(events)
    places = data.draw(st.lists(st.integers(0, len(document)), max_size=8))
    assert answer(*cut(document, places)) == answer(*(document[n : n + 1] for n in range(len(document))))
