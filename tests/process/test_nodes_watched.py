"""What `/readyz` and `/metrics` say of several nodes, and of a Redis that is away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models
from tests.process.nodes import Node, nodes_with
from tests.process.raw_client import until
from tests.process.redis import redis_server

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]


async def redis_of(node: Node) -> object:
    answer = await node.service.get("/readyz")
    assert answer.status == 200
    return answer.json["redis"]


async def test_what_an_operator_sees(models: Models, tmp_path: Path, postgres: Postgres) -> None:
    async with redis_server() as redis, nodes_with(2, models, tmp_path, redis=redis, postgres=postgres) as nodes:
        owner, other = nodes
        for node in nodes:
            await until(lambda node=node: redis_of(node), lambda seen: seen is True)
            await node.service.until_metric("odysseus_nodes", 2)
        client = await owner.service.chat(models.plan(cue := Cue("Hello")))
        there = await other.service.resume(client.session_id)
        await there.read_text("Hello")
        assert await other.service.metric("odysseus_runs_followed") == 1
        assert await owner.service.metric("odysseus_redis_errors_total") == 0

        owner.redis.cut()
        cue.say(", world")
        await until(lambda: redis_of(owner), lambda seen: seen is False)
        await owner.service.until_metric("odysseus_runs_behind_in_redis", 1)
        assert await owner.service.metric("odysseus_redis_errors_total") > 1
        assert await redis_of(other) is True

        await owner.redis.heal()
        await there.read_text("Hello, world")
        await until(lambda: redis_of(owner), lambda seen: seen is True)
        await owner.service.until_metric("odysseus_runs_behind_in_redis", 0)
        cue.end()
        await there.read_all()
        await client.read_all()
    await models.all_closed()
