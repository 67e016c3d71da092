"""Runs: a generator of frames, pulled by a task of its own (detached) or by its one client (direct).

This module knows nothing of HTTP, models or the store. A run pulls frames into its log, whatever they say, and calls
two hooks it doesn't look into. The hooks are carried through however often the run is cancelled; everything between
them can be interrupted at any await:

    admitted -> opening -> its turn in the session -> pulled -> source closed -> closing -> ended

A session's live runs stand in a line: the first one is pulled, the others wait for those before them to end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Generic

from odysseus.errors import Busy, Draining, NotFound, StoppedBeforeStart, StreamFailed, TooMany
from odysseus.replay import Frame, next_seq
from odysseus.run import ClientGone, Closing, IfBusy, Limits, Opening, Reader, Run, Sink
from odysseus.states import Ending, StopReason, move
from odysseus.tasks import Tasks
from odysseus.tombstones import Tombstones
from odysseus.watchdogs import watchdogs

__all__ = ["IfBusy", "Limits", "Run", "Runs"]

_log = logging.getLogger(__name__)


class Runs(Generic[Frame]):
    """Every run of this process: admission, subscribers, stop, watchdogs, eviction, drain."""

    def __init__(self, limits: Limits | None = None, *, tasks: Tasks | None = None) -> None:
        self.draining = False
        self.subscribers = 0
        """Live subscribers over all runs."""
        self.live_count = 0
        """Runs that are live now, waiting ones included."""
        self.endings: Counter[Ending] = Counter()
        """How many runs have ended, and how, since the start."""
        self._limits = limits or Limits()
        self._tasks = tasks or Tasks()
        self._runs: dict[str, Run[Frame]] = {}  # by run id, live or within the grace time
        self._latest: dict[str, Run[Frame]] = {}  # by session id, the one admitted last, while it is in `_runs`
        self._lines: dict[str, deque[Run[Frame]]] = {}  # by session id, live ones only; never an empty line
        self._tombstones = Tombstones()
        self._quiet = asyncio.Event()  # set while no run is live
        self._quiet.set()
        self._grace: asyncio.Timeout | None = None  # while `drain` still lets runs go on

    # Starting

    def start(
        self,
        session_id: str,
        source: AsyncGenerator[Frame, None],
        *,
        run_id: str | None = None,
        if_busy: IfBusy = IfBusy.REJECT,
        opening: Opening | None = None,
        closing: Closing[Frame] | None = None,
        about: object = None,
    ) -> Run[Frame]:
        """Start a detached run: it goes on until *source* ends or somebody stops it, whoever watches.

        *opening* is awaited before the first frame; if it raises, nothing has happened (`Run.wait_accepted`).
        *closing* is given the ending and the error behind it, saves, and returns the last frames; it must not raise.
        *about* is for the caller to find again, as `Run.about`.
        Raises `Busy`, `TooMany`, `Draining` or `StoppedBeforeStart`, all of them before anything has happened.
        """
        run = self._admit(session_id, run_id, if_busy, detached=True, about=about)
        run.task = asyncio.get_running_loop().create_task(self._live_through(run, source, opening, closing, None))
        return run

    async def direct(
        self,
        session_id: str,
        source: AsyncGenerator[Frame, None],
        sink: Sink[Frame],
        *,
        run_id: str | None = None,
        if_busy: IfBusy = IfBusy.REJECT,
        opening: Opening | None = None,
        closing: Closing[Frame] | None = None,
        about: object = None,
    ) -> Run[Frame]:
        """Pull *source* in the calling task and write each frame to *sink*; return the run when it has ended.

        Cancelling the caller ends the run with `client_disconnect` and goes on up when it is saved. A stop that was
        asked for here ends it too, and then the last frames still go to the sink. Raises as `start` does, and what
        *opening* raised.
        """
        run = self._admit(session_id, run_id, if_busy, detached=False, about=about)
        task = asyncio.current_task()
        assert task is not None
        run.task = task
        await self._live_through(run, source, opening, closing, sink)
        await run.wait_accepted()
        return run

    def _admit(
        self, session_id: str, run_id: str | None, if_busy: IfBusy, *, detached: bool, about: object
    ) -> Run[Frame]:
        """Take the run into the session's line. Without an await: two requests at once can't both find it free."""
        if self.draining:
            raise Draining
        if run_id is not None and self._tombstones.has(run_id, asyncio.get_running_loop().time()):
            raise StoppedBeforeStart(run_id)
        line = self._lines.get(session_id, ())
        if line and if_busy is IfBusy.REJECT:
            raise Busy(line[0].id)
        if not self.has_room:
            raise TooMany("runs", self._limits.max_runs)
        run: Run[Frame] = Run(run_id or f"run_{secrets.token_hex(12)}", session_id, detached=detached, about=about)
        if run.id in self._runs:
            raise ValueError(f"run {run.id} exists")
        if if_busy is IfBusy.REPLACE:
            for predecessor in line:
                self._ask(predecessor, StopReason.REPLACED)
        self._runs[run.id] = self._latest[session_id] = run
        self._lines.setdefault(session_id, deque()).append(run)
        self.live_count += 1
        self._quiet.clear()
        return run

    @property
    def has_room(self) -> bool:
        return self.live_count < self._limits.max_runs

    # Finding and watching

    def get(self, run_id: str) -> Run[Frame] | None:
        """Return the run, live or within its grace time."""
        return self._runs.get(run_id)

    def latest(self, session_id: str) -> Run[Frame] | None:
        """Return the run that was admitted last."""
        return self._latest.get(session_id)

    def current(self, session_id: str) -> Run[Frame] | None:
        """Return the run at the head of the session's line; when none is live, the latest."""
        return self._lines[session_id][0] if session_id in self._lines else self._latest.get(session_id)

    def live(self, session_id: str) -> Sequence[Run[Frame]]:
        """Return the session's live runs: the one that is pulled, then those that wait for it."""
        return tuple(self._lines.get(session_id, ()))

    def all(self) -> Sequence[Run[Frame]]:
        return tuple(self._runs.values())

    def check_room_for_subscriber(self) -> None:
        """Raises `TooMany` if there is none."""
        if self.subscribers >= self._limits.max_subscribers:
            raise TooMany("subscribers", self._limits.max_subscribers)

    @contextmanager
    def reader(self, run: Run[Frame], seq: int = 0) -> Iterator[Reader[Frame]]:
        """Subscribe to *run* from frame *seq* on, until the block is left. Raises `TooMany`."""
        self.check_room_for_subscriber()
        self.subscribers += 1
        run.subscribers += 1
        try:
            yield Reader(run, seq)
        finally:
            self.subscribers -= 1
            run.subscribers -= 1
            if run.overdue and not run.subscribers:
                self._evict(run)

    async def subscribe(self, session_id: str, *, last_event_id: str | None = None) -> AsyncGenerator[Frame, None]:
        """Yield the current run's frames after *last_event_id*, then live to the end. Leaving it stops nothing.

        Raises `NotFound` when the session has no run here, and `TooMany`.
        """
        run = self.current(session_id)
        if run is None:
            raise NotFound("run")
        with self.reader(run, next_seq(last_event_id, run.id, len(run.log))) as reader:
            while frames := await reader.read():
                for frame in frames:
                    yield frame

    # Stopping

    def stop(self, session_id: str, reason: StopReason = StopReason.USER_STOP) -> bool:
        """Stop what the session runs and withdraw what waits; True if there was anything. Doesn't wait: see `ended`."""
        line = self.live(session_id)
        for run in line:
            self._ask(run, reason)
        return bool(line)

    def stop_run(self, run: Run[Frame], reason: StopReason = StopReason.USER_STOP) -> bool:
        """Stop this run only; True if it was live."""
        self._ask(run, reason)
        return not run.ended.is_set()

    def stop_unborn(self, run_id: str) -> None:
        """Remember for a minute that *run_id*, which nobody knows here, must not start."""
        self._tombstones.add(run_id, asyncio.get_running_loop().time())

    def _ask(self, run: Run[Frame], reason: StopReason) -> None:
        """Write the reason down, then interrupt whatever the run awaits. The first reason stays."""
        if run.ending is None and run.asked is None:
            run.asked = Ending(reason)
            run.stop_asked_at = asyncio.get_running_loop().time()
            if run.entered:
                self._interrupt(run)

    @staticmethod
    def _interrupt(run: Run[Frame]) -> None:
        run.cancelled_by_us = True
        run.task.cancel()

    async def drain(self, grace_s: float, limit_s: float) -> bool:
        """Admit nothing more; let the live runs go on for *grace_s*, then stop them and wait up to *limit_s*.

        Returns whether everything has ended. `hurry` cuts the grace short, never the saves.
        """
        self.draining = True
        try:
            async with asyncio.timeout(grace_s) as self._grace:
                await self._quiet.wait()
        except TimeoutError:
            pass
        self._grace = None
        for line in tuple(self._lines.values()):
            for run in tuple(line):
                self._ask(run, StopReason.SHUTDOWN)
        try:
            async with asyncio.timeout(limit_s):
                await self._quiet.wait()
        except TimeoutError:
            _log.error("%d runs were still being saved after %s s", self.live_count, limit_s)
        return self._quiet.is_set()

    def hurry(self) -> None:
        """Make a `drain` under way stop the live runs now."""
        if self._grace is not None and not self._grace.expired():
            self._grace.reschedule(asyncio.get_running_loop().time())

    # The one path of every run

    async def _live_through(
        self,
        run: Run[Frame],
        source: AsyncGenerator[Frame, None],
        opening: Opening | None,
        closing: Closing[Frame] | None,
        sink: Sink[Frame] | None,
    ) -> None:
        """Take *run* from its admission to its end, in the task that pulls it.

        This is the root of the run: a cancel that its owner asked for turns into an ending here, and only here.
        Anybody else's goes on up when the run has ended.
        """
        failure: BaseException | None = None
        late: asyncio.CancelledError | None = None
        opened = False
        run.entered = True
        if run.asked is not None:
            self._interrupt(run)
        try:
            await self._tasks.finish(self._open(run, opening))
            if run.refusal is None:
                if sink is not None:
                    await _to_client(sink.open(run))
                    opened = True
                await self._turn(run)
                await self._pull(run, source, sink)
        except (asyncio.CancelledError, Exception) as error:
            failure = error
        run.ending = self._judge(run, failure)
        pulled = len(run.log)
        try:
            await self._tasks.finish(self._end(run, source, closing, failure))
        except asyncio.CancelledError as cancel:
            late = cancel
        if run.cancelled_by_us:
            run.task.uncancel()
        if run.task.cancelling():
            raise failure if isinstance(failure, asyncio.CancelledError) else late or asyncio.CancelledError
        if sink is not None and run.refusal is None and not isinstance(failure, ClientGone):
            await self._take_leave(run, sink, pulled, opened=opened)

    async def _take_leave(self, run: Run[Frame], sink: Sink[Frame], pulled: int, *, opened: bool) -> None:
        """Write the frames that came after the *pulled* ones, those of the ending, to a direct run's client."""
        try:
            if not opened:
                await sink.open(run)
            for frame in run.log.read(pulled, self._limits.max_log_bytes):
                await sink.write(frame)
        except ConnectionError:
            pass  # it left between the save and the last frame; the answer is complete and stored

    async def _open(self, run: Run[Frame], opening: Opening | None) -> None:
        try:
            if opening is not None:
                await opening()
        except BaseException as error:
            run.refusal = error
        run.accepted.set()

    async def _turn(self, run: Run[Frame]) -> None:
        """Wait until every run that was before this one in the line has ended, its save included."""
        line = self._lines[run.session_id]
        while line[0] is not run:
            await line[0].ended.wait()

    async def _pull(self, run: Run[Frame], source: AsyncGenerator[Frame, None], sink: Sink[Frame] | None) -> None:
        with watchdogs(run, self._limits, partial(self._ask, run)):
            async for frame in source:
                run.append(frame)
                if sink is not None:
                    await _to_client(sink.write(frame))
                if run.log.size > self._limits.max_log_bytes:
                    run.asked = run.asked or Ending(StopReason.LOG_LIMIT)
                    return

    def _judge(self, run: Run[Frame], failure: BaseException | None) -> Ending:
        """Decide how the run ended: an asked-for stop first, then what the source or the client did."""
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

    async def _end(
        self,
        run: Run[Frame],
        source: AsyncGenerator[Frame, None],
        closing: Closing[Frame] | None,
        failure: BaseException | None,
    ) -> None:
        """End the run, once: close its source, save, announce, let the next one in."""
        ending = run.ending
        assert ending is not None
        try:
            await source.aclose()
        except Exception:
            _log.exception("run %s: its source didn't close well", run.id)
        if closing is not None and run.refusal is None:
            try:
                for frame in await closing(ending, failure):
                    run.log.append(frame)
            except Exception:
                _log.exception("run %s: its closing failed", run.id)
        run.status = move(run.status, ending.status)
        run.stop_reason = ending.stop_reason
        run.ended_at = datetime.now(UTC)
        self._leave_line(run)
        run.ended.set()
        run.wake()
        if run.refusal is not None:
            self._forget(run)
        else:
            asyncio.get_running_loop().call_later(self._limits.replay_grace_s, self._grace_over, run)
            self.endings[ending] += 1
            _log.info("run %s of session %s ended: %s %s", run.id, run.session_id, run.status, run.stop_reason or "")

    def _leave_line(self, run: Run[Frame]) -> None:
        line = self._lines[run.session_id]
        line.remove(run)
        if not line:
            del self._lines[run.session_id]
        self.live_count -= 1
        if not self.live_count:
            self._quiet.set()

    def _grace_over(self, run: Run[Frame]) -> None:
        if run.subscribers:
            run.overdue = True
        else:
            self._evict(run)

    def _evict(self, run: Run[Frame]) -> None:
        if self._runs.get(run.id) is run:  # its id may be another's by now
            del self._runs[run.id]
        if self._latest.get(run.session_id) is run:
            del self._latest[run.session_id]

    def forget_session(self, session_id: str) -> None:
        """Free the session's ended runs now: it has been deleted."""
        for run in self.all():
            if run.session_id == session_id and run.ended.is_set():
                self._evict(run)

    def _forget(self, refused: Run[Frame]) -> None:
        """Undo the admission of a run that has never happened: the one before it is the latest again."""
        self._evict(refused)
        for run in self._runs.values():  # in the order of admission
            if run.session_id == refused.session_id:
                self._latest[run.session_id] = run


async def _to_client(write: Awaitable[None]) -> None:
    try:
        await write
    except ConnectionError as gone:
        raise ClientGone from gone
