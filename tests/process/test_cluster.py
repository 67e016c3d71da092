"""Two nodes while Redis or PostgreSQL is away: what goes on, what waits, and that nothing is missing afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import pytest_asyncio

from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models, words
from tests.process.nodes import LEASE_S, Nodes, nodes_with
from tests.process.raw_client import Client, frames, until
from tests.process.redis import Redis, redis_server

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

DONE = b"data: [DONE]\n\n"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis() -> AsyncIterator[Redis]:
    async with redis_server() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nodes(
    models: Models, redis: Redis, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Nodes]:
    folder = tmp_path_factory.mktemp("nodes")
    async with nodes_with(2, models, folder, redis=redis, postgres=postgres, drain_s=0) as nodes:
        yield nodes
        for node in nodes:
            node.terminate()
            assert await node.service.wait() == 0
            assert node.faults == []
    await models.all_closed()


async def watched(nodes: Nodes, models: Models, cue: Cue) -> tuple[Client, Client]:
    """Start a run at the first node that has said *cue*'s first word; return a client there, and one at the second."""
    near = await nodes[0].service.chat(models.plan(cue))
    await near.read_text(cue.said)
    far = await nodes[1].service.resume(near.session_id)
    await far.read_text(cue.said)
    return near, far


async def to_the_end(nodes: Nodes, client: Client) -> list[bytes]:
    """Read *client*, and come back at the second node as often as its stream ends early; return all frames."""
    got: list[bytes] = []
    session_id = client.session_id
    while True:
        await client.read_all()
        got += frames(client.body)
        if got[-1] == DONE:
            return got
        last = next((event.last_event_id for event in reversed(client.events)), None)
        client = await nodes[1].service.resume(session_id, last)
        assert client.status == 200


async def says_nothing(client: Client, for_s: float = 1.0) -> None:
    """Check that nothing comes but pings."""
    seen = len(client.events)
    try:
        async with asyncio.timeout(for_s):
            while await client.read():
                pass
    except TimeoutError:
        pass
    assert (len(client.events), client.complete) == (seen, False)


async def messages(nodes: Nodes, session_id: str) -> list[tuple[str, str]]:
    return [(message["status"], message["content"]) for message in await nodes[1].service.messages(session_id)][1:]


@asynccontextmanager
async def frozen(redis: Redis) -> AsyncIterator[None]:
    redis.freeze()
    yield
    redis.thaw()


@asynccontextmanager
async def stopped(redis: Redis) -> AsyncIterator[None]:
    await redis.stop()
    yield
    await redis.start()


@asynccontextmanager
async def emptied(redis: Redis) -> AsyncIterator[None]:
    await redis.stop()
    yield
    await redis.start(empty=True)


Away = Callable[[Redis], AbstractAsyncContextManager[None]]
AWAY = pytest.mark.parametrize("away", [stopped, frozen, emptied])


@AWAY
async def test_a_run_goes_on_without_redis_and_remote_readers_catch_up(
    nodes: Nodes, models: Models, redis: Redis, away: Away
) -> None:
    """On the connections that they have: nobody sees a reset."""
    near, far = await watched(nodes, models, cue := Cue("Hello"))
    async with away(redis):
        cue.say(" world")
        await near.read_text("Hello world")
        await says_nothing(far)
    cue.say(", again")  # an emptied Redis is given all there was when there is more
    await far.read_text("Hello world, again")
    cue.end()
    await near.read_all()
    await far.read_all()
    assert frames(near.body) == frames(far.body)
    assert frames(near.body)[-1] == DONE
    whole = await nodes[1].service.resume(near.session_id)
    await whole.read_all()
    assert frames(whole.body) == frames(near.body)


@AWAY
async def test_a_run_ends_and_is_saved_without_redis(nodes: Nodes, models: Models, redis: Redis, away: Away) -> None:
    near, far = await watched(nodes, models, cue := Cue("Hello"))
    async with away(redis):
        cue.say(" world")
        cue.end()
        await near.read_all()
        assert near.payloads[-1]["status"] == "done"
        assert await messages(nodes, near.session_id) == [("done", "Hello world")]
        await says_nothing(far)
    assert await to_the_end(nodes, far) == frames(near.body)


async def test_a_run_begins_without_redis(nodes: Nodes, models: Models, redis: Redis) -> None:
    async with stopped(redis):
        script, said = words(5)
        near = await nodes[0].service.chat(models.plan(script))
        await near.read_all()
        assert (near.text, near.payloads[-1]["status"]) == (said, "done")
        waits = await nodes[0].service.chat(models.plan(cue := Cue("Hello")))
        await waits.read_text("Hello")
        far = asyncio.create_task(nodes[1].service.resume(waits.session_id))
    seen = await far
    cue.end()
    await waits.read_all()
    assert await to_the_end(nodes, seen) == frames(waits.body)


async def test_with_redis_required_no_run_begins_without_it(
    models: Models, redis: Redis, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("strict")
    required = {"redis_required": "true", "drain_s": 0}
    async with nodes_with(1, models, folder, redis=redis, postgres=postgres, **required) as nodes:
        service = nodes[0].service
        running = await service.chat(models.plan(cue := Cue("Hello")))
        await running.read_text("Hello")
        nodes[0].redis.cut()
        for compare_mode in (False, True):
            body = {"message": models.plan(words(2)[0]), "compare_mode": compare_mode}
            refused = await service.post("/api/chat_stream", body)
            assert (refused.status, refused.json["error"]["code"]) == (503, "redis_unreachable")
            assert int(refused.headers["retry-after"]) > 0
        cue.end()
        await running.read_all()  # what runs already doesn't need it
        assert running.payloads[-1]["status"] == "done"
        listed = (await service.get("/api/sessions")).json["sessions"]
        assert [session["id"] for session in listed] == [running.session_id]
        await nodes[0].redis.heal()

        async def accepted() -> bool:
            return (await service.post("/api/chat_stream", {"message": models.plan(words(2)[0])})).status == 200

        await until(accepted)


async def test_nothing_is_announced_before_the_database_has_it(nodes: Nodes, models: Models) -> None:
    near, far = await watched(nodes, models, cue := Cue("Hello"))
    for node in nodes:
        node.database.cut()
    cue.say(" world")
    cue.end()
    await asyncio.gather(near.read_text("Hello world"), far.read_text("Hello world"))
    await asyncio.gather(says_nothing(near, 4), says_nothing(far, 4))  # longer than the lease, and the first tries
    for node in nodes:
        await node.database.heal()
    await near.read_all()
    assert near.payloads[-1]["status"] == "done"
    assert await messages(nodes, near.session_id) == [("done", "Hello world")]
    assert await to_the_end(nodes, far) == frames(near.body)


async def test_a_stop_reaches_the_model_without_the_database(nodes: Nodes, models: Models) -> None:
    """The answer waits until it is saved, the model must not."""
    near = await nodes[0].service.chat(prompt := models.plan(cue := Cue("Hello")))
    await near.read_text(cue.said)
    nodes[0].database.freeze()
    try:
        stopping = asyncio.create_task(nodes[0].service.stop(near.session_id))
        async with asyncio.timeout(LEASE_S):  # long before the database would be given up
            await models.asked(prompt)[0].closed.wait()
        assert not stopping.done()
    finally:
        await nodes[0].database.heal()
    receipt = (await stopping).json
    assert (receipt["stopped"], receipt["status"], receipt["chars"]) == (True, "stopped", 5)
