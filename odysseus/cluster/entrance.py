"""A new run's way into a session that other nodes may run in, too: who refuses it, and whom it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from odysseus.cluster.cluster import Cluster
from odysseus.errors import Busy, StoppedBeforeStart, StoreError, TooMany, Whose
from odysseus.messages import Admit, Ahead
from odysseus.run import IfBusy, Run
from odysseus.states import StopReason

__all__ = ["Entrance"]

_log = logging.getLogger(__name__)

_AGAIN_S = 1.0


class Entrance:
    """What its run does in `opening` and in `before`.

    Whoever enters a session does so in one transaction, so that the answers' order in the store is the order of their
    runs. In this process it is the line's: nobody begins before those who stand before them have.
    """

    def __init__(
        self,
        cluster: Cluster,
        begin: Callable[[Admit], Awaitable[None]],
        line: Sequence[Run[bytes]],
        *,
        if_busy: IfBusy,
        max_queued: int,
        unborn: tuple[str, str] | None,
    ) -> None:
        """*begin* stores the turn, or raises what its argument raises. *line* are the session's live runs here.
        *unborn* are owner and id of a run that somebody may have stopped already."""
        self._cluster = cluster
        self._begin = begin
        self._line = line
        self._if_busy = if_busy
        self._max_queued = max_queued
        self._unborn = unborn
        self._ahead: Sequence[Ahead] = ()

    async def opening(self) -> None:
        """Raises `Busy`, `TooMany`, `StoppedBeforeStart`, `LogUnreachable`, and what *begin* raises."""
        for run in self._line:
            await run.accepted.wait()
        await self._cluster.check_logs()
        if self._unborn is not None and await self._cluster.is_stopped_unborn(*self._unborn):
            raise StoppedBeforeStart(self._unborn[1])
        await self._begin(self._admit)

    def _admit(self, ahead: Sequence[Ahead]) -> None:
        if ahead and self._if_busy is IfBusy.REJECT:
            raise Busy(ahead[0].run_id)
        if self._if_busy is IfBusy.QUEUE and len(self._line) + len(ahead) > self._max_queued:
            raise TooMany("queued_runs", self._max_queued, whose=Whose.SESSION)
        self._ahead = ahead

    async def before(self) -> None:
        """Wait for the runs of other nodes that the session had before this one."""
        for run_id, node in self._ahead:
            while True:
                try:
                    if self._if_busy is IfBusy.REPLACE:
                        await self._cluster.stop(run_id, node, StopReason.REPLACED)
                    await self._cluster.ended(run_id)
                    break
                except StoreError as error:
                    _log.warning("run %s is still waited for: %s", run_id, error)
                await asyncio.sleep(_AGAIN_S)
