"""How Redis is found: whether nodes could share their runs by it, and what an operator would want to know of it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoPermissionError

from odysseus.cluster.connections import UNREACHABLE, AnyRedis, connect
from odysseus.cluster.streams import Streams, Write, log_of
from odysseus.errors import SettingsError
from odysseus.messages import new_id

__all__ = ["look_at_redis"]

_SETTING = "ODYSSEUS_REDIS_URL"
_ANSWER_S = 3.0


async def look_at_redis(setting: str) -> str:
    """Return what is to be said of it. Raises `SettingsError` if nodes can't use it.

    A log of a moment is written and read: nothing less says that it can be.
    """
    client = connect(setting, answer_s=_ANSWER_S)
    parts = urlsplit(setting)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # a query can hold a password
    log_id = new_id("check")
    streams = Streams(client, client)
    try:
        await streams.append([Write(log_id, 0, [b"x"], ended=True, keep_s=1)])
        entries = [entry async for entry in streams.history(log_id)]
        if [entry.frames for entry in entries] != [[b"x"], []]:
            raise SettingsError(_SETTING, f"{shown} doesn't give back what is written: is it Redis?")
        hints = await _hints(client, log_of(log_id))
    except UNREACHABLE as error:
        text = str(error).splitlines() or [type(error).__name__]
        raise SettingsError(_SETTING, f"can't use {shown}: {text[0]}") from error
    finally:
        await streams.close()
    return "; ".join((f"{shown} can be written", *hints))


async def _hints(client: AnyRedis, key: str) -> list[str]:
    try:
        info = await _info(client, key)
    except NoPermissionError:
        return ["its user may not ask INFO, so nothing more is known"]
    valkey = info.get("valkey_version")
    hints = [f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version')}"]
    policy = str(info.get("maxmemory_policy"))
    if info.get("maxmemory") and policy != "noeviction":
        hints.append(f"its maxmemory-policy, {policy}, throws logs away when memory is short: set noeviction")
    if not info.get("aof_enabled"):
        hints.append("its appendonly is off: a restart may empty it, and who follows runs elsewhere gets snapshots")
    return hints


async def _info(client: AnyRedis, key: str) -> dict[str, Any]:
    """Return what the server says that has our keys."""
    where = {"target_nodes": client.get_node_from_key(key)} if isinstance(client, RedisCluster) else {}
    info: dict[str, Any] = {}
    for section in ("server", "memory", "persistence"):
        info |= await client.info(section, **where)
    return info
