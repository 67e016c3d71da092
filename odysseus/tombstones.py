"""Ids of runs that were stopped before their request arrived. Pure: the time, in seconds, comes from outside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["Tombstones"]

_KEPT_S = 60.0
_MOST = 10_000


class Tombstones:
    """Remembers each id for a minute, and no more than ten thousand of them: the oldest goes first."""

    def __init__(self) -> None:
        self._until: OrderedDict[Hashable, float] = OrderedDict()

    def add(self, run_id: Hashable, now_s: float) -> None:
        while self._until:
            oldest, until = next(iter(self._until.items()))
            if until > now_s and len(self._until) < _MOST:
                break
            del self._until[oldest]
        self._until[run_id] = now_s + _KEPT_S
        self._until.move_to_end(run_id)

    def has(self, run_id: Hashable, now_s: float) -> bool:
        return self._until.get(run_id, now_s) > now_s
