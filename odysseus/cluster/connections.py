"""Clients of Redis by URL: one server (`redis://`, `rediss://`, `unix://`), Sentinel, a Redis Cluster. Valkey too.

The forms beyond redis-py's own: `redis+sentinel://host:port,host:port/master[/db]`, whose user and password are the
master's (`?username=` and `?password=` the sentinels'), and `redis+cluster://host:port,host:port`; each also with
`rediss`, for TLS to all of them.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as Broken
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as Silent

from odysseus.errors import SettingsError

__all__ = ["UNREACHABLE", "AnyRedis", "close", "connect"]

UNREACHABLE = (RedisError, RedisClusterException, OSError, TimeoutError, RuntimeError)
"""What a client raises when Redis can't be asked, or refuses. `RuntimeError` is uvloop's word for a connection that
broke a moment before it was written to, and redis-py passes it on."""

_GONE = (Broken, Silent, OSError, RuntimeError, CancelledError)  # the last one by a caller who has waited enough

_SETTING = "ODYSSEUS_REDIS_URL"
_PORT = 6379
_SENTINEL_PORT = 26379
_CONNECT_S = 2.0

AnyRedis = Redis | RedisCluster


def connect(url: str, *, answer_s: float | None) -> AnyRedis:
    """Return a client that connects when it is first used. Raises `SettingsError` for a URL that names no Redis.

    *answer_s* is how long an answer may take; None for a client that reads blockingly, whose caller has the clock.
    Nothing is tried again behind our back: that would double what isn't repeatable.
    """
    options: dict[str, Any] = {
        "socket_timeout": answer_s,
        "socket_connect_timeout": _CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    try:
        return _client(url, options)
    except (ValueError, TypeError, RedisClusterException) as error:  # TypeError: an option that redis-py doesn't know
        raise SettingsError(_SETTING, str(error).splitlines()[0]) from None


async def close(client: AnyRedis) -> None:
    await client.aclose()
    if isinstance(client, Redis) and isinstance(pool := client.connection_pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _client(url: str, options: dict[str, Any]) -> AnyRedis:
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    match scheme, kind:
        case (("redis" | "rediss" | "unix"), ""):
            client: Redis = Redis.from_url(url, **options)
            pool: Any = client.connection_pool
            pool.make_connection()  # else a wrong option is found when it is first used
            return client
        case (("redis" | "rediss"), "cluster"):
            return _cluster(parts._replace(scheme=scheme), options)
        case (("redis" | "rediss"), "sentinel"):
            return _by_sentinel(parts, options, tls=scheme == "rediss")
    raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


def _cluster(parts: SplitResult, options: dict[str, Any]) -> AnyRedis:
    login, hosts = _hosts(parts)
    first, *others = hosts
    nodes = [ClusterNode(*_address(host, _PORT)) for host in others]
    return _Cluster.from_url(parts._replace(netloc=login + first).geturl(), startup_nodes=nodes, **options)


class _Cluster(RedisCluster):
    """Looks for its servers again when one has failed. Without retries redis-py asks a master that is gone for ever, in
    pipelines, and for commands whose keys it has a server find."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        async with self.looking_again():
            await self.initialize()  # before all else: which keys a command has, it would ask the server of before
            return await super().execute_command(*args, **options)

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        return _Pipeline(self, transaction)  # type: ignore[abstract]  # an attribute redis-py gives itself

    @asynccontextmanager
    async def looking_again(self) -> AsyncIterator[None]:
        try:
            yield
        except _GONE:
            await self.look_again()
            raise

    async def look_again(self) -> None:
        with suppress(*UNREACHABLE):  # whatever went wrong before is what counts, a cancel above all
            await self.aclose()  # it opens itself with its next command


class _Pipeline(ClusterPipeline):
    async def execute(self, raise_on_error: bool = True, allow_redirections: bool = True) -> list[Any]:
        client: Any = self.cluster_client
        async with client.looking_again():
            answers = await super().execute(raise_on_error, allow_redirections)
        if any(isinstance(answer, _GONE) for answer in answers):
            await client.look_again()
        return answers


def _by_sentinel(parts: SplitResult, options: dict[str, Any], *, tls: bool) -> AnyRedis:
    """The URL's login is the master's; its options are the sentinels', where they aren't about TLS, which both have."""
    login, hosts = _hosts(parts)
    user, _, password = login.removesuffix("@").partition(":")
    master, _, number = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("names no master: redis+sentinel://host:port,host:port/master")
    asked = dict(parse_url(f"redis://?{parts.query}"))
    secured = {"ssl": True, **{name: value for name, value in asked.items() if name.startswith("ssl_")}} if tls else {}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [_address(host, _SENTINEL_PORT) for host in hosts],
        sentinel_kwargs={**options, "socket_timeout": _CONNECT_S, **asked, **secured},
        db=int(number or 0),
        username=unquote(user) or None,
        password=unquote(password) or None,
        **options,
        **secured,
    )
    client: Redis = sentinel.master_for(master)
    return client


def _hosts(parts: SplitResult) -> tuple[str, list[str]]:
    """Return who logs in, with the sign that ends it, and the hosts."""
    login, sign, hosts = parts.netloc.rpartition("@")
    return login + sign, hosts.split(",")


def _address(host: str, port: int) -> tuple[str, int]:
    name, _, number = host.rpartition(":")
    return (name, int(number)) if name else (host, port)
