"""What is said of Redis; and that a look at it leaves nothing behind."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from odysseus.check_redis import look_at_redis
from odysseus.errors import SettingsError
from tests.postgres import free_port
from tests.process.raw_client import until
from tests.process.redis import Redis, redis_server
from tests.process.redis_kinds import KINDS, PASSWORD, RIGHTS, redis_of
from tests.waiting import soon

pytestmark = [pytest.mark.asyncio(loop_scope="module")]

WRITTEN = r"can be written; (Redis|Valkey) [0-9.]+"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis() -> AsyncIterator[Redis]:
    async with redis_server() as server:
        yield server


async def refusal(url: str) -> str:
    with pytest.raises(SettingsError) as refused:
        await soon(look_at_redis(url))
    assert refused.value.setting == "ODYSSEUS_REDIS_URL"
    assert PASSWORD not in refused.value.problem
    return refused.value.problem


async def test_one_that_can_be_used(redis: Redis) -> None:
    words = await look_at_redis(redis.url)
    assert words.startswith(f"{redis.url} ")
    assert re.fullmatch(WRITTEN, words.removeprefix(f"{redis.url} "))

    async def empty() -> bool:
        return await redis.call("DBSIZE") == ":0"

    await until(empty)


async def test_what_it_is_better_told(redis: Redis) -> None:
    settings = {
        "maxmemory": ("100mb", "0"),
        "maxmemory-policy": ("volatile-lru", "noeviction"),
        "appendonly": ("no", "yes"),
    }
    for name, (value, _) in settings.items():
        assert await redis.call("CONFIG", "SET", name, value) == "+OK"
    try:
        words = await look_at_redis(redis.url)
        assert "maxmemory-policy, volatile-lru, throws logs away" in words
        assert "appendonly is off" in words
        await redis.call("CONFIG", "SET", "maxmemory", "0")
        assert "volatile-lru" not in await look_at_redis(redis.url)
    finally:
        for name, (_, value) in settings.items():
            await redis.call("CONFIG", "SET", name, value)


async def test_those_that_cannot_be_used(redis: Redis) -> None:
    port = free_port()
    assert (await refusal(f"redis://:{PASSWORD}@127.0.0.1:{port}/0")).startswith(
        f"can't use redis://127.0.0.1:{port}/0: "
    )
    assert "must begin with" in await refusal("http://127.0.0.1")
    await redis.call("ACL", "SETUSER", "reader", "on", f">{PASSWORD}", "~*", "+@read")
    await redis.call("ACL", "SETUSER", "silent", "on", f">{PASSWORD}", "~*", *RIGHTS.split(), "-info")
    assert "permission" in await refusal(f"redis://reader:{PASSWORD}@127.0.0.1:{redis.port}/0")
    assert "password" in await refusal(f"redis://nobody:{PASSWORD}@127.0.0.1:{redis.port}/0")
    words = await look_at_redis(f"redis://silent:{PASSWORD}@127.0.0.1:{redis.port}/0")
    assert words.endswith("its user may not ask INFO, so nothing more is known")
    await redis.call("REPLICAOF", "127.0.0.1", str(port))
    try:
        assert "read only replica" in await refusal(redis.url)
    finally:
        await redis.call("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind(kind: str, tmp_path: Path) -> None:
    async with redis_of(kind) as url:
        words = await look_at_redis(url)
    assert re.search(WRITTEN, words)
    assert PASSWORD not in words and "ssl_ca_certs" not in words
