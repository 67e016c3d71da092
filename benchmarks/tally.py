"""Counts the tokens of a response that is too long to keep, and sums up which they were."""

from __future__ import annotations

import asyncio
import re
import time
import zlib
from collections.abc import Iterable

from benchmarks.upstream import token

__all__ = ["Tally"]

_TOKEN = re.compile(rb"~\d{6}")
_LONGEST_PART = len(token(0)) - 1


class Tally:
    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._rest = b""
        self._digest = 0
        self.count = 0
        self.complete: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """When as many tokens have come as are expected, in nanoseconds of `time.monotonic_ns`."""

    def add(self, data: bytes) -> None:
        data = self._rest + data
        tokens = _TOKEN.findall(data)
        self.count += len(tokens)
        self._digest = zlib.crc32(b"".join(tokens), self._digest)
        begun = data.rfind(b"~", -_LONGEST_PART)
        self._rest = data[begun:] if begun >= 0 else b""
        if self.count >= self._expected and not self.complete.done():
            self.complete.set_result(time.monotonic_ns())

    def told(self, numbers: Iterable[int]) -> bool:
        """Return whether exactly the tokens *numbers* have come, in this order."""
        return self._digest == zlib.crc32(b"".join(map(token, numbers)))
