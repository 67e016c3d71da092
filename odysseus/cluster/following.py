"""Runs of other nodes, followed here: one reader for all of them, one copy of each, however many watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.entries import START, Entry, log_entry
from odysseus.cluster.followed import BEHIND_S, Followed
from odysseus.cluster.streams import Streams, inbox_of, log_of
from odysseus.errors import StoreError
from odysseus.messages import Message, now
from odysseus.states import Status
from odysseus.tasks import Tasks

__all__ = ["Following"]

_log = logging.getLogger(__name__)

_BLOCK_MS = 2000
_LATE_S = 3.0  # beyond that time, an answer won't come: the connection is dead
_PAUSE_S = 0.5  # after a failure
_REST_S = 20e-6  # after each read, for each run: a read names all of them, and would be made for every token of any
_LINGER_S = 10.0  # of a copy that nobody reads: clients come back
_LOOK_S = 5.0  # between two looks whether what stands still has ended without a word


class Following:
    def __init__(
        self,
        streams: Streams,
        tasks: Tasks,
        owners: Callable[[Collection[str]], Awaitable[Mapping[str, Any]]],
        on_letter: Callable[[bytes], None],
        on_watched: Callable[[Followed], None],
    ) -> None:
        """*owners* returns which of some runs live, by their ids; *on_letter* takes what comes into the inbox;
        *on_watched* is told when the number of somebody's subscribers has changed."""
        self.reached = False
        """Redis has answered the last time."""
        self.errors = 0
        """Reads that failed, and were made again."""
        self._streams = streams
        self._tasks = tasks
        self._owners = owners
        self._on_letter = on_letter
        self._on_watched = on_watched
        self._node = ""
        self._inbox_cursor = START
        self._followed: dict[str, Followed] = {}  # by log id
        self._opening: dict[str, asyncio.Task[Followed | None]] = {}  # by log id

    def __len__(self) -> int:
        """How many runs are followed here."""
        return len(self._followed)

    def listen(self, node: str) -> None:
        """Read *node*'s inbox from now on."""
        self._rearrange()  # what reads, reads the old one's
        self._node, self._inbox_cursor = node, START

    async def follow(self, message: Message) -> Followed | None:
        """Return the run that makes *message*, with all there is of it; None when it has ended and its log is gone."""
        if (followed := self._followed.get(message.id)) is not None:
            return followed
        if message.id not in self._opening:
            self._opening[message.id] = self._tasks.spawn(self._open(message))
        return await asyncio.shield(self._opening[message.id])

    async def _open(self, message: Message) -> Followed | None:
        followed = Followed(message, self._on_watched)
        try:
            try:
                async with asyncio.timeout(_LATE_S):
                    whole = await self._catch_up(followed)
            except UNREACHABLE:
                whole = True  # as far as anybody knows: if the run is live, the reader goes on from there
            if not whole:
                return None
            self._followed[message.id] = followed
            followed.on_unwatched = lambda: self._linger(followed)
            self._linger(followed)
            if not followed.ended.is_set():
                self._rearrange()
            if message.status is not Status.STREAMING and not await self._ends_soon(followed):
                self._give_up(followed)  # others may have joined it meanwhile
                return None
            return followed
        finally:
            del self._opening[message.id]

    async def _catch_up(self, followed: Followed) -> bool:
        """Return whether nothing is missing of what there is."""
        async for entry in self._streams.history(followed.message.id, followed.cursor):
            if not followed.take(entry):
                return False
        return True

    async def _ends_soon(self, followed: Followed) -> bool:
        """Wait a moment for the end of the log, if there is any of it: the answer may have been stored just before."""
        just_now = (
            followed.message.ended_at is not None and (now() - followed.message.ended_at).total_seconds() < BEHIND_S
        )
        try:
            async with asyncio.timeout(BEHIND_S):
                while (just_now or len(followed.log)) and not followed.over:
                    await followed.changed()
        except TimeoutError:
            pass
        return followed.ended.is_set()

    def _linger(self, followed: Followed) -> None:
        asyncio.get_running_loop().call_later(_LINGER_S, self._forget_unwatched, followed)

    def _forget_unwatched(self, followed: Followed) -> None:
        if not followed.subscribers and self._followed.get(followed.message.id) is followed:
            del self._followed[followed.message.id]

    def _give_up(self, followed: Followed) -> None:
        """Let its readers come back, to whatever there is of it then."""
        if self._followed.get(followed.message.id) is followed:
            del self._followed[followed.message.id]
        followed.release()

    def all(self) -> Sequence[Followed]:
        return tuple(self._followed.values())

    def release_all(self) -> None:
        for followed in self.all():
            self._give_up(followed)

    def forget_session(self, session_id: str) -> None:
        for followed in self.all():
            if followed.session_id == session_id:
                self._give_up(followed)

    # The reader

    def _rearrange(self) -> None:
        """Interrupt the read under way, which doesn't know of what came since it began."""
        if self._node:
            self._tasks.spawn(self._wake(self._node), apart=True)

    async def _wake(self, node: str) -> None:
        try:
            await self._streams.send(node, b"")
        except UNREACHABLE:
            pass  # the reader fares no better, and begins anew

    async def read(self) -> None:
        """Read what comes, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_BLOCK_MS / 1000 + _LATE_S):
                    found = await self._streams.read(self._cursors(), _BLOCK_MS)
            except UNREACHABLE as error:
                self.reached = False
                self.errors += 1
                _log.info("the runs of other nodes can't be read: %r", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            self.reached = True
            logs = {log_of(log_id): followed for log_id, followed in self._followed.items()}
            for key, entries in found:
                if key == inbox_of(self._node):
                    self._take_letters(entries)
                elif (followed := logs.get(key)) is not None:
                    self._take(followed, [log_entry(*entry) for entry in entries])
            await asyncio.sleep(len(self._followed) * _REST_S)

    def _cursors(self) -> dict[str, str]:
        cursors = {inbox_of(self._node): self._inbox_cursor}
        for log_id, followed in self._followed.items():
            if not followed.ended.is_set():
                cursors[log_of(log_id)] = followed.cursor
        return cursors

    def _take(self, followed: Followed, entries: list[Entry]) -> None:
        for entry in entries:
            if not followed.take(entry):
                self._give_up(followed)
                return

    def _take_letters(self, entries: Any) -> None:
        for entry_id, fields in entries:
            self._inbox_cursor = entry_id.decode()
            if letter := fields.get(b"l"):
                self._on_letter(letter)

    async def look(self) -> None:
        """Look, until cancelled, for runs that have ended without an end in their logs: Redis may have lost it."""
        while True:
            await asyncio.sleep(_LOOK_S)
            time = asyncio.get_running_loop().time()
            still = [
                followed
                for followed in self._followed.values()
                if not followed.ended.is_set() and time - followed.last_frame_at > _LOOK_S
            ]
            if still:
                await self._look_at(still)

    async def _look_at(self, still: Collection[Followed]) -> None:
        try:
            live = await self._owners([followed.id for followed in still])
        except StoreError:
            return
        for followed in still:
            if followed.id in live:
                followed.suspect = False
            elif not followed.suspect:  # its end may be on the way
                followed.suspect = True
            elif not followed.ended.is_set():
                self._give_up(followed)
