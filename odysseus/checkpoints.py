"""Checkpoints: what a kill -9 can't take from an answer that is still growing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

__all__ = ["Checkpoints"]

_log = logging.getLogger(__name__)

_EVERY_S = 1.0
_EVERY_CHARS = 2048
_TOGETHER_S = 0.25  # timers meet at multiples of it: what begins at one moment becomes one transaction
_LONG = 64  # a long answer is written whole each time: past 128 KB, wait for a 64th of it, so that the cost stays sane


class Checkpoints:
    """Calls *write* a second or 2 KB after the last time, whichever comes first, never twice at once. What it returns
    must be done in the end, one way or the other.

    The stream never waits for it. A write that fails is tried again a second later, with whatever has come since.
    """

    def __init__(self, write: Callable[[], asyncio.Future[None]]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._total = 0
        self._unsaved = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._written = 0  # by the write under way
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
        self._cancel_timer()

    def _schedule(self) -> None:
        if self._closed or self._writing is not None or not self._unsaved:
            return
        if self._unsaved >= max(_EVERY_CHARS, self._total // _LONG) and not self._failed:
            self._begin()
        elif self._timer is None:
            due = self._loop.time() + _EVERY_S
            self._timer = self._loop.call_at(due - due % _TOGETHER_S, self._begin)

    def _begin(self) -> None:
        self._cancel_timer()
        self._written, self._unsaved = self._unsaved, 0
        self._writing = self._write()
        self._writing.add_done_callback(self._end)

    def _end(self, writing: asyncio.Future[None]) -> None:
        self._writing = None
        if writing.cancelled():
            self.close()  # the service goes down
            return
        problem = writing.exception()
        self._failed = problem is not None
        if problem is not None:
            _log.warning("a checkpoint failed: %r", problem)
            self._unsaved += self._written
        self._schedule()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
