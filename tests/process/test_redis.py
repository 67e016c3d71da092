"""The Redis server of the tests does what the tests believe that it does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.process.raw_client import LIMIT_S
from tests.process.redis import Redis, redis_server

pytestmark = [pytest.mark.process]


@pytest_asyncio.fixture
async def redis() -> AsyncIterator[Redis]:
    async with redis_server() as server:
        assert await server.call("SET", "name", "value") == "+OK"
        yield server


async def test_it_comes_back_with_its_data(redis: Redis) -> None:
    port = redis.port
    await redis.stop()
    with pytest.raises(ConnectionError):
        await redis.call("PING")
    await redis.start()
    assert (redis.port, await redis.call("EXISTS", "name")) == (port, ":1")


async def test_it_comes_back_empty(redis: Redis) -> None:
    await redis.stop()
    await redis.start(empty=True)
    assert await redis.call("DBSIZE") == ":0"


async def test_it_forgets_while_it_runs(redis: Redis) -> None:
    await redis.flush()
    assert await redis.call("DBSIZE") == ":0"


async def test_it_freezes(redis: Redis) -> None:
    """What it is asked meanwhile is answered when it thaws; nothing is refused."""
    redis.freeze()
    asked = asyncio.create_task(redis.call("EXISTS", "name"))
    done, _ = await asyncio.wait({asked}, timeout=0.3)
    assert not done
    redis.thaw()
    assert await asyncio.wait_for(asked, LIMIT_S) == ":1"
