"""Hundreds of runs while nodes die and freeze, connections break, and Redis and PostgreSQL go away.

The schedule is drawn from a seed, which is printed; `FAULTS_SEED` replays it, `FAULTS_RUNS` makes it longer or shorter.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import SETTINGS, Outcome, play
from tests.faults.schedule import Kind, Schedule
from tests.faults.verdict import verdict
from tests.postgres import Postgres, postgres_server
from tests.process.models import Models
from tests.process.nodes import LEASE_S, nodes_with
from tests.process.raw_client import Client
from tests.process.redis import redis_server

pytestmark = [pytest.mark.process]


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server
    while Client.everyone:
        Client.everyone.pop().close()


def new_seed() -> int:
    return int(os.environ.get("FAULTS_SEED") or random.randrange(1_000_000))


def check(schedule: Schedule, outcome: Outcome, least_done: float) -> None:
    """Nothing is broken, and it was no idle day: *least_done* of the runs were done."""
    print(f"FAULTS_SEED={schedule.seed}: {len(schedule.faults)} faults; {outcome.summary}")
    broken = [*verdict(outcome.runs, outcome.rows, outcome.open_requests), *outcome.logged]
    assert not broken, f"FAULTS_SEED={schedule.seed}: {len(broken)} broken:\n" + "\n".join(broken[:40])
    assert sum(row.status == "done" for row in outcome.rows if row.role == "assistant") >= least_done * len(
        outcome.runs
    )


async def test_one_node_that_comes_and_goes(tmp_path: Path, postgres: Postgres) -> None:
    """Without Redis: whoever was cut off finds what was saved, and comes to its end."""
    runs = int(os.environ.get("FAULTS_RUNS") or 100)
    schedule = Schedule(new_seed(), runs=runs, nodes=1, span_s=12, kinds=[Kind.KILL, Kind.RESTART])
    async with Models() as models, nodes_with(1, models, tmp_path, postgres=postgres, **SETTINGS) as nodes:
        outcome = await play(schedule, nodes, models, postgres=postgres)
    assert models.refused == []
    check(schedule, outcome, 0.3)


async def test_three_nodes(tmp_path: Path, postgres: Postgres) -> None:
    runs = int(os.environ.get("FAULTS_RUNS") or 500)
    schedule = Schedule(new_seed(), runs=runs, nodes=3, lease_s=LEASE_S)
    async with (
        Models() as models,
        redis_server() as redis,
        nodes_with(3, models, tmp_path, redis=redis, postgres=postgres, **SETTINGS) as nodes,
    ):
        outcome = await play(schedule, nodes, models, postgres=postgres, redis=redis)
    assert models.refused == []
    check(schedule, outcome, 0.4)
