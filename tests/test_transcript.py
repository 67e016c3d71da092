from __future__ import annotations

import json
from typing import Any

import pytest

from odysseus.sse import Event
from odysseus.transcript import Answered, Approval, Ending, Kind, Output, Show, Transcript, clean, one_line

RUN = "run_0123456789"


def event(payload: dict[str, Any], event_id: str = "") -> Event:
    return Event(json.dumps(payload).encode(), "message", event_id)


def numbered(*payloads: dict[str, Any]) -> list[Event]:
    return [event(payload, f"{RUN}.{number}") for number, payload in enumerate(payloads)]


def shown(transcript: Transcript, events: list[Event], kind: Kind = Kind.TEXT) -> str:
    outputs = [output for one in events for output in transcript.take(one)]
    return "".join(output.text for output in outputs if isinstance(output, Show) and output.kind is kind)


def delta(text: str) -> dict[str, Any]:
    return {"type": "delta", "text": text}


def call(**other: Any) -> dict[str, Any]:
    return {"type": "tool_call", "call_id": "c1", "name": "clock", "arguments": {"zone": "Europe/Rome"}, **other}


def result(**other: Any) -> dict[str, Any]:
    return {"type": "tool_result", "call_id": "c1", "name": "clock", "output": "noon", "is_error": False, **other}


def text_part(text: str, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


def snapshot(*parts: dict[str, Any]) -> Event:
    content = "".join(part["text"] for part in parts if part["type"] == "text")
    payload = {"type": "snapshot", "content": content, "reasoning": "", "parts": parts, "status": "done"}
    return event(payload, f"{RUN}.snapshot")


ENDED = {"type": "ended", "status": "done", "stop_reason": None, "usage": None, "timings": None}


# What is shown


@pytest.mark.parametrize(
    ("payload", "outputs"),
    [
        ({"type": "started", "run_id": RUN}, []),
        (delta("Hel\x1b[2J"), [Show(Kind.TEXT, "Hel\x1b[2J")]),
        ({"type": "reasoning", "text": "Hm"}, [Show(Kind.REASONING, "Hm")]),
        (call(), [Show(Kind.NOTE, 'clock({"zone":"Europe/Rome"})')]),
        (call(name="\x1b]0;x\x07"), [Show(Kind.NOTE, r'\x1b]0;x\x07({"zone":"Europe/Rome"})')]),
        (call(arguments={"text": "x" * 500}), [Show(Kind.NOTE, f'clock({{"text":"{"x" * 151}..)')]),
        (result(), [Answered("c1"), Show(Kind.NOTE, "clock: noon")]),
        (
            result(is_error=True, output="no\nsuch zone"),
            [Answered("c1"), Show(Kind.NOTE, "clock failed: no such zone")],
        ),
        (result(output="x" * 500), [Answered("c1"), Show(Kind.NOTE, f"clock: {'x' * 160}..")]),
        ({"type": "usage", "prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, []),
        (
            {"type": "error", "code": "upstream_timeout", "message": "it fell\nsilent\x9b"},
            [Show(Kind.PROBLEM, r"it fell silent\x9b (upstream_timeout)")],
        ),
        ({"type": "something new", "text": "x"}, []),
        ({"type": "delta", "text": 5}, []),
        ({"no": "type"}, []),
        (ENDED, []),
    ],
)
def test_what_is_shown(payload: dict[str, Any], outputs: list[Output]) -> None:
    assert list(Transcript(RUN).take(event(payload, f"{RUN}.0"))) == outputs


def test_who_approves_sees_the_whole_call() -> None:
    arguments = {"path": "\u202egpj.exe", "text": "x" * 1000 + "  rm"}
    payload = {"type": "approval_request", "call_id": "c1", "name": "write\n", "arguments": arguments}
    [approval] = Transcript(RUN).take(event(payload, f"{RUN}.0"))
    assert isinstance(approval, Approval)
    assert approval.call_id == "c1"
    assert approval.question == rf'allow write\n({{"path":"\u202egpj.exe","text":"{"x" * 1000}  rm"}})?'


@pytest.mark.parametrize("data", [b"[DONE]"])
def test_done_is_no_event(data: bytes) -> None:
    assert Transcript(RUN).take(Event(data, "message", f"{RUN}.0")) == ()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff"])
def test_what_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # as orjson says it
        Transcript(RUN).take(Event(data))


# Which events are new

SAID = numbered({"type": "started"}, delta("a"), delta("b"), delta("c"), ENDED)


@pytest.mark.parametrize("cut", range(len(SAID) + 1))
@pytest.mark.parametrize("back", range(len(SAID) + 1))
def test_a_replay_from_anywhere_adds_what_was_missed(cut: int, back: int) -> None:
    transcript = Transcript(RUN)
    first = shown(transcript, SAID[:cut])
    assert first + shown(transcript, SAID[min(cut, back) :]) == "abc"
    assert transcript.last_event_id == f"{RUN}.4"
    assert transcript.ending is not None


@pytest.mark.parametrize(
    ("event_id", "text"),
    [
        (f"{RUN}.0", "x"),
        (f"{RUN}.7", "x"),
        ("", "x"),
        (f"{RUN}.end", "x"),
        ("run_of_another.0", ""),
        ("run_of_another.end", ""),
        ("0", ""),
        ("elsewhere", "x"),
    ],
)
def test_only_this_run_is_shown(event_id: str, text: str) -> None:
    assert shown(Transcript(RUN), [event(delta("x"), event_id)]) == text


def test_the_cursor() -> None:
    transcript = Transcript(RUN)
    assert transcript.last_event_id is None
    transcript.take(SAID[0])
    assert transcript.last_event_id == f"{RUN}.0"
    transcript.take(snapshot())
    assert transcript.last_event_id == f"{RUN}.snapshot"


# Snapshots


@pytest.mark.parametrize("cut", range(5))
@pytest.mark.parametrize("stored", ["", "a", "ab", "abc", "abcdef"])
def test_a_snapshot_adds_what_was_missed(cut: int, stored: str) -> None:
    """Also where less was stored than shown, as after a kill -9."""
    transcript = Transcript(RUN)
    first = shown(transcript, SAID[:cut])
    assert first + shown(transcript, [snapshot(text_part(stored))]) == max(first, stored, key=len)
    assert shown(transcript, [snapshot(text_part(stored))]) == ""


def test_a_snapshot_of_many_parts() -> None:
    parts = (
        text_part("Why", "reasoning"),
        text_part("Let me see. "),
        call(),
        result(),
        text_part(" not", "reasoning"),
        text_part("It is noon."),
        call(call_id="c2"),
        result(call_id="c2"),
    )
    lines = numbered({"type": "reasoning", "text": "Why no"}, delta("Let me "), call())
    transcript = Transcript(RUN)
    for line in lines:
        transcript.take(line)
    assert transcript.take(snapshot(*parts)) == (
        Show(Kind.TEXT, "see. "),
        Answered("c1"),
        Show(Kind.NOTE, "clock: noon"),
        Show(Kind.REASONING, "t"),
        Show(Kind.TEXT, "It is noon."),
        Show(Kind.NOTE, 'clock({"zone":"Europe/Rome"})'),
        Answered("c2"),
        Show(Kind.NOTE, "clock: noon"),
    )


def test_the_end_after_a_snapshot() -> None:
    transcript = Transcript(RUN)
    transcript.take(SAID[0])
    transcript.take(snapshot())
    transcript.take(event({**ENDED, "status": "interrupted", "stop_reason": "node_lost"}, f"{RUN}.end"))
    assert transcript.ending == Ending("interrupted", "node_lost", None, None)


def test_all_frames_after_a_snapshot() -> None:
    """It was cut off before its end, and the next node has the frames."""
    transcript = Transcript(RUN)
    first = shown(transcript, SAID[:2])
    assert first + shown(transcript, [snapshot(text_part("abcd")), *SAID]) == "abcd"
    transcript.take(event(ENDED, f"{RUN}.{len(SAID)}"))
    assert transcript.ending == Ending("done", None, None, None)


# The last line


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "done, session ses_1"),
        ({"status": "stopped", "stop_reason": "user_stop"}, "stopped (user_stop), session ses_1"),
        ({"timings": {"ttft_ms": None, "duration_ms": 1234.5}}, "done, session ses_1, 1.2 s"),
        (
            {
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
                "timings": {"ttft_ms": 1.0, "duration_ms": 60_000},
            },
            "done, session ses_1, 3 + 4 tokens, 60.0 s",
        ),
        ({"status": "do\x1bne"}, r"do\x1bne, session ses_1"),
    ],
)
def test_the_summary(fields: dict[str, Any], line: str) -> None:
    transcript = Transcript(RUN)
    transcript.take(event({**ENDED, **fields}, f"{RUN}.0"))
    assert transcript.ending is not None
    assert transcript.ending.summary("ses_1") == line


# What a terminal would obey


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("plain text, größer, 🎈", "plain text, größer, 🎈"),
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\nb\rc", "a\nbc"),
        ("\x1b[2Ja", "[2Ja"),
        ("\x1b]52;c;aGk=\x07a", "]52;c;aGk=a"),
        ("\x9b2Ja\x90\x9d\x9c", "2Ja"),
        ("".join(map(chr, range(32))), "\t\n"),
        ("\x7f\x80\x9f\xa0", "\xa0"),
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("größer 🎈", "größer 🎈"),
        (" a\r\n\tb  c ", "a b c"),
        ("\x1b[2J\x9b\x00", r"\x1b[2J\x9b\x00"),
        ("a\u202eb\u200bc", r"a\u202eb\u200bc"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
