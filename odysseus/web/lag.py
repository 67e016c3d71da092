"""How late the event loop is: a timer that asks to be woken at a time, and looks when it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Lag"]

_PERIOD_S = 0.25


class Lag:
    """Calls *observe* with the seconds by which each wake-up came late, four times a second, until `stop`."""

    def __init__(self, observe: Callable[[float], None]) -> None:
        self._observe = observe
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(_PERIOD_S, self._wake, self._loop.time() + _PERIOD_S)

    def stop(self) -> None:
        self._timer.cancel()

    def _wake(self, due: float) -> None:
        time = self._loop.time()
        self._observe(max(0.0, time - due))
        self._timer = self._loop.call_later(_PERIOD_S, self._wake, time + _PERIOD_S)
