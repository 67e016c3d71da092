"""Waiting for what must come, with limits that a slow machine keeps and a wait for ever doesn't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["at_once", "soon", "until"]

_SOON_S = 30.0
_AT_ONCE_S = 3.0  # what must not wait for a model takes a millisecond

_T = TypeVar("_T")


async def soon(awaitable: Awaitable[_T]) -> _T:
    async with asyncio.timeout(_SOON_S):
        return await awaitable


async def until(condition: Callable[[], object]) -> None:
    """For what no event tells of."""
    async with asyncio.timeout(_SOON_S):
        while not condition():  # noqa: ASYNC110  # it changes in a log, or on the other side of a socket
            await asyncio.sleep(0.005)


@contextmanager
def at_once() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < _AT_ONCE_S
