"""The world of nodes, with one of them: what is done to a node is done, and it comes back with its data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models
from tests.process.nodes import Node, Nodes, nodes_with
from tests.process.raw_client import until
from tests.process.redis import redis_server
from tests.process.service import Service

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def node(models: Models, tmp_path: Path, postgres: Postgres) -> AsyncIterator[Node]:
    async with nodes_with(1, models, tmp_path, postgres=postgres, drain_s=0) as nodes:
        yield nodes[0]


async def begun(service: Service, models: Models) -> tuple[str, str]:
    """Start a run that has said something; return its session and its prompt."""
    client = await service.chat(prompt := models.plan(Cue("Hello")))
    await client.read_text("Hello")
    return client.session_id, prompt


async def test_killed_and_started_again(node: Node, models: Models) -> None:
    session_id, prompt = await begun(node.service, models)
    assert models.open == [models.asked(prompt)[0]]
    await node.kill()
    await models.closed(prompt)
    assert models.open == []
    await node.start()
    [answer] = await node.service.settled(session_id)
    assert answer["stop_reason"] == "node_lost"


async def test_asked_to_go(node: Node, models: Models) -> None:
    session_id, _ = await begun(node.service, models)
    node.terminate()
    assert await node.service.wait() == 0
    assert not node.running
    await node.start_again()
    [answer] = await node.service.settled(session_id)
    assert (answer["content"], answer["stop_reason"]) == ("Hello", "shutdown")


async def test_a_pause(node: Node) -> None:
    node.stop()
    asked = asyncio.create_task(node.service.get("/healthz"))
    done, _ = await asyncio.wait({asked}, timeout=0.3)
    assert not done
    node.resume()
    assert (await asked).status == 200


async def test_cut_off_from_its_database(node: Node) -> None:
    async def store() -> bool:
        return bool((await node.service.get("/readyz")).json["store"])

    assert node.database is not None
    assert await store()
    node.database.cut()
    await until(store, lambda seen: not seen)
    await node.database.heal()
    await until(store)


async def test_an_outage_of_the_database(node: Node, postgres: Postgres) -> None:
    session_id = await node.service.session()
    await asyncio.to_thread(postgres.stop)
    assert (await node.service.get(f"/api/sessions/{session_id}")).status == 503
    await asyncio.to_thread(postgres.start)
    await until(lambda: node.service.get(f"/api/sessions/{session_id}"), lambda seen: seen.status == 200)


async def test_whose_turn_it_is() -> None:
    nodes = Nodes([Node.__new__(Node) for _ in range(3)])
    handed = [nodes.next_node() for _ in range(50)]
    assert {*map(id, handed)} == {*map(id, nodes)}
    assert all(before is not after for before, after in pairwise(handed))
    alone = Nodes(nodes[:1])
    assert alone.next_node() is alone.next_node() is nodes[0]
    first, second, other = (list(islice(nodes.at_random(seed), 50)) for seed in (1, 1, 2))
    assert first == second != other
    assert {*map(id, first)} == {*map(id, nodes)}


async def test_three(models: Models, tmp_path: Path, postgres: Postgres) -> None:
    """What one of them began is known to the others."""

    async def answers() -> list[Any]:
        return [await node.service.get(f"/api/sessions/{session_id}") for node in nodes]

    async with redis_server() as redis, nodes_with(3, models, tmp_path, redis=redis, postgres=postgres) as nodes:
        session_id = await nodes[0].service.session()
        assert [answer.status for answer in await answers()] == [200, 200, 200]
        nodes[1].stop()
        await nodes[2].kill()
        nodes[0].redis.cut()
        await nodes.heal()
        assert [answer.status for answer in await answers()] == [200, 200, 200]
        assert len({node.url for node in nodes} | {nodes.next_url() for _ in range(20)}) == 3
