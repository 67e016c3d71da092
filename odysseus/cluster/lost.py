"""What becomes of a dead node's runs: the partial answer is taken from its log, saved once, and its end announced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from odysseus.answer import Answer, with_stopped_results
from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.streams import Streams
from odysseus.errors import StoreError
from odysseus.events import Ended, ToolCall, ToolResult, UsageCount, last_frame_of_lost
from odysseus.messages import Final, Message, now
from odysseus.sse import Decoder
from odysseus.states import Ending, Status, StopReason

__all__ = ["Lost", "final_of"]

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_LOG_S = 5.0  # how long a log may take; then the last checkpoint is what there is
_AGAIN_S = 2.0


class Lost:
    def __init__(
        self,
        streams: Streams,
        answer_of: Callable[[str], Awaitable[Message | None]],
        save: Callable[[Final], Awaitable[bool]],
        on_ended: Callable[[Message, Final], None],
        *,
        grace_s: float,
    ) -> None:
        """*save* is the store's compare-and-set; *on_ended* is told of each answer that was ended here."""
        self._streams = streams
        self._answer_of = answer_of
        self._save = save
        self._on_ended = on_ended
        self._grace_s = max(1, round(grace_s))
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def end(self, run_id: str) -> None:
        """End the run, which is ours by now. While the database is away it is tried again; if we die, too, another
        node does it."""
        async with self._turn:
            while True:
                try:
                    await self._end(run_id)
                    return
                except StoreError as error:
                    _log.warning("run %s of a dead node can't be ended yet: %s", run_id, error)
                await asyncio.sleep(_AGAIN_S)

    async def _end(self, run_id: str) -> None:
        message = await self._answer_of(run_id)
        if message is None or message.status is not Status.STREAMING:
            return
        frames = await self._frames(message.id)
        final, whole = await asyncio.to_thread(final_of, message, frames)  # a long log takes a while to read
        if await self._save(final):
            await self._announce(run_id, final, len(frames), whole=whole)
            self._on_ended(message, final)

    async def _frames(self, log_id: str) -> Sequence[bytes]:
        """Return what the log has. From here on its owner adds nothing to it."""
        frames: list[bytes] = []
        try:
            async with asyncio.timeout(_LOG_S):
                await self._streams.fence(log_id, self._grace_s)
                async for entry in self._streams.history(log_id):
                    frames += entry.frames
        except UNREACHABLE as error:
            _log.warning("the log %s can't be read, its checkpoint must do: %r", log_id, error)
        return frames

    async def _announce(self, run_id: str, final: Final, total: int, *, whole: bool) -> None:
        """Append the end to the log, if that has the *whole* answer; else let its readers know that it hasn't."""
        ended = Ended(
            final.status, final.stop_reason, final.message_id, final.finish_reason, final.usage, final.timings
        )
        frames = [last_frame_of_lost(run_id, ended)] if whole else []
        try:
            await self._streams.end_lost(final.message_id, total, frames, self._grace_s)
        except UNREACHABLE as error:
            _log.warning("the end of run %s can't be told to its subscribers, who will come back: %r", run_id, error)


def final_of(message: Message, frames: Sequence[bytes]) -> tuple[Final, bool]:
    """Return how *message* ends, of which *frames* are left, and whether these have all of it.

    They can have less than the last checkpoint, where Redis has lost some, and then the checkpoint is what there is.
    They never have the end, which would have been stored before.
    """
    answer = Answer()
    usage: UsageCount | None = None
    for event in Decoder().feed(b"".join(frames)):
        payload: dict[str, Any] = orjson.loads(event.data)
        match payload.pop("type"):
            case "delta":
                answer.add("text", payload["text"])
            case "reasoning":
                answer.add("reasoning", payload["text"])
            case "tool_call":
                answer.add_tool(ToolCall(**payload))
            case "tool_result":
                answer.add_tool(ToolResult(**payload))
            case "usage":
                usage = UsageCount(**payload)  # type: ignore[typeddict-item]  # as it was encoded
    content, reasoning, parts = answer.content, answer.reasoning, answer.parts()
    sizes = len(content) + len(reasoning), len(parts)
    whole = (
        bool(frames) and sizes[0] >= len(message.content) + len(message.reasoning) and sizes[1] >= len(message.parts)
    )
    if not whole:
        content, reasoning, parts = message.content, message.reasoning, message.parts
    ending = Ending(StopReason.NODE_LOST)
    final = Final(
        message_id=message.id,
        status=ending.status,
        stop_reason=ending.stop_reason,
        content=content,
        reasoning=reasoning,
        parts=with_stopped_results(parts),
        finish_reason=None,
        usage=usage,
        timings=None,
        events=None,
        ended_at=now(),
    )
    return final, whole
