"""Checkpoints: what a kill -9 can't take from an answer that is still growing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from odysseus.tasks import Tasks

__all__ = ["Checkpoints"]

_log = logging.getLogger(__name__)

_EVERY_S = 1.0
_EVERY_CHARS = 2048
_TOGETHER_S = 0.25  # timers meet at multiples of it: what begins at one moment becomes one transaction
_WRITE_S = 5.0
_LONG = 64  # a long answer is written whole each time: past 128 KB, wait for a 64th of it, so that the cost stays sane


class Checkpoints:
    """Calls *write* a second or 2 KB after the last time, whichever comes first, never twice at once.

    The stream never waits for it. A write that fails is tried again a second later, with whatever has come since.
    """

    def __init__(self, write: Callable[[], Awaitable[None]], tasks: Tasks) -> None:
        self._write = write
        self._tasks = tasks
        self._total = 0
        self._unsaved = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._failed = False  # the last write failed: the next one waits for its second, however much comes
        self._closed = False

    def grown(self, chars: int) -> None:
        """The answer has grown by *chars*."""
        self._total += chars
        self._unsaved += chars
        self._schedule()

    def close(self) -> None:
        """Begin no further write. One under way may end when it will: it can't overwrite a message that has ended."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self) -> None:
        if self._closed or self._writing is not None or not self._unsaved:
            return
        if self._unsaved >= max(_EVERY_CHARS, self._total // _LONG) and not self._failed:
            self._begin()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            due = loop.time() + _EVERY_S
            self._timer = loop.call_at(due - due % _TOGETHER_S, self._begin)

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._writing = self._tasks.spawn(self._write_once())

    async def _write_once(self) -> None:
        written, self._unsaved = self._unsaved, 0
        try:
            async with asyncio.timeout(_WRITE_S):
                await self._write()
            self._failed = False
        except asyncio.CancelledError:
            self.close()
            raise
        except Exception as error:
            _log.warning("a checkpoint failed: %r", error)
            self._unsaved += written
            self._failed = True
        self._writing = None
        self._schedule()
