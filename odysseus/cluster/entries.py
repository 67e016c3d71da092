"""The entries of a run's log, as they stand in a Redis Stream.

A log's entries are `0-<n>`: the run had *n* frames when it was written. Whatever is written twice is so refused, and a
writer learns how far Redis has got, be it ahead of what the writer knows or, after a restart, behind. What ends a log
stands above all these, where no frame can follow it: `1-<n>` its owner's end, `2-0` the fence of a node that ends the
run of a lost one, `3-<n>` that one's end.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import NamedTuple

__all__ = ["START", "Entry", "Place", "log_entry", "sizes_of"]

START = "0-0"
"""The cursor before the first entry."""


class Place(IntEnum):
    """The first part of an entry's id."""

    FRAMES = 0
    END = 1
    FENCE = 2
    END_OF_LOST = 3


class Entry(NamedTuple):
    id: str
    place: Place
    total: int
    """How many frames the log has with these, an end not counted."""
    frames: Sequence[bytes]


def log_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    place, count = (int(part) for part in entry_id.split(b"-"))
    sizes = fields[b"n"]
    ends = accumulate(struct.unpack(f"<{len(sizes) // 4}I", sizes))
    joined = fields.get(b"f", b"")
    frames = [joined[start:end] for start, end in pairwise((0, *ends))]
    return Entry(entry_id.decode(), Place(place), count, frames)


def sizes_of(frames: Sequence[bytes]) -> bytes:
    """Return what tells where each of the joined *frames* ends."""
    return struct.pack(f"<{len(frames)}I", *map(len, frames))
