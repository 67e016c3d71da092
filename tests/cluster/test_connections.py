"""What a URL makes of itself: a client of the right kind, or one line that names the setting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from redis.asyncio import Redis as Client
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from odysseus.cluster.connections import UNREACHABLE, connect
from odysseus.errors import SettingsError
from tests.postgres import free_port
from tests.process.redis import Redis

SERVERS: list[tuple[str, type, dict[str, Any]]] = [
    ("redis://host", Connection, {"host": "host"}),
    ("redis://ann:p%40ss@host:7000/3", Connection, {"host": "host", "port": 7000, "db": 3, "password": "p@ss"}),
    ("rediss://host:7000", SSLConnection, {"host": "host", "port": 7000}),
    ("unix:///folder/socket?db=2", UnixDomainSocketConnection, {"path": "/folder/socket", "db": 2}),
    ("redis+sentinel://one:1,two/master/2", SentinelManagedConnection, {"db": 2}),
    ("redis+sentinel://ann:p%40ss@one/master", SentinelManagedConnection, {"username": "ann", "password": "p@ss"}),
    ("rediss+sentinel://one/master", SentinelManagedSSLConnection, {}),
]


@pytest.mark.parametrize(("url", "kind", "expected"), SERVERS)
async def test_one_server(url: str, kind: type, expected: dict[str, Any]) -> None:
    client = connect(url, answer_s=1.5)
    assert isinstance(client, Client)
    assert client.connection_pool.connection_class is kind
    options = client.connection_pool.connection_kwargs
    assert {name: options.get(name) for name in expected} == expected
    assert (options["socket_timeout"], options["retry"].get_retries()) == (1.5, 0)
    await client.aclose()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_sentinels(scheme: str) -> None:
    """What the URL asks of them they are asked; TLS is theirs, too."""
    client: Any = connect(f"{scheme}+sentinel://one:1,two/master?password=sesame", answer_s=1)
    pool = client.connection_pool
    assert pool.service_name == "master"
    options = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(own["host"], own["port"], own["password"]) for own in options] == [
        ("one", 1, "sesame"),
        ("two", 26379, "sesame"),
    ]
    classes = {sentinel.connection_pool.connection_class for sentinel in pool.sentinel_manager.sentinels}
    assert classes == {SSLConnection if scheme == "rediss" else Connection}
    assert pool.connection_kwargs.get("password") is None
    await client.aclose()


async def test_certificates_are_for_the_sentinels_and_the_master() -> None:
    client: Any = connect("rediss+sentinel://one/master?ssl_ca_certs=/ca.pem&ssl_cert_reqs=required", answer_s=1)
    pool = client.connection_pool
    [sentinel] = pool.sentinel_manager.sentinels
    for options in (pool.connection_kwargs, sentinel.connection_pool.connection_kwargs):
        assert (options["ssl_ca_certs"], options["ssl_cert_reqs"]) == ("/ca.pem", "required")
    await client.aclose()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_cluster(scheme: str) -> None:
    client = connect(f"{scheme}+cluster://host:7000", answer_s=1)
    assert isinstance(client, RedisCluster)
    [node] = client.nodes_manager.startup_nodes.values()
    assert (node.host, node.port, client.connection_kwargs.get("connection_class") is SSLConnection) == (
        "host",
        7000,
        scheme == "rediss",
    )
    await client.aclose()


WRONG = [
    "",
    "host:6379",
    "http://host",
    "redis+x://host",
    "unix+cluster:///socket",
    "redis://host:port",
    "redis://host:99999",
    "redis://[::1",
    "redis://host?socket_timeout=soon",
    "redis://host?nonsense=1",
    "redis+cluster://",
    "redis+cluster://host:port",
    "redis+cluster://host/3",
    "redis+cluster://host?nonsense=1",
    "redis+sentinel://one:1",
    "redis+sentinel://one:port/master",
    "redis+sentinel://one/master/number",
    "redis+sentinel://one/master?nonsense=1",
]


@pytest.mark.parametrize("url", WRONG)
async def test_what_names_no_redis(url: str) -> None:
    with pytest.raises(SettingsError) as refused:
        connect(url, answer_s=1)
    assert refused.value.setting == "ODYSSEUS_REDIS_URL"
    assert refused.value.problem
    assert "\n" not in str(refused.value)


async def test_a_client_that_was_made_works(redis: Redis) -> None:
    client = connect(redis.url, answer_s=1)
    assert await client.execute_command("PING")
    await client.aclose()


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
async def test_nobody_there_is_told_as_unreachable(scheme: str) -> None:
    client = connect(f"{scheme}://127.0.0.1:{free_port()}{'/master' if 'sentinel' in scheme else ''}", answer_s=1)
    with pytest.raises(UNREACHABLE):
        await client.execute_command("PING")
    await client.aclose()


async def test_a_connection_that_broke_a_moment_before(redis: Redis) -> None:
    """As under the loop that production has, which has another word for it than asyncio's own."""

    async def scene() -> None:
        client: Any = connect(redis.url, answer_s=1)
        connection = client.connection_pool.make_connection()
        await connection.connect()
        connection._writer.transport.abort()
        with pytest.raises(UNREACHABLE):
            await connection.send_command("PING")
        await connection.disconnect()
        await client.aclose()

    await asyncio.to_thread(uvloop.run, scene())
