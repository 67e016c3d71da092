"""A run's log as it grows, and those who wait for it: where the run lives, or wherever else it is followed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from odysseus.replay import Frame, Log

__all__ = ["Feed", "Outlet", "Reader"]

_SLICE_BYTES = 256 * 1024  # what a reader takes at once: a long replay must not hold the loop, nor a second copy

_Taken = TypeVar("_Taken", bytes, str, contravariant=True)


class Outlet(Protocol[_Taken]):
    """Takes a run's frames in the moment they come, for readers that have all before them. Must not wait or raise."""

    def push(self, frame: _Taken) -> None: ...

    def wake(self) -> None:
        """The log has more than was pushed, or nothing more will come."""


class Feed(Generic[Frame]):
    def __init__(self, run_id: str, session_id: str) -> None:
        self.id = run_id
        self.session_id = session_id
        self.log: Log[Frame] = Log()
        self.subscribers = 0
        """Those of this process."""
        self.ended = asyncio.Event()
        """Set when nothing more will come: after the save, after the last frame."""
        self.released = False
        """Whoever reads is to come back for the rest, here or elsewhere: see `release`."""
        self.withdrawn = False
        """What it says doesn't count any more."""
        self.outlet: Outlet[Frame] | None = None
        self.last_frame_at = 0.0
        self.unwatched_since = 0.0  # when it was first pulled, or the last subscriber left after that
        self.on_unwatched: Callable[[], None] | None = None
        """Called when the last subscriber has left."""
        self._loop = asyncio.get_running_loop()  # to ask for it costs a system call, and a frame has none to spare
        self._waiters: set[Callable[[], None]] = set()

    @property
    def over(self) -> bool:
        """Whether a reader that has the whole log has nothing to wait for."""
        return self.ended.is_set() or self.released

    @property
    def numbered(self) -> int:
        """How many of the frames have a number, which an event id can name."""
        return len(self.log)

    def joined(self) -> int:
        """Count a subscriber; return the number to give to `left`."""
        self.subscribers += 1
        return 0

    def left(self, number: int) -> None:
        self.subscribers -= 1
        self.unwatched_since = self._loop.time()
        if not self.subscribers and self.on_unwatched is not None:
            self.on_unwatched()

    def append(self, frame: Frame) -> None:
        self.log.append(frame)
        self.last_frame_at = self._loop.time()
        if self.outlet is not None:
            self.outlet.push(frame)
        if self._waiters:
            self._wake_waiters()

    def release(self) -> None:
        """Let the readers go when they have what there is; their streams end without an ending."""
        self.released = True
        self.wake()

    def withdraw(self) -> None:
        """As `release`; and nobody else is to be given any of it."""
        self.withdrawn = True
        self.release()

    def wake(self) -> None:
        """Wake the readers that wait. Those already woken read on by themselves, so a burst wakes each once."""
        if self.outlet is not None:
            self.outlet.wake()
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        waiters, self._waiters = self._waiters, set()
        for wake in waiters:
            wake()

    def at_change(self, call: Callable[[], None]) -> None:
        """Call *call*, once, at the next `wake`, or frame."""
        self._waiters.add(call)

    async def changed(self) -> None:
        """Wait for the next `wake`, or frame. Cancelling leaves nothing behind."""
        waiter = self._loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(None)

        self._waiters.add(wake)
        try:
            await waiter
        finally:
            self._waiters.discard(wake)


class Reader(Generic[Frame]):
    """One subscriber: a cursor into the log, and nothing else, so that it can't hold the run up."""

    def __init__(self, feed: Feed[Frame], seq: int) -> None:
        self.feed: Feed[Frame] = feed
        self.seq = seq
        """The next frame's number."""

    async def read(self) -> Sequence[Frame]:
        """Return the frames that have come since the last call, at most about 256 KiB; none when the feed is over.

        Waits for one at least. Cancelling loses nothing: the same call can be made again.
        """
        while self.seq == len(self.feed.log) and not self.feed.over:
            await self.feed.changed()
        return self.take()

    def take(self) -> Sequence[Frame]:
        """As `read`, without waiting: none when there are none yet."""
        frames: Sequence[Frame] = self.feed.log.read(self.seq, _SLICE_BYTES)
        self.seq += len(frames)
        return frames
