"""The owner's side of the logs: what grows here is written to Redis, in few large writes, and nobody waits for it.

For the run, Redis is one more subscriber: a cursor into its log. An outage leaves the cursor where it is; what Redis
has lost, it is given again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.streams import ENDED, TAKEN, Streams, Write
from odysseus.feed import Feed

__all__ = ["Mirror"]

_log = logging.getLogger(__name__)

_GATHER_S = 0.01  # what comes so soon after a frame goes with it
_LOOK_S = 5.0  # between two looks at the logs of silent runs
_RUNS = 100  # in one round trip
_WRITE_BYTES = 64 * 1024  # of one run in one round trip, unless one frame alone is longer
_PAUSES_S = (0.1, 0.2, 0.5, 1.0)  # between attempts while Redis is away; the last one stays


@dataclass(eq=False, slots=True)
class _Mirrored:
    feed: Feed[bytes]
    log_id: str
    note: Callable[[_Mirrored], None]
    count: int = 0
    """How many frames Redis has."""

    def grown(self) -> None:
        """Its log has, or may have, what Redis hasn't."""
        self.note(self)


class Mirror:
    def __init__(
        self, streams: Streams, on_taken: Callable[[Feed[bytes]], None], *, live_s: float, grace_s: float
    ) -> None:
        """*on_taken* is told of a run that another node has ended. A log is kept for *live_s* after its last frame
        while it has no end, and *grace_s* after it."""
        self.behind = 0
        """How many runs wait to be written, as of now."""
        self.failing = False
        """Whether the last write failed, and is being tried again."""
        self.errors = 0
        """Writes that Redis didn't take, and that were tried again."""
        self._streams = streams
        self._on_taken = on_taken
        self._live_s, self._grace_s = max(1, round(live_s)), max(1, round(grace_s))
        self._live: set[_Mirrored] = set()  # those whose ends Redis hasn't
        self._grown: set[_Mirrored] = set()
        self._woken = asyncio.Event()
        self._written = asyncio.Event()  # set while nothing waits
        self._written.set()

    def add(self, feed: Feed[bytes], log_id: str) -> None:
        """Write *feed* to the log named *log_id*, from its first frame to its end."""
        mirrored = _Mirrored(feed, log_id, self._note)
        self._live.add(mirrored)
        mirrored.grown()

    async def look(self) -> None:
        """Look, until cancelled, after the logs of runs that say nothing: Redis may have lost them."""
        while True:
            await asyncio.sleep(_LOOK_S)
            time = asyncio.get_running_loop().time()
            for mirrored in self._live:
                if time - mirrored.feed.last_frame_at > _LOOK_S:
                    mirrored.grown()

    async def work(self) -> None:
        """Write what grows, until cancelled."""
        failures = 0
        if self._grown:
            self._woken.set()  # it broke, and begins again
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                await self._write(failures)
            except UNREACHABLE as error:
                self.errors += 1
                if not failures:
                    _log.warning("Redis can't be written to; runs go on, other nodes wait: %r", error)
                self.failing = True
                await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
                failures += 1
                self._woken.set()
            else:
                if failures:
                    _log.warning("Redis can be written to again")
                self.failing = False
                failures = 0
                await asyncio.sleep(_GATHER_S)

    async def drain(self, limit_s: float) -> bool:
        """Wait up to *limit_s* until everything is written; return whether it is."""
        try:
            async with asyncio.timeout(limit_s):
                while self._grown:
                    self._written.clear()
                    await self._written.wait()
        except TimeoutError:
            return False
        return True

    def _note(self, mirrored: _Mirrored) -> None:
        self._grown.add(mirrored)
        self.behind = len(self._grown)
        self._woken.set()

    async def _write(self, failures: int) -> None:
        self._live = {mirrored for mirrored in self._live if not mirrored.feed.withdrawn}
        self._grown &= self._live  # what has left it may have been noted again since
        waiting = list(self._grown)[: 1 if failures else None]  # one is enough to see whether Redis is back
        for start in range(0, len(waiting), _RUNS):
            await self._write_some(waiting[start : start + _RUNS])
        self.behind = len(self._grown)
        if self._grown:
            self._woken.set()
        else:
            self._written.set()

    async def _write_some(self, some: Sequence[_Mirrored]) -> None:
        writes = [self._next(mirrored) for mirrored in some]
        for mirrored, write, count in zip(some, writes, await self._streams.append(writes), strict=True):
            self._grown.discard(mirrored)
            if count == TAKEN:
                self._on_taken(mirrored.feed)
            if count in (ENDED, TAKEN):
                self._live.discard(mirrored)
                continue
            if count < write.after:
                _log.info("Redis has lost frames of run %s; it is given them again", mirrored.feed.id)
            mirrored.count = min(count, len(mirrored.feed.log))
            if mirrored.count < len(mirrored.feed.log) or mirrored.feed.ended.is_set():
                mirrored.grown()
            else:
                mirrored.feed.at_change(mirrored.grown)

    def _next(self, mirrored: _Mirrored) -> Write:
        feed = mirrored.feed
        frames = feed.log.read(mirrored.count, _WRITE_BYTES)
        last = feed.ended.is_set() and mirrored.count + len(frames) == len(feed.log)
        return Write(mirrored.log_id, mirrored.count, frames, last, self._grace_s if last else self._live_s)
