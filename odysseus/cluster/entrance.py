"""A new run's way into a session that other nodes may run in, too: who refuses it, and whom it waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from odysseus.cluster.cluster import Cluster
from odysseus.errors import Busy, RunExists, StoppedBeforeStart, StoreError, TooMany, Whose
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
        run_id: str,
        owner: str,
        named: bool,
        if_busy: IfBusy,
        max_queued: int,
    ) -> None:
        """*begin* stores the turn, or raises what its argument raises. *line* are the session's live runs here.
        *named*: the client has made the run's id, so that a stop may have come before it."""
        self._cluster = cluster
        self._begin = begin
        self._line = line
        self._if_busy = if_busy
        self._max_queued = max_queued
        self._run_id, self._owner, self._named = run_id, owner, named
        self._ahead: Sequence[Ahead] = ()
        self.node = ""
        """Under which name the run was stored."""

    async def opening(self) -> None:
        """Raises `Busy`, `TooMany`, `RunExists`, `StoppedBeforeStart`, `LogUnreachable`, and what *begin* raises."""
        for run in self._line:
            await run.accepted.wait()
        await self._cluster.check_logs()
        if self._named and await self._cluster.is_stopped_unborn(self._owner, self._run_id):
            raise StoppedBeforeStart(self._run_id)
        self.node = self._cluster.node
        await self._begin(self._admit)
        if self._ahead and self._if_busy is IfBusy.REPLACE:
            try:
                await self._replace()
            except StoreError as error:  # the run is accepted: nothing may fail here any more
                _log.warning("the runs before this one will be stopped later: %s", error)

    def _admit(self, ahead: Sequence[Ahead]) -> None:
        if any(run_id == self._run_id for run_id, _ in ahead):
            raise RunExists(self._run_id)
        if ahead and self._if_busy is IfBusy.REJECT:
            raise Busy(ahead[0].run_id)
        if self._if_busy is IfBusy.QUEUE and len(self._line) + len(ahead) > self._max_queued:
            raise TooMany("queued_runs", self._max_queued, whose=Whose.SESSION)
        self._ahead = ahead

    async def before(self) -> None:
        """Wait for the runs of other nodes that the session had before this one."""
        while self._ahead:
            try:
                if self._if_busy is IfBusy.REPLACE:
                    await self._replace()
                for run_id, _ in self._ahead:
                    await self._cluster.ended(run_id)
                await self._cluster.obey(self._run_id)
                return
            except StoreError as error:
                _log.warning("the runs before this one are still waited for: %s", error)
            await asyncio.sleep(_AGAIN_S)

    async def _replace(self) -> None:
        for run_id, node in reversed(self._ahead):  # those that wait first, so that none of them begins
            await self._cluster.stop(run_id, node, StopReason.REPLACED)
