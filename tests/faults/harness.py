"""One schedule, played against real nodes: what it says is done, healed, and what was seen is gathered."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from tests.faults.actors import PING_S, Clock, Users
from tests.faults.schedule import Fault, How, Kind, Run, Schedule
from tests.faults.verdict import FINAL, Row, RunSeen
from tests.postgres import Postgres
from tests.process.models import Models, words
from tests.process.nodes import Node, Nodes
from tests.process.proxy import Proxy
from tests.process.raw_client import until
from tests.process.redis import Redis

__all__ = ["SETTINGS", "Outcome", "play"]

SETTINGS = {"ping_interval_s": PING_S, "max_runs": 5000, "max_runs_per_owner": 5000, "drain_s": 0}
"""Of the nodes."""

_PATIENCE_S = 30.0  # from when all is healed: more than the death of a node may take, twice
_ROWS = "SELECT session_id, role, status, stop_reason, content, run_id, id FROM messages ORDER BY n"


@dataclass
class Outcome:
    runs: Sequence[RunSeen]
    rows: Sequence[Row]
    open_requests: int
    lasted_s: float
    logged: Sequence[str]
    """Lines of the nodes' logs that no fault excuses."""

    @property
    def summary(self) -> str:
        statuses = Counter(row.status for row in self.rows if row.role == "assistant")
        watched = [one for run in self.runs for one in run.watched]
        refusals = Counter(run.refusal for run in self.runs if run.refusal is not None)
        told = sum(len(run.receipts) for run in self.runs)
        return (
            f"{sum(run.accepted for run in self.runs)} of {len(self.runs)} runs accepted in {self.lasted_s:.0f} s: "
            f"{dict(statuses)}; refused: {dict(refusals)}; {told} stops; {len(watched)} subscribers, "
            f"{sum(one.resets for one in watched)} resets, {sum(one.snapshots for one in watched)} snapshots"
        )


class _Saboteur:
    """Does what the schedule's faults say, and undoes it when their time is over."""

    def __init__(self, nodes: Nodes, redis: Redis | None, postgres: Postgres, clock: Clock) -> None:
        self._nodes = nodes
        self._redis = redis
        self._postgres = postgres
        self._clock = clock

    async def work(self, lane: Sequence[Fault]) -> None:
        late_s = 0.0  # a start may take its time; what comes next keeps its distance
        for fault in lane:
            await self._clock.until(fault.at_s + late_s)
            node: Node = self._nodes[fault.node]
            await self._begin(fault.kind, node)
            await asyncio.sleep(fault.lasts_s)
            await self._end(fault.kind, node)
            late_s = max(0.0, self._clock.now_s - fault.ends_s)

    async def _begin(self, kind: Kind, node: Node) -> None:
        match kind:
            case Kind.KILL:
                await node.kill()
            case Kind.RESTART:
                node.terminate()
                assert await node.service.wait() == 0
            case Kind.PAUSE:
                node.stop()
            case Kind.REDIS_EMPTY:
                assert self._redis is not None
                await self._redis.stop()
            case Kind.REDIS_FROZEN:
                assert self._redis is not None
                self._redis.freeze()
            case Kind.DATABASE_AWAY:
                await asyncio.to_thread(self._postgres.stop)
            case Kind.REDIS_CUT | Kind.DATABASE_CUT:
                _proxy(kind, node).cut()
            case Kind.REDIS_PARTED | Kind.DATABASE_PARTED:
                _proxy(kind, node).freeze()

    async def _end(self, kind: Kind, node: Node) -> None:
        match kind:
            case Kind.KILL | Kind.RESTART:
                await node.start_again(_PATIENCE_S)
            case Kind.PAUSE:
                node.resume()
            case Kind.REDIS_EMPTY:
                assert self._redis is not None
                await self._redis.start(empty=True)
            case Kind.REDIS_FROZEN:
                assert self._redis is not None
                self._redis.thaw()
            case Kind.DATABASE_AWAY:
                await asyncio.to_thread(self._postgres.start)
            case _:
                await _proxy(kind, node).heal()


def _proxy(kind: Kind, node: Node) -> Proxy:
    proxy = node.redis if kind in (Kind.REDIS_CUT, Kind.REDIS_PARTED) else node.database
    assert proxy is not None
    return proxy


async def play(
    schedule: Schedule, nodes: Nodes, models: Models, *, postgres: Postgres, redis: Redis | None = None
) -> Outcome:
    """Play *schedule*; return what was seen when all is healed and quiet, or nobody waits for that any more."""
    sessions = [await nodes.next_node().service.session() for _ in range(schedule.common_sessions)]
    runs = [_run_seen(plan, schedule.seed, models) for plan in schedule.runs]
    clock = Clock()
    users = Users(nodes, clock, sessions)
    saboteur = _Saboteur(nodes, redis, postgres, clock)
    with contextlib.suppress(TimeoutError):  # what then has no end is for the verdict
        async with asyncio.timeout(None) as limit, asyncio.TaskGroup() as group:
            for plan, run in zip(schedule.runs, runs, strict=True):
                group.create_task(users.ask(plan, run))
            await asyncio.gather(*(saboteur.work(lane) for lane in schedule.lanes))
            await nodes.heal()
            limit.reschedule(asyncio.get_running_loop().time() + _PATIENCE_S)
    with contextlib.suppress(TimeoutError):
        await until(lambda: _is_quiet(postgres, nodes.database, models))
    for run in runs:
        run.asked = len(models.asked(run.prompt))
        run.is_active = run.accepted
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_S):
            await _gather(users, runs)
    rows = await _rows(postgres, nodes.database)
    for run in runs:
        run.find_id(rows)
    return Outcome(runs, rows, len(models.open), clock.now_s, [line for node in nodes for line in node.faults])


def _run_seen(plan: Run, seed: int, models: Models) -> RunSeen:
    script, said = words(plan.words, pause_s=plan.pause_s, breaks_after=plan.breaks_after, ends=not plan.must_be_ended)
    return RunSeen(f"run-{seed}-{plan.number:04}", models.plan(script), said, direct=plan.how is not How.DETACHED)


async def _is_quiet(postgres: Postgres, database: str, models: Models) -> bool:
    """Whether no message streams, and no model is asked."""
    return not models.open and all(row.status in FINAL for row in await _rows(postgres, database))


async def _rows(postgres: Postgres, database: str) -> Sequence[Row]:
    connection = await asyncpg.connect(postgres.url(database))
    try:
        return [Row(*record) for record in await connection.fetch(_ROWS)]
    finally:
        await connection.close()


async def _gather(users: Users, runs: Sequence[RunSeen]) -> None:
    """Note how it is now: what a late subscriber gets, and what the sessions say."""
    few = asyncio.Semaphore(20)

    async def look(run: RunSeen) -> None:
        async with few:
            if not run.direct or run.kept:
                await users.replay(run)
            session = await users.call(run.run_id, "GET", f"/api/sessions/{run.session_id}")
            run.is_active = session.json["active_run"] is not None

    await asyncio.gather(*(look(run) for run in runs if run.accepted and not run.deleted))
