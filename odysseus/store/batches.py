"""Group commit: what comes while a write is under way is written together, by the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from odysseus.tasks import Tasks

__all__ = ["Batches"]

_MOST = 100  # at once: what a batch costs is paid in one piece, while every stream waits

_T = TypeVar("_T")
_R = TypeVar("_R")


class Batches(Generic[_T, _R]):
    """Gives what `add` is called with to *write*, in order, up to a hundred at a time, and one time after the other.

    *write* returns a result for each. If it raises, each is written alone, so that one which can't be written doesn't
    take the others down; not after a `TimeoutError`, which would come again for each.
    """

    def __init__(self, write: Callable[[Sequence[_T]], Awaitable[Sequence[_R]]], tasks: Tasks) -> None:
        self._write = write
        self._tasks = tasks
        self._waiting: list[tuple[_T, asyncio.Future[_R]]] = []
        self._writer: asyncio.Task[None] | None = None

    def add(self, item: _T) -> asyncio.Future[_R]:
        """Return what is done when *item* is written, or has what its write raised. Cancelling it changes nothing."""
        written: asyncio.Future[_R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._writer is None:
            self._writer = self._tasks.spawn(self._write_all(), apart=True)
        return written

    async def _write_all(self) -> None:
        batch: list[tuple[_T, asyncio.Future[_R]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                if not await self._written(batch):
                    for one in batch:
                        await self._written([one])
        finally:  # also when it is cancelled: nobody waits for ever
            self._writer = None
            for _, written in (*batch, *self._waiting):
                written.cancel()
            self._waiting.clear()

    async def _written(self, batch: Sequence[tuple[_T, asyncio.Future[_R]]]) -> bool:
        """Write *batch* and tell who waits for it; False if each is to be tried alone."""
        try:
            results = await self._write([item for item, _ in batch])
        except Exception as error:
            if len(batch) > 1 and not isinstance(error, TimeoutError):
                return False
            for _, written in batch:
                if not written.done():
                    written.set_exception(error)
        else:
            for (_, written), result in zip(batch, results, strict=True):
                if not written.done():
                    written.set_result(result)
        return True
