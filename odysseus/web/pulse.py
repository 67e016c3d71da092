"""Pings for every open stream, from one timer: a task a stream would be a sixth of what a subscriber costs."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Pulse"]

_SLOTS = 8  # of an interval; each has its share of the streams, so that they aren't all pinged at once
_SOONER = 0.95  # so a vanished client is noticed within PING_INTERVAL_S + SEND_TIMEOUT_S, timers' slack included


class Pinged(Protocol):
    def ping(self) -> None:
        """Keep the connection alive. Neither waits nor raises."""


class Pulse:
    """Pings each stream between `add` and `discard`, at most *interval_s* after the last time."""

    def __init__(self, interval_s: float) -> None:
        self._tick_s = interval_s * _SOONER / _SLOTS
        self._slots: list[set[Pinged]] = [set() for _ in range(_SLOTS)]
        self._at = 0  # the slot whose turn is next
        self._timer: asyncio.TimerHandle | None = None

    def add(self, stream: Pinged) -> None:
        self._slots[self._at - 1].add(stream)  # the last one to have its turn
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)

    def discard(self, stream: Pinged) -> None:
        for slot in self._slots:
            slot.discard(stream)

    def _tick(self) -> None:
        for stream in tuple(self._slots[self._at]):
            stream.ping()
        self._at = (self._at + 1) % _SLOTS
        alive = any(self._slots)
        self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick) if alive else None
