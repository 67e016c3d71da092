"""A Redis server for each test that asks for one, and what speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from odysseus.cluster.connections import connect
from odysseus.cluster.streams import Streams
from tests.process.redis import Redis, redis_server


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    async with redis_server() as server:
        yield server


@pytest.fixture
async def streams(redis: Redis) -> AsyncIterator[Streams]:
    streams = Streams(connect(redis.url, answer_s=0.5), connect(redis.url, answer_s=None))
    yield streams
    await streams.close()
