"""What a client got, looked at when the measurement is over: the body without its chunks, and its tokens."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.upstream import TOKEN

__all__ = ["Response", "Token"]


class Token(NamedTuple):
    number: int
    sent_at: int
    """By the model server, in nanoseconds of `time.monotonic_ns`; 0 for one of a burst."""
    arrived_at: int


class Response:
    def __init__(self, arrivals: Sequence[tuple[int, bytes]]) -> None:
        """*arrivals*: what each read brought, and when."""
        self.head, _, self.raw = b"".join(data for _, data in arrivals).partition(b"\r\n\r\n")
        """The status line and the headers; the body as it was sent, with its chunks."""
        self._times = [at for at, _ in arrivals]
        self._ends = list(itertools.accumulate(len(data) for _, data in arrivals))
        chunked = b"\r\ntransfer-encoding: chunked" in self.head.lower()
        self._pieces = list(_chunks(self.raw)) if chunked else [(0, self.raw)]
        self.body = b"".join(piece for _, piece in self._pieces)

    def tokens(self) -> list[Token]:
        """Return the tokens in the order they came, each with the time of the read that made it whole."""
        starts = [0, *itertools.accumulate(len(piece) for _, piece in self._pieces)]
        found = []
        for match in TOKEN.finditer(self.body):
            at = bisect.bisect_right(starts, match.end() - 1) - 1
            end = len(self.head) + 4 + self._pieces[at][0] + match.end() - starts[at]
            arrived_at = self._times[bisect.bisect_left(self._ends, end)]
            found.append(Token(int(match[1]), int(match[2] or 0), arrived_at))
        return found


def _chunks(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the chunks' data, the last one perhaps cut short, each with its place in *raw*."""
    at = 0
    while (line_end := raw.find(b"\r\n", at)) > 0 and (size := int(raw[at:line_end], 16)):
        yield line_end + 2, raw[line_end + 2 : line_end + 2 + size]
        at = line_end + 2 + size + 2
