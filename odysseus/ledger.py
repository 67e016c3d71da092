"""A run's ledger: what happened to it, and when, from its acceptance to its end.

Pure: whoever does a thing writes it down here. A run keeps its ledger in memory; the store gets it with the last save.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from odysseus.states import StopReason

__all__ = ["Event", "Ledger", "entry"]

_KEPT = 100  # of the subscribers' entries: the first so many, and as many of the last

_NOTHING: Mapping[str, Any] = {}
_Line = tuple[int, float, "Event", Mapping[str, Any] | int]


class Event(StrEnum):
    ACCEPTED = "accepted"
    STARTED = "started"
    """Its model has been asked."""
    FIRST_TOKEN = "first_token"
    SUBSCRIBER_JOINED = "subscriber_joined"
    SUBSCRIBER_LEFT = "subscriber_left"
    SUBSCRIBERS_OMITTED = "subscribers_omitted"
    """Stands for entries of subscribers that were too many to keep."""
    STOP_ASKED = "stop_asked"
    UPSTREAM_CLOSED = "upstream_closed"
    SAVED = "saved"
    ENDED = "ended"


def entry(at: datetime, event: Event, **more: Any) -> dict[str, Any]:
    """Return an entry as it is stored and answered: JSON."""
    return {"at": at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"), "event": event, **more}


class Ledger:
    """Entries are small tuples, made into what they say when somebody asks: a thousand runs have one each."""

    __slots__ = ("_count", "_lines", "_omitted", "_owner", "_recent", "_subscribers")

    def __init__(self, owner: str = "") -> None:
        self._owner = owner
        self._count = 0
        self._lines: list[_Line] = []
        self._subscribers = 0
        self._recent: deque[_Line] | None = None  # of subscribers, when there were many
        self._omitted = 0

    def add(self, event: Event, **more: Any) -> None:
        self._lines.append(self._line(event, more or _NOTHING))

    def joined(self) -> int:
        """Write down that a subscriber has come; return the number that tells it from the others."""
        self._subscribers += 1
        self._add_subscriber(Event.SUBSCRIBER_JOINED, self._subscribers)
        return self._subscribers

    def left(self, number: int) -> None:
        self._add_subscriber(Event.SUBSCRIBER_LEFT, number)

    def stop_asked(self, reason: StopReason) -> None:
        """Write down who asked for the stop. Only the run's owner can, so the user's name is the owner's."""
        by = "user" if reason is StopReason.USER_STOP else reason.value
        of_user = bool(self._owner) and reason in (StopReason.USER_STOP, StopReason.REPLACED)
        self.add(Event.STOP_ASKED, by=by, **({"owner": self._owner} if of_user else {}))

    def stop_noticed(self, reason: StopReason) -> None:
        """As `stop_asked`, for a cancel from outside: that closes the model's connection before the run hears of it."""
        self.stop_asked(reason)
        if len(self._lines) > 1 and self._lines[-2][2] is Event.UPSTREAM_CLOSED:
            closed, asked = self._lines[-2:]
            self._lines[-2:] = [(closed[0], closed[1], asked[2], asked[3]), (asked[0], closed[1], closed[2], closed[3])]

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries, oldest first: `at` (RFC 3339), `event`, and what belongs to that event."""
        return [entry(datetime.fromtimestamp(at, UTC), event, **_more(more)) for _, at, event, more in self._in_order()]

    def _in_order(self) -> Iterator[_Line]:
        recent = list(self._recent or ())
        if self._omitted:
            number, at = recent[0][:2]
            recent.insert(0, (number, at, Event.SUBSCRIBERS_OMITTED, {"count": self._omitted}))
        yield from sorted([*self._lines, *recent], key=lambda line: line[0])  # a clock may be set back: not by time

    def _add_subscriber(self, event: Event, number: int) -> None:
        line = self._line(event, number)
        if self._recent is None and sum(isinstance(one[3], int) for one in self._lines) < _KEPT:
            self._lines.append(line)
            return
        if self._recent is None:
            self._recent = deque(maxlen=_KEPT)
        self._omitted += len(self._recent) == _KEPT
        self._recent.append(line)

    def _line(self, event: Event, more: Mapping[str, Any] | int) -> _Line:
        self._count += 1
        return self._count, time.time(), event, more


def _more(more: Mapping[str, Any] | int) -> Mapping[str, Any]:
    return {"subscriber": more} if isinstance(more, int) else more
