"""What becomes of a dead node's runs: the partial answer is taken from its log, saved once, and its end announced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson

from odysseus.answer import Answer, with_stopped_results
from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.streams import Place, Streams
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
        frames, announced = await self._frames(message.id)
        final = await asyncio.to_thread(final_of, message, frames)  # a long log takes a while to read
        if not await self._save(final):
            return
        if not announced:
            await self._announce(run_id, final)
            self._on_ended(message, final)

    async def _frames(self, log_id: str) -> tuple[Sequence[bytes], bool]:
        """Return what the log has, and whether its end is among that. From here on its owner adds nothing to it."""
        frames: list[bytes] = []
        announced = False
        try:
            async with asyncio.timeout(_LOG_S):
                await self._streams.fence(log_id, self._grace_s)
                async for entry in self._streams.history(log_id):
                    frames += entry.frames
                    announced = announced or entry.place in (Place.END, Place.END_OF_LOST)
        except UNREACHABLE as error:
            _log.warning("the log %s can't be read, its checkpoint must do: %r", log_id, error)
        return frames, announced

    async def _announce(self, run_id: str, final: Final) -> None:
        ended = Ended(
            final.status, final.stop_reason, final.message_id, final.finish_reason, final.usage, final.timings
        )
        try:
            await self._streams.end_lost(final.message_id, last_frame_of_lost(run_id, ended), self._grace_s)
        except UNREACHABLE as error:
            _log.warning("the end of run %s can't be told to its subscribers, who will come back: %r", run_id, error)


def final_of(message: Message, frames: Sequence[bytes]) -> Final:
    """Return how *message* ends, of which *frames* are left. If they tell of its end, that is it.

    Where the log has less than the last checkpoint, or nothing, the checkpoint is what there is.
    """
    answer = Answer()
    usage: UsageCount | None = None
    ended: dict[str, Any] | None = None
    for event in Decoder().feed(b"".join(frames)):
        payload: dict[str, Any] = {} if event.data == b"[DONE]" else orjson.loads(event.data)
        match payload.pop("type", None):
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
            case "ended":
                ended = payload
    content, reasoning, parts = answer.content, answer.reasoning, answer.parts()
    if len(content) + len(reasoning) < len(message.content) + len(message.reasoning):
        content, reasoning, parts = message.content, message.reasoning, message.parts
    ending = Ending(StopReason.NODE_LOST)
    if ended is not None:
        ending = Ending(None if ended["stop_reason"] is None else StopReason(ended["stop_reason"]))
    return Final(
        message_id=message.id,
        status=ending.status,
        stop_reason=ending.stop_reason,
        content=content,
        reasoning=reasoning,
        parts=with_stopped_results(parts),
        finish_reason=None if ended is None else ended["finish_reason"],
        usage=usage,
        timings=None if ended is None else ended["timings"],
        events=None if ended is None else len(frames),
        ended_at=now(),
    )
