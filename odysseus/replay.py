"""A run's numbered log: what was sent, and where a reader that comes back has to begin.

Pure: nobody waits here. `runs` wakes the readers; the log only answers what stands after a place in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

__all__ = ["END", "Frame", "Log", "event_id", "next_seq"]

Frame = TypeVar("Frame", bytes, str)

END = "end"  # `<run_id>.end` closes a snapshot, whose frames have no numbers


class Log(Generic[Frame]):
    """The frames of one run. A frame's place in the log is the `seq` in its event id, counted from 0."""

    __slots__ = ("_frames", "size")

    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self.size = 0
        """What the frames hold together: bytes, or characters of a log of strings."""

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, frame: Frame) -> None:
        self._frames.append(frame)
        self.size += len(frame)

    def read(self, start: int, most: int) -> Sequence[Frame]:
        """Return the frames from *start* on, one at least where there is one, no more than *most* bytes beyond it."""
        end, size = start, 0
        while end < len(self._frames) and (size := size + len(self._frames[end])) <= most:
            end += 1
        return self._frames[start : max(end, start + 1)]


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
