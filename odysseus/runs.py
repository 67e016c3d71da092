"""Runs: a generator of frames, pulled by a task of its own (detached) or by its one client (direct).

This module knows nothing of HTTP, models or the store, nor what the frames say. It has the rules between runs: who is
admitted, who waits for whom, who is found, watched and stopped, and when a log is freed. What happens to one run, from
its admission to its end, is in `lifetime`.

A session's live runs stand in a line: the first one is pulled, the others wait for those before them to end.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from typing import Generic, Unpack

from odysseus.errors import Busy, Draining, NotFound, StoppedBeforeStart, TooMany, Whose
from odysseus.feed import Feed, Reader
from odysseus.lifetime import Lifetime
from odysseus.replay import Frame, next_seq
from odysseus.run import IfBusy, Limits, Run, Sink, Terms
from odysseus.states import Ending, StopReason
from odysseus.tasks import Tasks
from odysseus.tether import Tether
from odysseus.tombstones import Tombstones

__all__ = ["IfBusy", "Limits", "Run", "Runs"]

_log = logging.getLogger(__name__)


class Runs(Generic[Frame]):
    """Every run of this process: admission, subscribers, stop, eviction, drain."""

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        tasks: Tasks | None = None,
        on_ended: Callable[[Run[Frame]], None] | None = None,
    ) -> None:
        """*on_ended* is told of each run that has ended, is saved and counted; before those who wait for it are."""
        self.draining = False
        self.subscribers = 0
        """Live subscribers over all runs."""
        self.live_count = 0
        """Runs that are live now, waiting ones included."""
        self._live_by_owner: Counter[str] = Counter()  # never a zero
        self.endings: Counter[Ending] = Counter()
        """How many runs have ended, and how, since the start."""
        self._limits = limits or Limits()
        self._tasks = tasks or Tasks()
        self._on_ended: Callable[[Run[Frame]], None] | None = on_ended
        self._runs: dict[str, Run[Frame]] = {}  # by run id, live or within the grace time
        self._latest: dict[str, Run[Frame]] = {}  # by session id, the one admitted last, while it is in `_runs`
        self._lines: dict[str, deque[Run[Frame]]] = {}  # by session id, live ones only; never an empty line
        self._tombstones = Tombstones()
        self._quiet = asyncio.Event()  # set while no run is live
        self._quiet.set()
        self._grace: asyncio.Timeout | None = None  # while `drain` still lets runs go on
        self._hurried = False
        self._drained = False

    # Starting

    def start(self, session_id: str, source: AsyncGenerator[Frame, None], **terms: Unpack[Terms[Frame]]) -> Run[Frame]:
        """Start a detached run: it goes on until *source* ends or somebody stops it, whoever watches.

        Raises `Busy`, `TooMany`, `Draining` or `StoppedBeforeStart`, all of them before anything has happened.
        """
        return self._apart(self._admit(session_id, terms, detached=True), source, terms, None)

    async def direct(
        self,
        session_id: str,
        source: AsyncGenerator[Frame, None],
        sink: Sink[Frame],
        **terms: Unpack[Terms[Frame]],
    ) -> Run[Frame]:
        """Pull *source* in the calling task and write each frame to *sink*; return the run when it has ended.

        Cancelling the caller ends the run with `client_disconnect` and goes on up when it is saved. A stop that was
        asked for here ends it too, and then the last frames still go to the sink. Raises as `start` does, and what
        *opening* raised.
        """
        run = self._admit(session_id, terms, detached=False)
        task = asyncio.current_task()
        assert task is not None
        run.task = task
        await self._lifetime(run, source, terms, sink).live()
        await run.wait_accepted()
        return run

    async def tethered(
        self,
        session_id: str,
        source: AsyncGenerator[Frame, None],
        sink: Sink[Frame],
        **terms: Unpack[Terms[Frame]],
    ) -> int | None:
        """As `direct`, with a run that can be let go of meanwhile: `Run.keep`. Then it is a detached one, and this
        returns how many of its frames *sink* has, for whoever reads on from there; None if it has ended."""
        tether = Tether(sink)
        run = self._admit(session_id, terms, detached=False)
        run.tether = tether
        task = self._apart(run, source, terms, tether).task
        try:
            await tether.until_loose(task)
        except asyncio.CancelledError:
            if not tether.loose:
                task.cancel()
                await self._tasks.finish(_ended(task))
            raise
        if tether.loose and run.detached:
            return tether.given
        await run.wait_accepted()
        return None

    def _apart(
        self, run: Run[Frame], source: AsyncGenerator[Frame, None], terms: Terms[Frame], sink: Sink[Frame] | None
    ) -> Run[Frame]:
        run.task = asyncio.get_running_loop().create_task(self._lifetime(run, source, terms, sink).live())
        return run

    def _admit(self, session_id: str, terms: Terms[Frame], *, detached: bool) -> Run[Frame]:
        """Take the run into the session's line. Without an await: two requests at once can't both find it free."""
        run_id, owner = terms.get("run_id"), terms.get("owner", "")
        if_busy = terms.get("if_busy", IfBusy.REJECT)
        if self.draining:
            raise Draining
        if run_id is not None and self._tombstones.has((owner, run_id), asyncio.get_running_loop().time()):
            raise StoppedBeforeStart(run_id)
        line = self._lines.get(session_id, ())
        if line and if_busy is IfBusy.REJECT:
            raise Busy(line[0].id)
        self._check_room(owner, line, if_busy)
        run: Run[Frame] = Run(
            run_id or f"run_{secrets.token_hex(12)}",
            session_id,
            owner=owner,
            detached=detached,
            about=terms.get("about"),
            ledger=terms.get("ledger"),
        )
        if run.id in self._runs:
            raise ValueError(f"run {run.id} exists")
        self._runs[run.id] = self._latest[session_id] = run
        self._lines.setdefault(session_id, deque()).append(run)
        self.live_count += 1
        self._live_by_owner[owner] += 1
        self._quiet.clear()
        return run

    def _check_room(self, owner: str, line: Sequence[Run[Frame]], if_busy: IfBusy) -> None:
        limits = self._limits
        if not self.has_room:
            raise TooMany("runs", limits.max_runs)
        if owner and self._live_by_owner[owner] >= limits.max_runs_per_owner:  # what is nobody's counts only together
            raise TooMany("runs", limits.max_runs_per_owner, whose=Whose.OWNER)
        if if_busy is IfBusy.QUEUE and len(line) > limits.max_queued:
            raise TooMany("queued_runs", limits.max_queued, whose=Whose.SESSION)

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

    def check_room_for_subscriber(self, feed: Feed[Frame] | None = None) -> None:
        """Raises `TooMany` if there is none, here or at *feed*."""
        if self.subscribers >= self._limits.max_subscribers:
            raise TooMany("subscribers", self._limits.max_subscribers)
        if feed is not None and feed.subscribers >= self._limits.max_subscribers_per_run:
            raise TooMany("subscribers", self._limits.max_subscribers_per_run, whose=Whose.RUN)

    @contextmanager
    def reader(self, feed: Feed[Frame], seq: int = 0) -> Iterator[Reader[Frame]]:
        """Subscribe to *feed* from frame *seq* on, until the block is left. Raises `TooMany`."""
        self.check_room_for_subscriber(feed)
        self.subscribers += 1
        number = feed.joined()
        try:
            yield Reader(feed, seq)
        finally:
            self.subscribers -= 1
            feed.left(number)

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
            run.ask(reason)
        return bool(line)

    def stop_run(self, run: Run[Frame], reason: StopReason = StopReason.USER_STOP) -> bool:
        """Stop this run only; True if it was live."""
        run.ask(reason)
        return not run.ended.is_set()

    def stop_unborn(self, run_id: str, owner: str = "") -> None:
        """Remember for a minute that the owner's *run_id*, which nobody knows here, must not start."""
        self._tombstones.add((owner, run_id), asyncio.get_running_loop().time())

    def disown(self, run: Run[Frame]) -> None:
        """Stop *run*, which somebody else has ended: nobody finds it here any more, and its readers come back."""
        run.ask(StopReason.NODE_LOST)
        self._evict(run)
        run.withdraw()

    async def drain(self, grace_s: float, limit_s: float) -> bool:
        """Admit nothing more; let the live runs go on for *grace_s*, then stop them and wait up to *limit_s*.

        Returns whether everything has ended. `hurry` cuts the grace short, never the saves. A second drain has nothing
        left to do, and doesn't wait again for what has outlived the first.
        """
        if self._drained:
            return self._quiet.is_set()
        self.draining = True
        try:
            async with asyncio.timeout(0 if self._hurried else grace_s) as self._grace:
                await self._quiet.wait()
        except TimeoutError:
            pass
        self._grace = None
        for line in tuple(self._lines.values()):
            for run in tuple(line):
                run.ask(StopReason.SHUTDOWN)
        try:
            async with asyncio.timeout(limit_s):
                await self._quiet.wait()
        except TimeoutError:
            _log.error("%d runs were still being saved after %s s", self.live_count, limit_s)
        self._drained = True
        return self._quiet.is_set()

    def hurry(self) -> None:
        """Make a `drain`, under way or to come, stop the live runs at once."""
        self._hurried = True
        if self._grace is not None and not self._grace.expired():
            self._grace.reschedule(asyncio.get_running_loop().time())

    # A run's way: see `lifetime`

    def _lifetime(
        self, run: Run[Frame], source: AsyncGenerator[Frame, None], terms: Terms[Frame], sink: Sink[Frame] | None
    ) -> Lifetime[Frame]:
        return Lifetime(
            run=run,
            source=source,
            opening=terms.get("opening"),
            closing=terms.get("closing"),
            connect=terms.get("connect"),
            before=terms.get("before"),
            sink=sink,
            accepted=self._replace if terms.get("if_busy") is IfBusy.REPLACE else _nothing,
            turn=self._turn,
            over=self._over,
            limits=self._limits,
            tasks=self._tasks,
        )

    def _replace(self, run: Run[Frame]) -> None:
        """Stop what stands before *run*: not earlier, as nothing has happened if it is refused."""
        for predecessor in takewhile(lambda other: other is not run, self._lines[run.session_id]):
            predecessor.ask(StopReason.REPLACED)

    async def _turn(self, run: Run[Frame]) -> None:
        line = self._lines[run.session_id]
        while line[0] is not run:
            await line[0].ended.wait()

    def _over(self, run: Run[Frame]) -> None:
        self._leave_line(run)
        if run.refusal is not None:
            self._forget(run)
            return
        if run.withdrawn:
            self._evict(run)
        asyncio.get_running_loop().call_later(self._limits.replay_grace_s, self._grace_over, run)
        self.endings[Ending(run.stop_reason)] += 1
        if self._on_ended is not None:
            try:
                self._on_ended(run)
            except Exception:
                _log.exception("run %s: not everybody could be told that it ended", run.id)

    def _leave_line(self, run: Run[Frame]) -> None:
        line = self._lines[run.session_id]
        line.remove(run)
        if not line:
            del self._lines[run.session_id]
        self.live_count -= 1
        self._live_by_owner[run.owner] -= 1
        if not self._live_by_owner[run.owner]:
            del self._live_by_owner[run.owner]
        if not self.live_count:
            self._quiet.set()

    def _grace_over(self, run: Run[Frame]) -> None:
        if run.subscribers:
            run.on_unwatched = partial(self._evict, run)
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


def _nothing(_: object) -> None: ...


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait({task})
