"""How often each key may come: token buckets. Pure: the time, in seconds, comes from outside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

__all__ = ["Rates"]

_MOST = 10_000
_ROUNDING = 1e-9  # what sums of floats may lack


class Rates:
    """Lets each key through *per_minute* times a minute, evenly or in a burst: a minute's worth is saved up.

    It remembers no more than *most* keys: the one that came least recently is forgotten, and has a full bucket again.
    """

    def __init__(self, per_minute: int, most: int = _MOST) -> None:
        self.per_minute = per_minute
        self.refused = 0
        """How often somebody came too often, since the start."""
        self._per_s = per_minute / 60
        self._most = most
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        """What was in a key's bucket, and when; the key that came last is the last one."""

    def take(self, key: Hashable, now_s: float) -> float:
        """Let *key* through and return 0, or refuse it and return after how many seconds it may come.

        A refusal costs nothing, so whoever waits as long as they were told is let through.
        """
        held, at_s = self._buckets.get(key, (float(self.per_minute), now_s))
        held = min(self.per_minute, held + (now_s - at_s) * self._per_s)
        allowed = held >= 1 - _ROUNDING
        self._buckets[key] = (held - 1 if allowed else held), now_s
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if allowed:
            return 0.0
        self.refused += 1
        return (1 - held) / self._per_s
