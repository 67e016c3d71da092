from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.events import (
    Delta,
    Ended,
    Error,
    Frames,
    Reasoning,
    Snapshot,
    Started,
    StreamEvent,
    Usage,
    snapshot_frames,
)
from odysseus.sse import Decoder
from odysseus.states import Ending, Status, StopReason

DONE = b"data: [DONE]\n\n"
COMPLETE = Ended(
    status=Status.DONE,
    stop_reason=None,
    message_id="msg_1",
    finish_reason="stop",
    usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    timings={"ttft_ms": 12.5, "duration_ms": 80.0},
)
COMPLETE_JSON = (
    b'{"type":"ended","status":"done","stop_reason":null,"message_id":"msg_1","finish_reason":"stop",'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},'
    b'"timings":{"ttft_ms":12.5,"duration_ms":80.0}}'
)
PARTIAL = Snapshot(
    content="Hel",
    reasoning="Hm",
    parts=[{"type": "reasoning", "text": "Hm"}, {"type": "text", "text": "Hel"}],
    status=Status.STOPPED,
)
PARTIAL_JSON = (
    b'{"type":"snapshot","content":"Hel","reasoning":"Hm",'
    b'"parts":[{"type":"reasoning","text":"Hm"},{"type":"text","text":"Hel"}],"status":"stopped"}'
)

WIRE: list[tuple[StreamEvent, bytes]] = [
    (
        Started("run_1", "ses_1", "msg_1", "chat", "demo", True),
        b'{"type":"started","run_id":"run_1","session_id":"ses_1","message_id":"msg_1","mode":"chat","model":"demo",'
        b'"detached":true}',
    ),
    (Delta("Hel"), b'{"type":"delta","text":"Hel"}'),
    (Delta('a\r\n"b"\n\n'), b'{"type":"delta","text":"a\\r\\n\\"b\\"\\n\\n"}'),
    (Delta("\u00e4\u2028\U0001f6a2"), '{"type":"delta","text":"\u00e4\u2028\U0001f6a2"}'.encode()),
    (Reasoning("Hm"), b'{"type":"reasoning","text":"Hm"}'),
    (Usage(3, 2, 5), b'{"type":"usage","prompt_tokens":3,"completion_tokens":2,"total_tokens":5}'),
    (PARTIAL, PARTIAL_JSON),
    (
        Error("upstream_timeout", "the model fell silent"),
        b'{"type":"error","code":"upstream_timeout","message":"the model fell silent"}',
    ),
    (COMPLETE, COMPLETE_JSON),
    (
        Ended(Status.STOPPED, StopReason.USER_STOP, "msg_1", None, None, None),
        b'{"type":"ended","status":"stopped","stop_reason":"user_stop","message_id":"msg_1","finish_reason":null,'
        b'"usage":null,"timings":null}',
    ),
    (
        Ended(Status.ERROR, StopReason.UPSTREAM_ERROR, "msg_1", None, None, {"ttft_ms": None, "duration_ms": 1.5}),
        b'{"type":"ended","status":"error","stop_reason":"upstream_error","message_id":"msg_1","finish_reason":null,'
        b'"usage":null,"timings":{"ttft_ms":null,"duration_ms":1.5}}',
    ),
]


@pytest.mark.parametrize(("event", "json"), WIRE, ids=[event.type for event, _ in WIRE])
def test_an_event_on_the_wire(event: StreamEvent, json: bytes) -> None:
    assert Frames("run_1").encode(event) == b"id: run_1.0\ndata: " + json + b"\n\n"


def test_events_are_numbered_without_a_gap() -> None:
    frames = Frames("run_1")
    for seq in range(12):
        assert frames.count == seq
        assert frames.encode(Delta("x")).startswith(b"id: run_1.%d\ndata: " % seq)


def test_the_last_frame_closes_the_stream() -> None:
    frames = Frames("run_1")
    frames.encode(Delta("x"))
    assert frames.encode_last(COMPLETE) == b"id: run_1.1\ndata: " + COMPLETE_JSON + b"\n\n" + DONE
    assert frames.count == 2


def test_snapshot_frames() -> None:
    assert snapshot_frames("run_1", PARTIAL, COMPLETE) == (
        b"id: run_1.snapshot\ndata: " + PARTIAL_JSON + b"\n\nid: run_1.end\ndata: " + COMPLETE_JSON + b"\n\n" + DONE
    )


@settings(deadline=None)
@given(st.lists(st.text()), st.sampled_from([None, *StopReason]))
def test_any_text_comes_through(texts: list[str], reason: StopReason | None) -> None:
    """Whatever a model writes, the stream decodes to it: no text can end a line or an event."""
    frames = Frames("run_1")
    ending = Ending(reason)
    stream = b"".join(frames.encode(Delta(text)) for text in texts)
    stream += frames.encode_last(Ended(ending.status, ending.stop_reason, "msg_1", None, None, None))
    *deltas, ended, done = Decoder().feed(stream)
    assert [orjson.loads(delta.data)["text"] for delta in deltas] == texts
    assert [event.last_event_id for event in (*deltas, ended)] == [f"run_1.{seq}" for seq in range(len(texts) + 1)]
    assert (orjson.loads(ended.data)["stop_reason"], done.data) == (reason, b"[DONE]")
