"""A copy of another node's run, made of its log's entries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from odysseus.cluster.entries import START, Entry, Place
from odysseus.feed import Feed
from odysseus.messages import Message

__all__ = ["BEHIND_S", "Followed"]

BEHIND_S = 2.0
"""Longer than a copy can be behind: it is some milliseconds."""

_LONGEST_SEQ = 18  # digits


class Followed(Feed[bytes]):
    """A run of another node, as far as its log has come here."""

    def __init__(self, message: Message, on_watched: Callable[[Followed], None]) -> None:
        assert message.run_id is not None
        super().__init__(message.run_id, message.session_id)
        self.message = message
        """The answer that the run makes, as it was stored when the copy was begun."""
        self.cursor = START
        self._numbered = 0
        self.suspect = False  # was found to have ended, when its log had no end yet
        self._on_watched = on_watched

    @property
    def numbered(self) -> int:
        return self._numbered  # the end of a lost node's run has none

    def joined(self) -> int:
        number = super().joined()
        self._on_watched(self)
        return number

    def left(self, number: int) -> None:
        super().left(number)
        self._on_watched(self)

    async def reach(self, last_event_id: str | None) -> None:
        """Wait a moment for the frame that somebody has seen already: its owner was quicker than this copy."""
        named, _, seq = (last_event_id or "").rpartition(".")
        if named == self.id and seq.isascii() and seq.isdigit() and len(seq) < _LONGEST_SEQ:
            try:
                async with asyncio.timeout(BEHIND_S):
                    while self._numbered <= int(seq) and not self.over:
                        await self.changed()
            except TimeoutError:
                pass  # it was never given out, or Redis is away: the client gets all there is

    def take(self, entry: Entry) -> bool:
        """Add what *entry* brings; False when frames are missing."""
        self.cursor = entry.id
        if entry.place is Place.FRAMES:
            start = entry.total - len(entry.frames)
            if start > self._numbered:
                return False
            for frame in entry.frames[self._numbered - start :]:
                self.append(frame)
            self._numbered = max(self._numbered, entry.total)
        elif entry.place is not Place.FENCE and not self.ended.is_set():
            lacking = entry.place is Place.END_OF_LOST and not entry.frames
            if lacking or entry.total != self._numbered:  # or we have more: Redis had lost it, and nobody gave it back
                return False
            for frame in entry.frames:
                self.append(frame)
            self.log.close()
            self.ended.set()
            self.wake()
        return True
