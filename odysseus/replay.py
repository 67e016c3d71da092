"""A run's numbered log: what was sent, and where a reader that comes back has to begin.

Pure: nobody waits here. `runs` wakes the readers; the log only answers what stands after a place in it.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, Generic, TypeVar

__all__ = ["END", "SNAPSHOT", "Frame", "Log", "event_id", "next_seq"]

Frame = TypeVar("Frame", bytes, str)

_BLOCK = 32  # frames
_SMALL = 32 * 1024  # bytes of a block; a larger one holds large frames, and would take long to compress

SNAPSHOT, END = "snapshot", "end"
"""Stand in event ids where a snapshot stands in for the frames and their numbers. Whoever comes back with the first
one gets everything again: with the id that it had before, another node could give it the frames that follow that."""


class _Block(Generic[Frame]):
    """Some frames joined, with the places where they end. An object for each would take as much again, and the run's
    id in every frame more than that: so small ones are compressed, for a third of a microsecond a frame."""

    __slots__ = ("_ends", "_joined", "_packed")

    def __init__(self, frames: Sequence[Frame]) -> None:
        joined: Any = frames[0][:0].join(frames)
        self._ends = array("I", accumulate(map(len, frames)))
        self._packed = isinstance(joined, bytes) and len(joined) <= _SMALL
        self._joined: Any = zlib.compress(joined, 1) if self._packed else joined

    def frames(self) -> Sequence[Frame]:
        joined: Any = zlib.decompress(self._joined) if self._packed else self._joined
        return [joined[start:end] for start, end in pairwise((0, *self._ends))]


class Log(Generic[Frame]):
    """The frames of one run. A frame's place in the log is the `seq` in its event id, counted from 0."""

    __slots__ = ("_blocks", "_count", "_tail", "size")

    def __init__(self) -> None:
        self._blocks: list[_Block[Frame]] = []
        self._count = 0
        self._tail: list[Frame] = []
        self.size = 0
        """What the frames hold together: bytes, or characters of a log of strings."""

    def __len__(self) -> int:
        return self._count

    def append(self, frame: Frame) -> None:
        self._tail.append(frame)
        self._count += 1
        self.size += len(frame)
        if len(self._tail) == _BLOCK:
            self._pack()

    def close(self) -> None:
        """No frame will come any more."""
        if self._tail:
            self._pack()

    def _pack(self) -> None:
        self._blocks.append(_Block(self._tail))
        self._tail.clear()

    def read(self, start: int, most: int) -> Sequence[Frame]:
        """Return the frames from *start* on, one at least where there is one, no more than *most* bytes beyond it."""
        frames: list[Frame] = []
        size = 0
        number, place = divmod(start, _BLOCK)
        while number <= len(self._blocks):
            block = self._blocks[number].frames() if number < len(self._blocks) else self._tail
            for frame in block[place:]:
                size += len(frame)
                if size > most and frames:
                    return frames
                frames.append(frame)
            number, place = number + 1, 0
        return frames


def event_id(run_id: str, seq: int | str) -> str:
    return f"{run_id}.{seq}"


def next_seq(last_event_id: str | None, run_id: str, given_out: int) -> int:
    """Return the number of the first frame that whoever has seen *last_event_id* still lacks.

    *given_out* is how many frames the run has numbered so far. An id of another run, one that this run never gave
    out, and none at all replay from the start. Source: the README, "Frames".
    """
    named, _, seq = (last_event_id or "").rpartition(".")
    if named != run_id or not (seq.isascii() and seq.isdigit()) or len(seq) > 18:
        return 0
    number = int(seq)
    return number + 1 if number < given_out and str(number) == seq else 0
