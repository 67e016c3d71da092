"""One schedule: drawn from its seed, played with the real runs, generations and saves, and checked at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from multiprocessing import get_context
from random import Random
from typing import Any

from odysseus.application import recover
from odysseus.errors import RequestError, StoreError, TooMany
from odysseus.generation import Generation
from odysseus.messages import Mode, Turn
from odysseus.replay import event_id
from odysseus.run import IfBusy, Limits, Reader, Run
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.states import Ending
from odysseus.tasks import Tasks
from odysseus.upstream import Reasoning, Text
from tests.simulation.promises import Call, Subscriber, check
from tests.simulation.world import TICK, Client, End, Model, Spool, Store, Weather, World, time
from tests.virtual_time import run_virtual

__all__ = ["Simulation", "Violation", "failures", "simulate"]

_LENGTH = 64  # ticks in which requests, stops, cancels and subscribers arrive
_FOREVER_S = 10_000.0


class Violation(AssertionError):
    """A promise was broken. The text says which ones; `said` is what had happened."""

    def __init__(self, seed: int, broken: Sequence[str], said: Sequence[str]) -> None:
        super().__init__(f"seed {seed}: " + "; ".join(broken))
        self.said = said


def simulate(seed: int, *, fair_start: bool = True, tell: Callable[[str], None] | None = None) -> list[str]:
    """Play schedule *seed*; return what happened in it. Raises `Violation`, also for whatever else went wrong."""
    simulation = Simulation(seed, fair_start=fair_start, tell=tell)
    world = simulation.world
    cause: Exception | None = None
    try:
        run_virtual(simulation.play(), limit_s=4 * _FOREVER_S, strict=not simulation.killed)
    except Exception as error:
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
    """Draws everything first, so that what is drawn never depends on what happens."""

    def __init__(self, seed: int, *, fair_start: bool, tell: Callable[[str], None] | None) -> None:
        self._fair_start = fair_start
        """The store and the spool work again when the next process starts."""
        self._rng = rng = Random(seed)
        self.world = World(tell)
        self.store = Store(self.world, self._weather(0.6))
        self.spool = Spool(self.world, self._weather(0.2))
        self.store.on_finish, self.store.on_pull = self._before_a_save, self._before_a_pull
        self.limits = Limits(
            idle_timeout_s=rng.choice((1, 2, 60)),
            wall_clock_timeout_s=rng.choice((2, 4, 600)),
            max_log_bytes=rng.choice((1500, 6000, 10**6)),
            max_runs=rng.choice((2, 100, 100)),
            max_subscribers=rng.choice((2, 100, 100)),
            replay_grace_s=rng.choice((1, 180)),
        )
        self._start()
        self.calls = [self._call(nth, f"s{rng.randrange(2)}") for nth in range(rng.randint(2, 8))]
        self.by_message = {call.turn.message_id: call for call in self.calls}
        self._gone = False  # killed: nothing can reach it any more
        self._admitted: list[Call] = []  # in this order, if at all
        self._pulled: list[Call] = []
        self._watching: list[asyncio.Task[None]] = []  # witnesses and subscribers
        self._subscribers: list[Subscriber] = []
        self.killed = rng.random() < 0.3
        self._acts = list(self._draw_acts())
        self._end_at = (rng.randrange(_LENGTH // 2, _LENGTH + 16), rng.randrange(8))
        self._drain_s, self._hurry_at = rng.choice((0, 1, 30)), rng.choice((None, 0, 2, 9))
        self.settles = rng.random() < 0.5
        """The service goes on until the spool is empty; otherwise the next start has to do that."""

    def _draw_acts(self) -> Iterator[tuple[int, int, Callable[[Any], None], Any]]:
        """What happens at which tick, and how many steps of the loop after its begin."""
        rng = self._rng

        def soon(tick: int) -> tuple[int, int]:
            return tick + rng.choice((0, 0, 1, 1, 2, 4, 8, 16, 32)), rng.randrange(8)

        arrivals = {call: rng.randrange(_LENGTH) for call in self.calls}
        for call, tick in arrivals.items():
            yield tick, rng.randrange(8), self._arrive, call
        for _ in range(rng.randrange(10)):
            call = rng.choice(self.calls)
            yield *soon(arrivals[call]), rng.choice((self._leave, self._stop_call)), call
        for _ in range(rng.randrange(3)):
            yield rng.randrange(_LENGTH), rng.randrange(8), self._stop_session, f"s{rng.randrange(2)}"
        for _ in range(rng.randrange(3)):
            yield rng.randrange(_LENGTH), rng.randrange(8), self._stop_call, rng.choice(self.calls)
        for _ in range(rng.randrange(7)):
            call = rng.choice(self.calls)
            yield *soon(arrivals[call]), self._subscribe, (call, rng.randrange(-2, 12), rng.randrange(2 * _LENGTH))

    def _weather(self, likely: float) -> Weather:
        rng = self._rng
        outages: list[tuple[float, float, str]] = []
        while rng.random() < likely:
            since = rng.randrange(2 * _LENGTH) * TICK
            until = since + rng.choice((0.5, 1, 2, 4, 20))
            outages.append((since, until, rng.choice(("slow", "down", "deaf", "deaf", "hung"))))
        return Weather(self.world, Random(rng.random()), outages)

    def _call(self, nth: int, session_id: str) -> Call:
        rng, name = self._rng, f"r{nth}"
        reads = [
            (
                rng.choice((0, 0, 0, 1, 1, 2, 6, 12, 24)),
                [
                    rng.choice((Text, Text, Reasoning))(f"{name}.{read}.{piece} " * rng.choice((1, 1, 2, 99)))
                    for piece in range(rng.choice((1, 1, 3)))
                ],
            )
            for read in range(rng.choice((0, 1, 3, 5, 8, 30)))
        ]
        end = rng.choice((End.COMPLETE, End.COMPLETE, End.COMPLETE, End.FAILS, End.BUG, End.HANGS))
        turn = Turn(
            session_id=session_id,
            message_id=f"m{nth}",
            run_id=name,
            text=name,
            model="model",
            mode=Mode.CHAT,
            detached=rng.random() < 0.6,
        )
        model = Model(self.world, name, reads, end, rng.randrange(3))
        breaks_at = rng.choice((None, None, rng.randrange(6)))
        client = Client(self.world, rng.choice((0, 0, 1, 3, 20)), breaks_at, lambda frame: self._seen(call, frame))
        call = Call(turn, rng.choice(list(IfBusy)), model, client)
        return call

    # Playing

    def _start(self) -> None:
        """What a process has of its own."""
        self.tasks = Tasks()
        self.saves = Saves(self.store.finish, self.spool, self.tasks)
        self.runs: Runs[bytes] = Runs(self.limits, tasks=self.tasks)

    async def play(self) -> None:
        for tick, hops, act, what in self._acts:
            self._at(tick, hops, act, what)
        tick, hops = self._end_at
        if self.killed:
            for before_s in (1.2, 0.2):
                asyncio.get_running_loop().call_at(tick * TICK - before_s, self._measure)
        await asyncio.sleep(tick * TICK)
        for _ in range(hops):
            await asyncio.sleep(0)
        await (self._kill() if self.killed else self._shut_down())
        if not self._fair_start:
            await self._start_again()
        self.store.weather.outages = self.spool.weather.outages = ()
        await self._start_again()
        check(self.world, self.store, self.calls, self._subscribers, self.limits, killed=self.killed)

    def _at(self, tick: int, hops: int, act: Callable[[Any], None], what: Any) -> None:
        """Act at *tick*, or some steps after that, between those of others."""
        loop = asyncio.get_running_loop()

        def hop(left: int) -> None:
            if left:
                loop.call_soon(hop, left - 1)
            elif not self._gone:
                act(what)

        loop.call_at(tick * TICK, hop, hops)

    async def _shut_down(self) -> None:
        self.world.say("drain")
        loop = asyncio.get_running_loop()
        if self._hurry_at is not None:
            loop.call_later(self._hurry_at * TICK + TICK / 2, self.runs.hurry)
        self.world.expect(await self.runs.drain(self._drain_s, _FOREVER_S), "drain gave up")
        self.world.expect(not any(not run.ended.is_set() for run in self.runs.all()), "drained, and a run is live")
        self.world.say("drained")
        await asyncio.sleep(max(0, 2 * _LENGTH * TICK - time()))  # what arrives too late
        if self.settles:
            outages = (*self.store.weather.outages, *self.spool.weather.outages)
            await asyncio.sleep(max(0, *(until - time() for _, until, _ in outages), 0) + 15)
            held = bool(self.spool.held) and not self.spool.weather.outages
            self.world.expect(not held, "answers stay in the spool")
        self.saves.close()
        await self.tasks.drain(_FOREVER_S)
        await self._all_quiet()

    async def _all_quiet(self) -> None:
        tasks = [task for call in self.calls for task in (call.task, call.run and call.run.task) if task is not None]
        await asyncio.gather(*tasks, *self._watching, return_exceptions=True)
        for call in self.calls:
            cancelled = call.task is not None and call.task.cancelled()
            self.world.expect(cancelled is call.cancelled, f"{call.id}: its caller's cancel was lost")
            for task in (call.task, call.run and call.turn.detached and call.run.task):
                error = None if not task or (cancelled and task is call.task) else task.exception()
                self.world.expect(error is None, f"{call.id}: a task raised {error!r}")
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
            kept = self.limits.replay_grace_s > 100
            self.world.expect(not kept or runs.latest(session_id) is run, f"the latest of {session_id} is another")
            self.world.expect(not runs.live(session_id), f"{session_id} has a live run")

    async def _start_again(self) -> None:
        """The next process settles what this one left. While it can't start it is started again."""
        self.world.say("start")
        self._start()
        while True:
            try:
                await recover(self.store, self.saves)  # type: ignore[arg-type]  # all it needs of a store
            except (StoreError, OSError):
                await asyncio.sleep(1)
            else:
                return

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
        self.world.say(f"{call.id} arrives for {call.turn.session_id}: {call.if_busy}, {_lifetime(call)}")
        call.task = asyncio.create_task(self._serve(call))

    async def _serve(self, call: Call) -> None:
        """What the web's handler does."""
        generation = Generation(call.turn, call.model, self.store, self.saves, self.tasks)

        async def opening() -> None:
            call.run = self.runs.get(call.id)
            assert call.run is not None
            self._watching.append(asyncio.create_task(self._witness(call, call.run)))
            line = self.runs.live(call.turn.session_id)
            spared = [run.id for run in line[: line.index(call.run)] if run.asked is run.ending is None]
            self.world.expect(not spared or call.if_busy is IfBusy.QUEUE, f"{call.id} spared {spared}")
            await generation.opening()
            call.accepted = True

        async def closing(ending: Ending, failure: BaseException | None) -> list[bytes]:
            if not self.world.dead:
                call.closings.append((ending, time()))
            return await generation.closing(ending, failure)

        frames = generation.stream_with_save()
        hooks: dict[str, Any] = {"run_id": call.id, "if_busy": call.if_busy, "opening": opening, "closing": closing}
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

    async def _witness(self, call: Call, run: Run[bytes]) -> None:
        """See every frame when it can be seen at all."""
        reader = Reader(run, 0)
        while frames := await reader.read():
            for frame in frames:
                call.seen_at.append(time())
                self._seen(call, frame)
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

    def _before_a_save(self, message_id: str) -> None:
        call = self.by_message[message_id]
        self.world.expect(not call.model.open, f"{call.id} was saved before its upstream was closed")

    def _before_a_pull(self, message_id: str) -> None:
        call = self.by_message[message_id]
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

    def _stop_call(self, call: Call) -> None:
        run = self.runs.get(call.id)
        self.world.say(f"stop {call.id}" + (", early" if call.task is None else ""))
        if run is not None:
            self._note_stop([run])
            self.runs.stop_run(run)
        elif call.task is None:
            self.runs.stop_unborn(call.id)

    def _note_stop(self, runs: Sequence[Run[bytes]]) -> None:
        for call in self.calls:
            if any(run.id == call.id and run.asked is None and run.ending is None for run in runs):
                call.stopped = True

    def _subscribe(self, drawn: tuple[Call, int, int]) -> None:
        call, seq, ticks = drawn
        task = asyncio.create_task(self._subscriber(call, seq))
        self._watching.append(task)
        if ticks < _LENGTH:
            asyncio.get_running_loop().call_later(ticks * TICK, task.cancel)

    async def _subscriber(self, call: Call, seq: int) -> None:
        """Read the call's session from an id that may be of another run, or not given out yet; -2: without one."""
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


def _lifetime(call: Call) -> str:
    return "detached" if call.turn.detached else "direct"
