"""The two clocks over a run that is being pulled: one since its last frame, one since its start."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from odysseus.replay import Frame
from odysseus.run import Limits, Run
from odysseus.states import StopReason

__all__ = ["watchdogs"]


@contextmanager
def watchdogs(run: Run[Frame], limits: Limits) -> Iterator[None]:
    """Ask *run* to end when it hits one of the limits, until the block is left."""
    loop = asyncio.get_running_loop()
    idle: asyncio.TimerHandle

    def look() -> None:
        nonlocal idle
        due = run.last_frame_at + limits.idle_timeout_s
        if loop.time() >= due:
            run.ask(StopReason.IDLE_TIMEOUT)
        else:  # one timer a run, moved when it fires, not one a frame
            idle = loop.call_at(due, look)

    run.last_frame_at = loop.time()
    idle = loop.call_later(limits.idle_timeout_s, look)
    wall = loop.call_later(limits.wall_clock_timeout_s, run.ask, StopReason.WALL_CLOCK_TIMEOUT)
    try:
        yield
    finally:
        idle.cancel()
        wall.cancel()
