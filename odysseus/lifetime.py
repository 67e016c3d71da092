"""A run's way from its admission to its end: the one path of both lifetimes.

    admitted -> opening -> its turn in the session -> pulled -> source closed -> closing -> ended

The two hooks, `opening` and `closing`, are carried through however often the run is cancelled; everything between
them can be interrupted at any await.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic

from odysseus.errors import AnswerTaken, StreamFailed
from odysseus.ledger import Event
from odysseus.logs import log_of_run
from odysseus.replay import Frame
from odysseus.run import Before, ClientGone, Closing, Connect, Lane, Limits, Opening, Run, Sink
from odysseus.states import Ending, Status, StopReason, move
from odysseus.tasks import Tasks
from odysseus.watchdogs import watchdogs

__all__ = ["Lifetime"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetime(Generic[Frame]):
    run: Run[Frame]
    source: AsyncGenerator[Frame, None]
    opening: Opening | None
    closing: Closing[Frame] | None
    connect: Connect[Frame] | None
    before: Before | None
    sink: Sink[Frame] | None
    """The one client of a direct run; None for a detached run."""
    accepted: Callable[[Run[Frame]], None]
    """Told that the run is accepted, before anybody else is."""
    turn: Callable[[Run[Frame]], Awaitable[None]]
    """Waits until every run that stood before this one in its session has ended."""
    over: Callable[[Run[Frame]], None]
    """Told that the run has ended, before anybody else is."""
    limits: Limits
    tasks: Tasks

    async def live(self) -> None:
        """Live it, in the task that pulls.

        This is the root of the run: a cancel that its owner asked for turns into an ending here, and only here.
        Anybody else's goes on up when the run has ended.
        """
        with log_of_run(self.run.id, self.run.session_id):
            await self._live()

    async def _live(self) -> None:
        run, sink = self.run, self.sink
        failure: BaseException | None = None
        late: asyncio.CancelledError | None = None
        opened = False
        run.enter()
        try:
            await self.tasks.finish(self._open())
            if run.refusal is None:
                if sink is not None:
                    await _to_client(sink.open(run))
                    opened = True
                await self.turn(run)
                if self.before is not None:
                    await self.before()
                await self._pull()
        except (asyncio.CancelledError, Exception) as error:
            failure = error
        run.ending = self._judge(failure)
        if run.stop_asked_at is None and run.ending.status in (Status.STOPPED, Status.INTERRUPTED):
            assert run.ending.stop_reason is not None
            run.ledger.stop_noticed(run.ending.stop_reason)
        pulled = len(run.log)
        try:
            await self.tasks.finish(self._end(run.ending, failure))
        except asyncio.CancelledError as cancel:
            late = cancel
        if run.cancelled_by_us:
            run.task.uncancel()
        if run.task.cancelling():
            raise failure if isinstance(failure, asyncio.CancelledError) else late or asyncio.CancelledError
        if sink is not None and run.refusal is None and not isinstance(failure, ClientGone):
            await self._take_leave(sink, pulled, opened=opened)

    async def _open(self) -> None:
        try:
            if self.opening is not None:
                await self.opening()
        except BaseException as error:
            self.run.refusal = error
        else:
            self.run.ledger.add(Event.ACCEPTED)
            self.accepted(self.run)
        self.run.accepted.set()

    async def _pull(self) -> None:
        run, sink = self.run, self.sink
        if self.connect is not None:
            self.connect(Lane(run, sink, self.limits.max_log_bytes))
        with watchdogs(run, self.limits):
            async for frame in self.source:
                run.append(frame)
                if sink is not None:
                    await _to_client(sink.write(frame))
                if run.log.size > self.limits.max_log_bytes:
                    run.asked = run.asked or Ending(StopReason.LOG_LIMIT)
                    return

    def _judge(self, failure: BaseException | None) -> Ending:
        """Decide how the run ended: an asked-for stop first, then what the source or the client did."""
        run = self.run
        if run.asked is not None:
            return run.asked
        if failure is None:
            return Ending()
        if isinstance(failure, StreamFailed):
            return Ending(failure.stop_reason)
        if isinstance(failure, ClientGone):
            return Ending(StopReason.CLIENT_DISCONNECT)
        if isinstance(failure, asyncio.CancelledError) and run.task.cancelling():
            return Ending(StopReason.SHUTDOWN if run.detached else StopReason.CLIENT_DISCONNECT)
        _log.error("run %s failed", run.id, exc_info=failure)
        return Ending(StopReason.INTERNAL_ERROR)

    async def _end(self, ending: Ending, failure: BaseException | None) -> None:
        """End the run, once: close its source, save, announce, let the next one in."""
        run = self.run
        try:
            try:
                await self.source.aclose()
            except Exception:
                _log.exception("run %s: its source didn't close well", run.id)
            finally:
                await self._close(ending, failure)
        except AnswerTaken as taken:
            _log.warning("%s", taken)
            ending = run.ending = Ending(StopReason.NODE_LOST)
            run.withdraw()
        finally:  # whatever went wrong, the save is tried, and nobody waits for this run for ever
            run.status = move(run.status, ending.status)
            run.stop_reason = ending.stop_reason
            run.ended_at = datetime.now(UTC)
            run.log.close()
            run.ledger.add(Event.ENDED, status=run.status, stop_reason=run.stop_reason)
            self.over(run)
            run.ended.set()
            run.wake()

    async def _close(self, ending: Ending, failure: BaseException | None) -> None:
        if self.closing is None or self.run.refusal is not None:
            return
        try:
            for frame in await self.closing(ending, failure):
                self.run.log.append(frame)
        except AnswerTaken:
            raise
        except Exception:
            _log.exception("run %s: its closing failed", self.run.id)

    async def _take_leave(self, sink: Sink[Frame], pulled: int, *, opened: bool) -> None:
        """Write the frames that came after the *pulled* ones, those of the ending, to a direct run's client."""
        try:
            if not opened:
                await sink.open(self.run)
            for frame in self.run.log.read(pulled, self.run.log.size):
                await sink.write(frame)
        except ConnectionError:
            pass  # it left between the save and the last frame; the answer is complete and stored


async def _to_client(write: Awaitable[None]) -> None:
    try:
        await write
    except ConnectionError as gone:
        raise ClientGone from gone
