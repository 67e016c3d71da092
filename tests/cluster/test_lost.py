"""What becomes of a dead node's runs: how they end, that they end once, and what their subscribers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from odysseus.cluster import lost
from odysseus.cluster.entries import Entry, Place
from odysseus.cluster.followed import Followed
from odysseus.cluster.lost import Lost, final_of
from odysseus.cluster.streams import TAKEN, Write
from odysseus.errors import StoreError
from odysseus.events import (
    ApprovalRequest,
    Delta,
    Frames,
    Part,
    Reasoning,
    Started,
    StreamEvent,
    ToolCall,
    ToolResult,
    Usage,
)
from odysseus.messages import Final, Message
from odysseus.sse import Decoder
from odysseus.states import Status, StopReason
from tests.cluster.follower import MESSAGE
from tests.cluster.memory import MemoryStreams
from tests.waiting import soon, until

STARTED = Started("run_1", "ses_1", "msg_1", "chat", "m", detached=True)
CALL = ToolCall("call_1", "clock", {"zone": "UTC"})
RESULT = ToolResult("call_1", "clock", "noon", is_error=False, duration_ms=3.5)
CALL_PART: Part = {"type": "tool_call", "call_id": "call_1", "name": "clock", "arguments": {"zone": "UTC"}}
RESULT_PART: Part = {
    "type": "tool_result",
    "call_id": "call_1",
    "name": "clock",
    "output": "noon",
    "is_error": False,
    "duration_ms": 3.5,
}
STOPPED_PART: Part = {**RESULT_PART, "output": "stopped", "is_error": True, "duration_ms": None}  # type: ignore[typeddict-item]


def text(said: str) -> Part:
    return {"type": "text", "text": said}


def thought(said: str) -> Part:
    return {"type": "reasoning", "text": said}


def encoded(*events: StreamEvent) -> list[bytes]:
    frames = Frames("run_1")
    return [frames.encode(event) for event in (STARTED, *events)]


def message(*parts: Part) -> Message:
    """Return the answer as its last checkpoint has it."""
    said = {"text": "", "reasoning": ""}
    for part in parts:
        if part["type"] in said:
            said[part["type"]] += part["text"]  # type: ignore[typeddict-item]
    return replace(MESSAGE, content=said["text"], reasoning=said["reasoning"], parts=list(parts))


TABLE: dict[str, tuple[Message, list[bytes], list[Part], bool]] = {
    "the log has more than the checkpoint": (
        message(text("Hel")),
        encoded(Delta("Hel"), Delta("lo"), Delta(" \u20ac\n\n")),
        [text("Hello \u20ac\n\n")],
        True,
    ),
    "there is no checkpoint yet": (message(), encoded(Delta("Hello")), [text("Hello")], True),
    "the log has as much": (message(text("Hello")), encoded(Delta("Hello")), [text("Hello")], True),
    "the log has less": (message(text("Hello")), encoded(Delta("Hel")), [text("Hello")], False),
    "the log has less of the reasoning": (
        message(thought("Hm"), text("Hello")),
        encoded(Delta("Hello")),
        [thought("Hm"), text("Hello")],
        False,
    ),
    "the log has the words, and lacks a call": (
        message(text("So:"), CALL_PART, RESULT_PART),
        encoded(Delta("So:")),
        [text("So:"), CALL_PART, RESULT_PART],
        False,
    ),
    "the log is gone": (message(text("Hello")), [], [text("Hello")], False),
    "there is neither": (message(), [], [], False),
    "nothing was said": (message(), encoded(), [], True),
    "everything there is": (
        message(),
        encoded(Reasoning("Hm"), Delta("So:"), ApprovalRequest("call_1", "clock", {}), CALL, RESULT, Delta("noon")),
        [thought("Hm"), text("So:"), CALL_PART, RESULT_PART, text("noon")],
        True,
    ),
    "a tool was at work": (message(), encoded(CALL), [CALL_PART, STOPPED_PART], True),
    "a tool was at work, says the checkpoint": (message(CALL_PART), [], [CALL_PART, STOPPED_PART], False),
}


@pytest.mark.parametrize("case", TABLE)
def test_how_it_ends(case: str) -> None:
    found, frames, parts, whole = TABLE[case]
    final, has_all = final_of(found, frames)
    assert (final.parts, has_all) == (parts, whole)
    for kind, said in (("text", final.content), ("reasoning", final.reasoning)):
        assert said == "".join(part["text"] for part in parts if part["type"] == kind)  # type: ignore[typeddict-item]
    assert (final.message_id, final.status, final.stop_reason) == ("msg_1", Status.INTERRUPTED, StopReason.NODE_LOST)
    assert (final.events, final.usage, final.timings, final.finish_reason) == (None, None, None, None)


def test_the_usage_is_kept() -> None:
    final, _ = final_of(message(), encoded(Delta("Hello"), Usage(3, 2, 5)))
    assert final.usage == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Stage:
    """A store with one answer of a dead node, and its log."""

    def __init__(self, frames: Sequence[bytes] = (), found: Message | None = MESSAGE) -> None:
        self.streams = MemoryStreams()
        self.found = found
        self.fails = 0
        """How many times the store will fail."""
        self.first = True
        """Whether it takes the ending."""
        self.saved: list[Final] = []
        self.ended: list[tuple[Message, Final]] = []
        self.lost = Lost(self.streams, self._answer_of, self._save, lambda *of: self.ended.append(of), grace_s=180)
        self._frames = frames

    async def end(self) -> None:
        if self._frames:
            await self.streams.append([Write("msg_1", 0, self._frames, False, 60)])
        await soon(self.lost.end("run_1"))

    async def _answer_of(self, run_id: str) -> Message | None:
        assert run_id == "run_1"
        if self.fails:
            self.fails -= 1
            raise StoreError("away")
        return self.found

    async def _save(self, final: Final) -> bool:
        self.saved.append(final)
        return self.first

    async def entries(self) -> list[Entry]:
        return [entry async for entry in self.streams.history("msg_1")]


def read(entries: Sequence[Entry]) -> Followed:
    """Return what a reader elsewhere has of the log."""
    followed = Followed(MESSAGE, lambda _: None)
    followed.released = not all(followed.take(entry) for entry in entries)
    return followed


async def test_it_is_saved_and_its_subscribers_are_told() -> None:
    stage = Stage(encoded(Delta("Hel"), Delta("lo")))
    await stage.end()
    [final] = stage.saved
    assert (final.content, stage.ended) == ("Hello", [(MESSAGE, final)])
    followed = read(await stage.entries())
    assert (followed.ended.is_set(), followed.released) == (True, False)
    *before, last = followed.log.read(0, 1 << 20)
    assert before == encoded(Delta("Hel"), Delta("lo"))
    ended, done = Decoder().feed(last)
    assert (ended.last_event_id, done.data) == ("run_1.end", b"[DONE]")
    told = orjson.loads(ended.data)
    assert (told["type"], told["status"], told["stop_reason"], told["message_id"]) == (
        "ended",
        "interrupted",
        "node_lost",
        "msg_1",
    )


async def test_its_late_owner_adds_nothing() -> None:
    stage = Stage(encoded(Delta("Hello")))
    await stage.end()
    assert await stage.streams.append([Write("msg_1", 2, [b"late"], True, 60)]) == [TAKEN]


async def test_what_lacks_some_sends_its_readers_back() -> None:
    stage = Stage(encoded(Delta("Hel")), message(text("Hello")))
    await stage.end()
    assert stage.saved[0].content == "Hello"
    followed = read(await stage.entries())
    assert (followed.ended.is_set(), followed.released) == (False, True)


async def test_who_was_not_first_tells_nothing() -> None:
    stage = Stage(encoded(Delta("Hello")))
    stage.first = False
    await stage.end()
    assert stage.ended == []
    assert [entry.place for entry in await stage.entries()] == [Place.FRAMES, Place.FENCE]


@pytest.mark.parametrize("found", [None, replace(MESSAGE, status=Status.DONE)])
async def test_what_is_gone_or_has_ended_is_left_alone(found: Message | None) -> None:
    stage = Stage(encoded(Delta("Hello")), found)
    await stage.end()
    assert (stage.saved, stage.ended) == ([], [])
    assert [entry.place for entry in await stage.entries()] == [Place.FRAMES]


async def test_without_redis_the_checkpoint_must_do() -> None:
    stage = Stage(found=message(text("Hel")))
    stage.streams.away = True
    await stage.end()
    [final] = stage.saved
    assert (final.content, len(stage.ended)) == ("Hel", 1)


async def test_while_the_store_is_away_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost, "_AGAIN_S", 0.01)
    stage = Stage(encoded(Delta("Hello")))
    stage.fails = 3
    await stage.end()
    assert (len(stage.saved), len(stage.ended), stage.fails) == (1, 1, 0)


async def test_many_are_ended_a_few_at_a_time() -> None:
    at_once, most, go_on = 0, 0, asyncio.Event()

    async def answer_of(_: str) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await go_on.wait()
        at_once -= 1

    stage = Stage()
    ender = Lost(stage.streams, answer_of, stage._save, lambda *_: None, grace_s=180)
    endings = [asyncio.create_task(ender.end(f"run_{number}")) for number in range(30)]
    await until(lambda: at_once)
    await asyncio.sleep(0.05)
    go_on.set()
    await soon(asyncio.gather(*endings))
    assert most == 8
