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
        self._waiting: list[tuple[_T, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    def add(self, item: _T) -> asyncio.Future[None]:
        """Return what is done when *item* is written, or has what its write raised. Cancelling it changes nothing."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, written))
        if self._writer is None:
            self._writer = self._tasks.spawn(self._write_all())
        return written

    async def _write_all(self) -> None:
        batch: list[tuple[_T, asyncio.Future[None]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                try:
                    await self._write([item for item, _ in batch])
                except Exception as error:
                    _settle(batch, error)
                else:
                    _settle(batch, None)
        finally:  # also when it is cancelled: nobody waits for ever
            self._writer = None
            for _, written in (*batch, *self._waiting):
                written.cancel()
            self._waiting.clear()


def _settle(batch: Sequence[tuple[object, asyncio.Future[None]]], error: Exception | None) -> None:
    for _, written in batch:
        if written.done():
            continue
        if error is None:
            written.set_result(None)
        else:
            written.set_exception(error)
