"""The streams without Redis, for virtual time: the same promises, which `test_streams` asks of both, and outages."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from odysseus.cluster.entries import START, Entry, Place, log_entry
from odysseus.cluster.streams import ENDED, TAKEN, Streams, Write, inbox_of, log_of

__all__ = ["MemoryStreams", "at_work", "frames_of"]

_Raw = tuple[bytes, Mapping[bytes, bytes]]


class MemoryStreams(Streams):
    def __init__(self) -> None:
        self.away = False
        """Whether every verb fails."""
        self.kept: dict[str, list[_Raw]] = {}
        """What stands in each stream, by its key."""
        self.appended: list[Sequence[Write]] = []
        """What was written, a batch an item, refused and failed ones included."""
        self.write_s = 0.0
        """How long a write takes."""
        self.reads = 0
        """How many reads were begun."""
        self.reading: Mapping[str, str] = {}
        """What the last of them reads, and from where."""
        self.histories: list[str] = []
        """The logs that were read from somewhere on, by their ids."""
        self.lose_answers = False
        """Whether writes are done, and yet fail."""
        self._unborn: set[tuple[str, str]] = set()
        self._letters = 0
        self._grown = asyncio.Event()

    def empty(self) -> None:
        """Forget everything, as a restart without its data does."""
        self.kept.clear()

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        self._check()

    async def append(self, writes: Sequence[Write]) -> Sequence[int]:
        self.appended.append(writes)
        if self.write_s:
            await asyncio.sleep(self.write_s)
        self._check()
        counts = [self._append(write) for write in writes]
        if self.lose_answers:
            raise RedisConnectionError("the answer is lost")
        return counts

    async def history(self, log_id: str, after: str = START) -> AsyncIterator[Entry]:
        self.histories.append(log_id)
        self._check()
        for raw in self._after(log_of(log_id), after):
            yield log_entry(*raw)

    async def fence(self, log_id: str, keep_s: int) -> None:
        self._check()
        self._add(log_of(log_id), Place.FENCE, 0, ())

    async def end_lost(self, log_id: str, total: int, frames: Sequence[bytes], keep_s: int) -> None:
        self._check()
        self._add(log_of(log_id), Place.END_OF_LOST, total, frames)

    async def stop_unborn(self, owner: str, run_id: str) -> None:
        self._check()
        self._unborn.add((owner, run_id))

    async def is_stopped_unborn(self, owner: str, run_id: str) -> bool:
        self._check()
        return (owner, run_id) in self._unborn

    async def read(self, cursors: Mapping[str, str], block_ms: int) -> Sequence[tuple[str, Sequence[tuple[Any, Any]]]]:
        self.reads += 1
        self.reading = cursors
        try:
            async with asyncio.timeout(block_ms / 1000):
                while not (found := [(key, new) for key, after in cursors.items() if (new := self._after(key, after))]):
                    self._check()
                    self._grown.clear()
                    await self._grown.wait()
        except TimeoutError:
            return ()
        self._check()
        return found

    async def send(self, node: str, letter: bytes) -> None:
        self._check()
        self._letters += 1  # also after a loss of everything: in Redis this is the time
        self._put(self.kept.setdefault(inbox_of(node), []), (self._letters, 0), {b"l": letter})

    async def drop_inbox(self, node: str) -> None:
        self._check()
        self.kept.pop(inbox_of(node), None)

    def _check(self) -> None:
        if self.away:
            raise RedisConnectionError("away")

    def _append(self, write: Write) -> int:
        stream = self.kept.setdefault(log_of(write.log_id), [])
        place, have = _parts(stream[-1][0]) if stream else (0, 0)
        if place != Place.FRAMES:
            return ENDED if place == Place.END else TAKEN
        if have == write.after:
            if write.frames:
                have += len(write.frames)
                self._add(log_of(write.log_id), Place.FRAMES, have, write.frames)
            if write.ended:
                self._add(log_of(write.log_id), Place.END, have, ())
                return ENDED
        return have

    def _add(self, key: str, place: Place, count: int, frames: Sequence[bytes]) -> None:
        stream = self.kept.setdefault(key, [])
        if not stream or _parts(stream[-1][0]) < (place, count):
            sizes = struct.pack(f"<{len(frames)}I", *map(len, frames))
            self._put(stream, (place, count), {b"n": sizes, b"f": b"".join(frames)})

    def _put(self, stream: list[_Raw], entry_id: tuple[int, int], fields: Mapping[bytes, bytes]) -> None:
        stream.append((b"%d-%d" % entry_id, fields))
        self._grown.set()

    def _after(self, key: str, after: str) -> list[_Raw]:
        return [raw for raw in self.kept.get(key, ()) if _parts(raw[0]) > _parts(after.encode())]


def _parts(entry_id: bytes) -> tuple[int, int]:
    place, count = entry_id.split(b"-")
    return int(place), int(count)


async def frames_of(streams: Streams, log_id: str) -> list[bytes]:
    """Return all frames that the log has."""
    return [frame async for entry in streams.history(log_id) for frame in entry.frames]


@asynccontextmanager
async def at_work(*works: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Let *works*, which never end, go on in the block. Raises what one of them raised."""
    tasks = [asyncio.create_task(work()) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            try:
                await task
            except asyncio.CancelledError:
                pass
