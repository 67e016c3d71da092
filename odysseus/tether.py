"""What holds a direct run to its one client, and can be let go of while both go on."""

from __future__ import annotations

import asyncio
from typing import Generic

from odysseus.replay import Frame
from odysseus.run import Run, Sink

__all__ = ["Tether"]


class Tether(Generic[Frame]):
    """A sink in front of the client's own one. Let go of, it takes whatever comes, and forgets it."""

    def __init__(self, sink: Sink[Frame]) -> None:
        self.given = 0
        """How many frames the client's sink has, the one included that is being written."""
        self.loose = False
        self._sink: Sink[Frame] = sink
        self._writing = False
        self._changed = asyncio.Event()

    def let_go(self) -> None:
        self.loose = True
        self._changed.set()

    async def until_loose(self, task: asyncio.Task[None]) -> None:
        """Wait until it is let go of, and nothing is being written to the client any more; or until *task* is done."""
        while not (task.done() or (self.loose and not self._writing)):
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait({task, changed}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            self._changed.clear()

    # The sink

    async def open(self, run: Run[Frame]) -> None:
        await self._sink.open(run)

    @property
    def free(self) -> bool:
        return self.loose or self._sink.free

    def write_nowait(self, frame: Frame) -> None:
        if not self.loose:
            self.given += 1
            self._sink.write_nowait(frame)

    async def write(self, frame: Frame) -> None:
        if self.loose:
            return
        self.given += 1
        self._writing = True
        try:
            await self._sink.write(frame)
        except ConnectionError:
            if not self.loose:
                raise
        finally:
            self._writing = False
            self._changed.set()
