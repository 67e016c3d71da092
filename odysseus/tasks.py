"""An owner for work that must outlive whoever asked for it.

Everything that is started here is held until it has ended, and waited for when the service goes down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

__all__ = ["Tasks", "look_at"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Tasks:
    """Holds background tasks; the loop itself keeps only weak references to them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, _T], *, apart: bool = False) -> asyncio.Task[_T]:
        """Start *work* and hold it until it ends. *apart*: it isn't the business of whoever happens to start it."""
        task = asyncio.get_running_loop().create_task(work, context=Context() if apart else None)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await *work*. A caller that is cancelled leaves at once; the work goes on, held here."""
        task = self.spawn(work)
        task.add_done_callback(look_at)
        return await asyncio.shield(task)

    async def finish(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Await *work* to its end, however often the caller is cancelled meanwhile.

        A cancel isn't lost: it goes on up when the work is done, and the work's own error is then only logged.
        """
        task = self.spawn(work)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as cancel:
                cancelled = cancel
        if cancelled is None:
            return task.result()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("work that outlived its caller failed", exc_info=error)
        raise cancelled

    async def drain(self, limit_s: float) -> None:
        """Wait up to *limit_s* seconds for everything that is held, then cancel the rest and wait for its end."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while self._tasks and (left_s := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)  # what ends may have started more
        for task in (late := set(self._tasks)):
            _log.error("still at work after %s s, cancelled: %r", limit_s, task.get_coro())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)


def look_at(done: asyncio.Future[Any]) -> None:
    """Take notice of how *done* ended, where nobody waits for it any more: asyncio would complain that nobody did."""
    if not done.cancelled():
        done.exception()
