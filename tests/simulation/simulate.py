"""One schedule, played with the real runs, generations and saves, and checked at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from multiprocessing import get_context
from random import Random
from typing import Any

from odysseus.errors import RequestError, StoreError, TooMany
from odysseus.feed import Reader
from odysseus.recovery import recover
from odysseus.replay import event_id
from odysseus.run import IfBusy, Run
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.states import Ending
from odysseus.tasks import Tasks
from tests.simulation.agents import User, Workshop, new_generation
from tests.simulation.promises import Call, Subscriber, at_rest, check
from tests.simulation.schedule import LENGTH, TICK, Act, Deed, Request, Schedule
from tests.simulation.world import Client, Model, Spool, Store, Weather, World, steps, time
from tests.virtual_time import run_virtual

__all__ = ["Simulation", "Violation", "failures", "simulate"]

_FOREVER_S = 10_000.0


class Violation(AssertionError):
    """A promise was broken. The text says which ones; `said` is what had happened."""

    def __init__(self, seed: int, broken: Sequence[str], said: Sequence[str]) -> None:
        super().__init__(f"seed {seed}: " + "; ".join(broken))
        self.said = said


def simulate(seed: int, *, tell: Callable[[str], None] | None = None) -> list[str]:
    """Play schedule *seed*; return what happened in it. Raises `Violation`, also for whatever else went wrong."""
    simulation = Simulation(seed, tell)
    world = simulation.world
    cause: BaseException | None = None
    try:
        run_virtual(simulation.play(), limit_s=4 * _FOREVER_S, strict=not simulation.schedule.killed)
    except (Exception, asyncio.CancelledError) as error:
        cause = error
        world.broken.append(f"{type(error).__name__}: {error}")
    if world.broken:
        raise Violation(seed, world.broken, world.said) from cause
    return world.said


def failures(seeds: Sequence[int], processes: int) -> Iterator[tuple[int, str]]:
    """Play the schedules of *seeds*, spread over *processes*; yield each seed that failed, and why."""
    chunks = [seeds[start : start + 50] for start in range(0, len(seeds), 50)]
    with get_context("spawn").Pool(processes, initializer=_quiet) as pool:
        for found in pool.imap_unordered(_failures, chunks):
            yield from found


def _failures(seeds: Sequence[int]) -> list[tuple[int, str]]:
    found = []
    for seed in seeds:
        try:
            simulate(seed)
        except Violation as violation:
            found.append((seed, str(violation)))
    return found


def _quiet() -> None:
    logging.disable(logging.CRITICAL)  # failing stores are what it is all about


class Simulation:
    """The service in a world that goes as schedule *seed* says. *tell* hears what happens."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None) -> None:
        self.schedule = schedule = Schedule(seed)
        self.world = World(tell)
        weather = Random(schedule.weather_seed)
        self.store = Store(self.world, Weather(self.world, weather, schedule.store_outages))
        self.store.on_finish, self.store.on_pull = self._before_a_save, self._before_a_pull
        self.spool = Spool(self.world, Weather(self.world, weather, schedule.spool_outages))
        self._start()
        self.calls = [self._call(request) for request in schedule.requests]
        self._gone = False  # killed: nothing can reach it any more
        self._admitted: list[Call] = []  # in this order, if at all
        self._pulled: list[Call] = []
        self._watching: list[asyncio.Task[None]] = []  # witnesses and subscribers
        self._subscribers: list[Subscriber] = []

    def _call(self, request: Request) -> Call:
        client = Client(self.world, request, lambda frame: self._seen(call, frame))
        call = Call(request, Model(self.world, request), Workshop(self.world, request), client)
        return call

    # Playing

    def _start(self) -> None:
        """What a process has of its own."""
        self.tasks = Tasks()
        self.saves = Saves(self.store.finish, self.spool, self.tasks)
        self.runs: Runs[bytes] = Runs(self.schedule.limits, tasks=self.tasks)

    async def play(self) -> None:
        schedule = self.schedule
        for act in schedule.acts:
            self._at(act)
        tick, hops = schedule.end_at
        if schedule.killed:
            for before_s in (1.2, 0.2):
                asyncio.get_running_loop().call_at(tick * TICK - before_s, self._measure)
        await asyncio.sleep(tick * TICK)
        await steps(hops)
        await (self._kill() if schedule.killed else self._shut_down())
        await self._start_again()
        self.store.weather.outages = self.spool.weather.outages = ()
        await self._start_again()
        check(self.world, self.store, self.calls, self._subscribers, schedule.limits, killed=schedule.killed)

    def _at(self, act: Act) -> None:
        loop = asyncio.get_running_loop()

        def step(left: int) -> None:
            if left:
                loop.call_soon(step, left - 1)
            elif not self._gone:
                self._do(act)

        loop.call_at(act.tick * TICK, step, act.steps)

    def _do(self, act: Act) -> None:
        call = self.calls[act.request]
        match act.deed:
            case Deed.ARRIVE:
                self._arrive(call)
            case Deed.LEAVE:
                self._leave(call)
            case Deed.STOP_RUN:
                self._stop_run(call)
            case Deed.STOP_SESSION:
                self._stop_session(call.turn.session_id)
            case Deed.SUBSCRIBE:
                self._subscribe(call, act)

    async def _shut_down(self) -> None:
        self.world.say("drain")
        schedule, loop = self.schedule, asyncio.get_running_loop()
        if schedule.hurry_after is not None:
            loop.call_later((schedule.hurry_after + 0.5) * TICK, self.runs.hurry)
        self.world.expect(await self.runs.drain(schedule.drain_s, _FOREVER_S), "drain gave up")
        self.world.expect(all(run.ended.is_set() for run in self.runs.all()), "drained, and a run is live")
        self.world.say("drained")
        await asyncio.sleep(max(0, 2 * LENGTH * TICK - time()))  # what arrives too late
        if schedule.settles:
            over_at = max((until for _, until, _ in (*schedule.store_outages, *schedule.spool_outages)), default=0)
            await asyncio.sleep(max(0, over_at - time()) + 15)
            self.world.expect(not self.spool.held or bool(schedule.spool_outages), "answers stay in the spool")
        self.saves.close()
        await self.tasks.drain(_FOREVER_S)
        await self.store.checkpoints.drain(_FOREVER_S)
        await self._all_quiet()

    async def _all_quiet(self) -> None:
        tasks = [call.task for call in self.calls if call.task] + [call.run.task for call in self.calls if call.run]
        await asyncio.gather(*tasks, *self._watching, return_exceptions=True)
        for call in self.calls:
            cancelled = call.task is not None and call.task.cancelled()
            self.world.expect(cancelled is call.cancelled, f"{call.id}: its caller's cancel was lost")
            error = call.task and not cancelled and call.task.exception()
            self.world.expect(not error, f"{call.id}: its caller got {error!r}")
            task = call.run and call.turn.detached and call.run.task
            self.world.expect(not task or not (task.cancelled() or task.exception()), f"{call.id}: its task raised")
        others = asyncio.all_tasks() - {asyncio.current_task()}
        self.world.expect(not others, f"left behind: {others}")
        self._check_runs()

    def _check_runs(self) -> None:
        runs, accepted = self.runs, [call for call in self.calls if call.accepted]
        self.world.expect(runs.endings.total() == len(accepted), f"{runs.endings} of {len(accepted)}")
        self.world.expect(all(run.log for run in runs.all()), "a refused run is kept")
        readers = [runs.subscribers, *(run.subscribers for run in runs.all())]
        self.world.expect(not any(readers), f"subscribers are left: {readers}")
        latest = {call.turn.session_id: call.run for call in self._admitted if call.accepted}
        for session_id, run in latest.items():
            kept = self.schedule.limits.replay_grace_s > 100
            self.world.expect(not kept or runs.latest(session_id) is run, f"the latest of {session_id} is another")
            self.world.expect(not runs.live(session_id), f"{session_id} has a live run")

    async def _start_again(self) -> None:
        """The next process settles what this one left. While it can't start it is started again."""
        self.world.say("start")
        started = False
        while not started:
            self._start()
            try:
                await recover(self.store, self.saves)  # type: ignore[arg-type]  # all it needs of a store
                started = True
            except (StoreError, OSError):
                await asyncio.sleep(1)
            self.saves.close()
            await self.tasks.drain(_FOREVER_S)
        await self.store.checkpoints.drain(_FOREVER_S)

    async def _kill(self) -> None:
        self.world.say("killed")
        self.world.dead = self._gone = True
        for row in self.store.rows.values():
            row.troubled |= row.checkpoint_since is not None and time() - row.checkpoint_since > 2 * TICK
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        for timer in asyncio.get_running_loop()._scheduled:  # type: ignore[attr-defined]
            timer.cancel()
        self.world.dead = False

    def _measure(self) -> None:
        for call in self.calls:
            call.lengths.append(len(call.log))

    # What arrives

    def _arrive(self, call: Call) -> None:
        lifetime = "detached" if call.turn.detached else "direct"
        self.world.say(
            f"{call.id} arrives for {call.turn.session_id}: {call.turn.mode}, {call.request.if_busy}, {lifetime}"
        )
        call.task = asyncio.create_task(self._serve(call))

    async def _serve(self, call: Call) -> None:
        """What the web's handler does."""
        limits = self.schedule.agent_limits
        generation = new_generation(call.model, call.workshop, limits, self.store, self.saves, self.tasks)

        async def opening() -> None:
            call.run = self.runs.get(call.id)
            assert call.run is not None
            self._watching.append(asyncio.create_task(self._witness(call, call.run)))
            line = self.runs.live(call.turn.session_id)
            self._watching.append(asyncio.create_task(self._replaces(call, call.run, line[: line.index(call.run)])))
            await generation.opening()
            call.accepted = True

        async def closing(ending: Ending, failure: BaseException | None) -> list[bytes]:
            if not self.world.dead:
                call.closings.append((ending, time()))
                call.pulled = len(call.log)
            return await generation.closing(ending, failure)

        frames = generation.stream_with_save()
        hooks: dict[str, Any] = {
            "run_id": call.id,
            "owner": call.turn.owner,
            "if_busy": call.request.if_busy,
            "opening": opening,
            "closing": closing,
            "connect": generation.connect,
            "about": generation,
            "ledger": generation.ledger,
        }
        self._admitted.append(call)
        try:
            if call.turn.detached:
                await self.runs.start(call.turn.session_id, frames, **hooks).wait_accepted()
            else:
                run = await self.runs.direct(call.turn.session_id, frames, call.client, **hooks)
                self.world.expect(run.ended.is_set() and self.settled(call), f"{call.id} came back before its save")
        except (RequestError, StoreError) as refusal:
            self.world.say(f"{call.id} is refused: {refusal}")
            self.world.expect(not call.accepted, f"{call.id} was accepted, then refused")

    async def _replaces(self, call: Call, run: Run[bytes], before: Sequence[Run[bytes]]) -> None:
        """See whom it stops when it is accepted; nobody, if it is refused."""
        await run.accepted.wait()
        if run.refusal is None and call.request.if_busy is not IfBusy.QUEUE:
            spared = [other.id for other in before if other.asked is other.ending is None]
            self.world.expect(not spared, f"{call.id} spared {spared}")

    async def _witness(self, call: Call, run: Run[bytes]) -> None:
        """See every frame when it can be seen at all."""
        reader, user = Reader(run, 0), User(self.world, self.runs, run)
        while frames := await reader.read():
            for frame in frames:
                call.seen_at.append(time())
                self._seen(call, frame)
                user.see(frame)
        if call.accepted:
            self.world.expect(self.settled(call), f"{call.id} ended before its save")
            self.world.say(f"{call.id} has ended: {run.status} {run.stop_reason}")
            call.ended = not self.world.dead

    def _seen(self, call: Call, frame: bytes) -> None:
        if b'"type":"ended"' in frame:
            self.world.expect(self.settled(call), f"{call.id} announced its end before its save")

    def settled(self, call: Call) -> bool:
        row = self.store.rows.get(call.turn.message_id)
        return (row is not None and row.finishes > 0) or call.turn.message_id in self.spool.held

    def _about(self, message_id: str) -> Call:
        return next(call for call in self.calls if call.turn.message_id == message_id)

    def _before_a_save(self, message_id: str) -> None:
        call = self._about(message_id)
        for promise in at_rest(call):
            self.world.expect(False, f"{call.id} {promise}")

    def _before_a_pull(self, message_id: str) -> None:
        call = self._about(message_id)
        if call in self._pulled:
            return  # it reads its session's messages once more
        for other in self._pulled:
            alone = other.turn.session_id != call.turn.session_id or self.settled(other)
            self.world.expect(alone, f"{call.id} was pulled before {other.id} was saved")
        self._pulled.append(call)

    def _leave(self, call: Call) -> None:
        if call.task is None or call.task.done():
            return
        self.world.say(f"{call.id}: its client leaves")
        call.cancelled = call.task.cancel()
        run = self.runs.get(call.id)
        if not call.turn.detached and run is not None and run.asked is None and run.ending is None:
            call.left_at = call.left_at or time()

    def _stop_session(self, session_id: str) -> None:
        self.world.say(f"stop {session_id}")
        self._note_stop(self.runs.live(session_id))
        self.runs.stop(session_id)

    def _stop_run(self, call: Call) -> None:
        run = self.runs.get(call.id)
        self.world.say(f"stop {call.id}" + (", early" if call.task is None else ""))
        if run is not None:
            self._note_stop([run])
            self.runs.stop_run(run)
        elif call.task is None:
            self.runs.stop_unborn(call.id, call.turn.owner)

    def _note_stop(self, runs: Sequence[Run[bytes]]) -> None:
        for call in self.calls:
            if any(run.id == call.id and run.asked is None and run.ending is None for run in runs):
                call.stopped = True

    def _subscribe(self, call: Call, act: Act) -> None:
        task = asyncio.create_task(self._subscriber(call, act.seq))
        self._watching.append(task)
        if act.stays is not None:
            asyncio.get_running_loop().call_later(act.stays * TICK, task.cancel)

    async def _subscriber(self, call: Call, seq: int) -> None:
        """Read the call's session from an id that may be of another run, or not given out yet."""
        session_id = call.turn.session_id
        if (run := self.runs.current(session_id)) is None:
            return
        known = run.id == call.id and 0 <= seq < len(run.log)
        subscriber = Subscriber(run, seq + 1 if known else 0)
        last_event_id = event_id(call.id, seq) if seq > -2 else None
        try:
            async with aclosing(self.runs.subscribe(session_id, last_event_id=last_event_id)) as frames:
                self._subscribers.append(subscriber)
                async for frame in frames:
                    subscriber.got.append(frame)
            subscriber.whole = True
        except TooMany:
            self._subscribers.remove(subscriber)
