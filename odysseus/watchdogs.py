"""The clocks over a run that is being pulled: since its last frame, since its start, since anybody watched it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from odysseus.replay import Frame
from odysseus.run import Limits, Run
from odysseus.states import StopReason

__all__ = ["watchdogs"]


@contextmanager
def watchdogs(run: Run[Frame], limits: Limits) -> Iterator[None]:
    """Ask *run* to end when it hits one of the limits, until the block is left."""
    time = asyncio.get_running_loop().time
    started_at = run.last_frame_at = run.unwatched_since = time()
    with ExitStack() as clocks:

        def watch(reason: StopReason, limit_s: float, since: Callable[[], float]) -> None:
            clocks.callback(_Clock(limit_s, since, lambda: run.ask(reason)).stop)

        watch(StopReason.IDLE_TIMEOUT, limits.idle_timeout_s, lambda: run.last_frame_at)
        watch(StopReason.WALL_CLOCK_TIMEOUT, limits.wall_clock_timeout_s, lambda: started_at)
        if limits.unattended_limit_s is not None:
            watched = StopReason.UNATTENDED, limits.unattended_limit_s  # a direct run ends with its client anyway
            watch(*watched, lambda: time() if run.watched or not run.detached else run.unwatched_since)
        yield


class _Clock:
    """Calls *ring*, once, when *limit_s* have passed since the moment that *since* returns.

    That moment moves, as with each frame. The timer is moved only when it fires: to do it each time would cost more
    than the frame.
    """

    def __init__(self, limit_s: float, since: Callable[[], float], ring: Callable[[], None]) -> None:
        self._limit_s, self._since, self._ring = limit_s, since, ring
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(since() + limit_s, self._look)

    def _look(self) -> None:
        due = self._since() + self._limit_s
        if self._loop.time() >= due:
            self._ring()
        else:
            self._timer = self._loop.call_at(due, self._look)

    def stop(self) -> None:
        self._timer.cancel()
