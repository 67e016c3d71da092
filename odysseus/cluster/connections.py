"""Clients of Redis by URL: one server (`redis://`, `rediss://`, `unix://`), Sentinel, a Redis Cluster. Valkey too.

The forms beyond redis-py's own: `redis+sentinel://host:port,host:port/master[/db]` and `redis+cluster://host:port`,
each also with `rediss`, for TLS.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from odysseus.errors import SettingsError

__all__ = ["UNREACHABLE", "AnyRedis", "connect"]

UNREACHABLE = (RedisError, OSError, TimeoutError)
"""What a client raises when Redis can't be asked, or refuses."""

_SETTING = "ODYSSEUS_REDIS_URL"
_SENTINEL_PORT = 26379

AnyRedis = Redis | RedisCluster


def connect(url: str, *, answer_s: float | None) -> AnyRedis:
    """Return a client that connects when it is first used. Raises `SettingsError` for a URL that names no Redis.

    *answer_s* is how long an answer may take; None for a client that reads blockingly, whose caller has the clock.
    Nothing is tried again behind our back: that would double what isn't repeatable.
    """
    options: dict[str, Any] = {
        "socket_timeout": answer_s,
        "socket_connect_timeout": 2.0,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    try:
        match scheme, kind:
            case (("redis" | "rediss" | "unix"), ""):
                parse_url(url)
                return Redis.from_url(url, **options)
            case (("redis" | "rediss"), "cluster"):
                return RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
            case (("redis" | "rediss"), "sentinel"):
                return _by_sentinel(url, options | ({"connection_class": SSLConnection} if scheme == "rediss" else {}))
    except ValueError as error:
        raise SettingsError(_SETTING, str(error)) from None
    raise SettingsError(_SETTING, "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")


def _by_sentinel(url: str, options: dict[str, Any]) -> AnyRedis:
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    master, _, number = parts.path.strip("/").partition("/")
    if not master:
        raise ValueError("names no master: redis+sentinel://host:port,host:port/master")
    options |= {"db": int(number or 0), "username": unquote(user) or None, "password": unquote(password) or None}
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [_address(host) for host in hosts.split(",")],
        sentinel_kwargs={"socket_timeout": 2.0, "socket_connect_timeout": 2.0, **dict(parse_qsl(parts.query))},
        **options,
    )
    client: Redis = sentinel.master_for(master)
    return client


def _address(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return (name, int(port)) if name else (host, _SENTINEL_PORT)
