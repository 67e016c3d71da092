"""The verdict finds what is broken in records that are made up, and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import orjson
import pytest

from odysseus.sse import encode
from tests.faults.verdict import Row, RunSeen, Watched, verdict

SAID = "one two three "
STORED = Row("s", "assistant", "done", None, SAID, "run-1", "m")
ASKED = Row("s", "user", "done", None, "prompt", None, "u")
RECEIPT = {"stopped": True, "run_id": "run-1", "status": "done", "message_id": "m", "chars": len(SAID)}


def frame(seq: int | str | None, kind: str, **fields: object) -> bytes:
    return encode(orjson.dumps({"type": kind, **fields}), None if seq is None else f"run-1.{seq}")


ENDED = {"status": "done", "stop_reason": None, "message_id": "m"}
WHOLE = [
    frame(0, "started"),
    *(frame(seq, "delta", text=f"{word} ") for seq, word in enumerate(SAID.split(), 1)),
    frame(4, "ended", **ENDED),
    encode(b"[DONE]"),
]
SNAPSHOT = [frame("snapshot", "snapshot", content=SAID), frame("end", "ended", **ENDED), encode(b"[DONE]")]


def watched(frames: Sequence[bytes], *, left: bool = False) -> Watched:
    watched = Watched("run-1", left=left)
    for each in frames:
        watched.take(each)
    return watched


def seen(*streams: Watched, replay: Sequence[bytes] = WHOLE) -> RunSeen:
    return RunSeen(
        run_id="run-1",
        prompt="prompt",
        said=SAID,
        accepted=True,
        session_id="s",
        asked=1,
        watched=list(streams),
        replay=watched(replay),
    )


GOOD: dict[str, Sequence[bytes]] = {
    "uncut": WHOLE,
    "a snapshot": SNAPSHOT,
    "begun anew": [*WHOLE[:3], *WHOLE],
    "a snapshot in the middle": [*WHOLE[:3], frame("snapshot", "snapshot", content="one two "), *WHOLE[3:]],
    "begun anew behind a snapshot": [*WHOLE[:2], *SNAPSHOT[:1], *WHOLE],
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("replay", [WHOLE, SNAPSHOT], ids=["replay", "no replay"])
def test_nothing_is_broken(name: str, replay: Sequence[bytes]) -> None:
    assert verdict([seen(watched(GOOD[name]), replay=replay)], [ASKED, STORED], 0) == []


def test_who_left_has_a_beginning() -> None:
    run = seen(watched(WHOLE[:3], left=True), watched([], left=True))
    assert verdict([run], [ASKED, STORED], 0) == []
    lost = replace(STORED, status="interrupted", stop_reason="node_lost", content="one ")
    told = [*WHOLE[:2], frame(2, "ended", status="interrupted", stop_reason="node_lost", message_id="m"), WHOLE[-1]]
    assert verdict([seen(watched(WHOLE[:3], left=True), replay=told)], [ASKED, lost], 0) == []


def test_a_stream_is_followed_like_an_event_source() -> None:
    stream = watched(WHOLE[:3])
    assert (stream.last_event_id, stream.text) == ("run-1.2", "one two ")
    stream.take(SNAPSHOT[0])
    assert (stream.last_event_id, stream.text, stream.frames) == ("run-1.snapshot", SAID, {})
    stream.take(SNAPSHOT[1])
    assert (stream.last_event_id, stream.over) == ("run-1.end", False)


BAD_STREAMS: dict[str, tuple[Watched, str]] = {
    "a gap": (watched([*WHOLE[:2], *WHOLE[3:]]), "got frame 3 where 2 should come"),
    "a frame twice": (watched([*WHOLE[:3], *WHOLE[2:]]), "got frame 2 where 3 should come"),
    "no beginning": (watched(WHOLE[1:]), "got frame 1 where 0 should come"),
    "another run's": (watched([*WHOLE[:2], encode(b'{"type":"delta"}', "run-2.2")]), "got a frame of run-2"),
    "no end": (watched(WHOLE[:-2]), "never came to an end"),
    "another end": (
        watched([*WHOLE[:4], frame(4, "ended", status="stopped", stop_reason="user_stop", message_id="m"), WHOLE[-1]]),
        "was told ('stopped'",
    ),
    "other bytes": (watched([WHOLE[0].replace(b'"started"', b'"started" '), *WHOLE[1:]]), "other bytes"),
    "another text": (watched([*WHOLE[:3], frame(3, "delta", text="three"), *WHOLE[4:]]), "13 characters, stored are"),
    "another snapshot": (
        watched([frame("snapshot", "snapshot", content="one"), *SNAPSHOT[1:]]),
        "3 characters, stored are",
    ),
    "left with something else": (watched([WHOLE[0], frame(1, "delta", text="two")], left=True), "left with 'two'"),
}


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_a_broken_stream(name: str) -> None:
    stream, problem = BAD_STREAMS[name]
    assert any(problem in broken for broken in verdict([seen(stream)], [ASKED, STORED], 0))
    assert any("subscriber 1" in broken for broken in verdict([seen(watched(WHOLE), stream)], [ASKED, STORED], 0))


def test_nothing_more_before_an_end() -> None:
    stream = watched(WHOLE[:3])
    stream.nothing_more()
    [first, *_] = verdict([seen(stream)], [ASKED, STORED], 0)
    assert "nothing more before it was told of an end" in first
    stream = watched(WHOLE[:5])
    stream.nothing_more()
    assert verdict([seen(stream)], [ASKED, STORED], 0) == []


BAD_ROWS: dict[str, tuple[Sequence[Row], str]] = {
    "lost": ([], "has 0 messages and 0 answers"),
    "no answer": ([ASKED], "has 1 messages and 0 answers"),
    "saved twice": ([ASKED, STORED, replace(STORED, message_id="m2")], "has 1 messages and 2 answers"),
    "asked twice": ([ASKED, replace(ASKED, message_id="u2"), STORED], "has 2 messages and 1 answers"),
    "streams for ever": ([ASKED, replace(STORED, status="streaming")], "message m of run-1 still streams"),
    "cut short": ([ASKED, replace(STORED, content="one ")], "is done with 4 of 14 characters"),
    "something else": ([ASKED, replace(STORED, content="two ")], "isn't what its model said"),
    "nobody's": ([ASKED, STORED, replace(STORED, run_id="run-2")], "nobody asked for run-2"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_broken_rows(name: str) -> None:
    rows, problem = BAD_ROWS[name]
    assert any(problem in broken for broken in verdict([seen()], rows, 0))


BAD_RUNS: dict[str, tuple[Callable[[RunSeen], object], str]] = {
    "paid twice": (lambda run: setattr(run, "asked", 2), "its model was asked 2 times"),
    "active": (lambda run: setattr(run, "is_active", True), "is active for ever"),
    "a receipt that lies": (lambda run: run.receipts.append(RECEIPT | {"chars": 3}), "its stop told"),
    "a replay with a gap": (lambda run: setattr(run, "replay", watched(WHOLE[1:])), "the replay got frame 1"),
    "no replay": (lambda run: setattr(run, "replay", Watched("run-1")), "the replay never came to an end"),
    "failed": (lambda run: setattr(run, "refusal", "500 internal_error"), "was refused with 500"),
}


@pytest.mark.parametrize("name", BAD_RUNS)
def test_a_broken_run(name: str) -> None:
    spoil, problem = BAD_RUNS[name]
    run = seen(watched(WHOLE))
    run.receipts.append(RECEIPT)
    assert verdict([run], [ASKED, STORED], 0) == []
    spoil(run)
    assert any(problem in broken for broken in verdict([run], [ASKED, STORED], 0))


def test_what_was_refused_has_not_happened() -> None:
    run = RunSeen("run-1", "prompt", SAID, refusal="409 busy")
    assert verdict([run], [], 0) == []
    assert verdict([run], [ASKED, STORED], 0) == ["run-1: has 1 messages and 1 answers, not 0 each"]


def test_every_request_is_answered() -> None:
    """Those who ask don't give up, and in the end all is healed."""
    run = RunSeen("run-1", "prompt", SAID)
    assert verdict([run], [], 0) == ["run-1: was never answered; has 0 messages and 0 answers"]
    assert verdict([run], [ASKED, STORED], 0) == ["run-1: was never answered; has 1 messages and 1 answers"]


DELETED = {
    "unseen": [],
    "seen whole": [watched(WHOLE)],
    "left": [watched(WHOLE[:3], left=True)],
}


@pytest.mark.parametrize("name", DELETED)
def test_a_deleted_session(name: str) -> None:
    run = seen(*DELETED[name])
    run.deleted = True
    assert verdict([run], [], 0) == []
    assert verdict([run], [ASKED, STORED], 0) == ["run-1: was deleted, and 2 messages are stored"]
    later = [replace(row, session_id="another") for row in (ASKED, STORED)]
    assert verdict([run], later, 0) == ["run-1: was deleted, and 2 messages are stored"]
    run.unanswered = 1
    assert verdict([run], later, 0) == []
    assert verdict([run], [ASKED], 0) == ["run-1: was deleted, and 1 messages are stored"]


def test_who_watches_what_is_deleted() -> None:
    run = seen(watched(WHOLE[:2]), watched([WHOLE[0], frame(1, "delta", text="two "), WHOLE[-1]]), watched(WHOLE[1:]))
    run.deleted = True
    assert verdict([run], [], 0) == [
        "run-1: subscriber 0 never came to an end",
        "run-1: subscriber 1 got 'two ', which its model didn't say",
        "run-1: subscriber 2 got frame 1 where 0 should come",
    ]


def test_a_direct_run_has_no_replay() -> None:
    run = replace(seen(watched(WHOLE)), direct=True, replay=None)
    assert verdict([run], [ASKED, STORED], 0) == []


def test_a_request_that_stays_open() -> None:
    assert verdict([], [], 2) == ["2 requests to models are still open"]
