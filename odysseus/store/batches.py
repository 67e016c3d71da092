"""Group commit: what comes while a write is under way is written together, by the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from odysseus.tasks import Tasks

__all__ = ["Batches"]

_T = TypeVar("_T")


class Batches(Generic[_T]):
    """Gives what `add` is called with to *write*, in order, several at a time, and one time after the other."""

    def __init__(self, write: Callable[[Sequence[_T]], Awaitable[None]], tasks: Tasks) -> None:
        self._write = write
        self._tasks = tasks
        self._turn = asyncio.Lock()
        self._next: tuple[list[_T], asyncio.Task[None]] | None = None  # what the next write takes, while it waits

    async def add(self, item: _T) -> None:
        """Return when *item* is written. Raises what its write raised. Cancelling leaves the write alone."""
        if self._next is None:
            items: list[_T] = []
            self._next = items, self._tasks.spawn(self._write_in_turn(items))
        items, written = self._next
        items.append(item)
        await asyncio.shield(written)

    async def _write_in_turn(self, items: list[_T]) -> None:
        async with self._turn:
            self._next = None
            await self._write(items)
