"""`odysseus check`: tests what `serve` would need, part by part, and changes nothing.

What it says is for the operator, so it names addresses; no key and no password is ever part of it.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
from yarl import URL

from odysseus.check_database import look_at_database, sqlite_file
from odysseus.check_redis import look_at_redis
from odysseus.errors import SettingsError
from odysseus.server_settings import McpServerSettings, UpstreamSettings
from odysseus.settings import Settings

__all__ = ["Finding", "check"]

_LIST_S = 10.0  # for a model server to list its models
_SELF_S = 2.0
_MCP_S = 12.0  # a little more than an MCP server's own limit


class Finding(NamedTuple):
    ok: bool
    part: str
    words: str


async def check() -> AsyncIterator[Finding]:
    """Yield what is found, as soon as it is."""
    try:
        settings = Settings.load()
    except SettingsError as error:
        yield Finding(False, "settings", str(error))
        return
    file = os.environ.get("ODYSSEUS_CONFIG")
    yield Finding(True, "settings", "the environment" + (f" and {file}" if file else ""))
    yield await _found("data folder", _data_folder(settings))
    yield await _found("database", _database(settings))
    if settings.redis_url is not None:
        yield await _found("Redis", look_at_redis(settings.redis_url))
    for server in settings.model_servers():
        yield await _found(f"model server {server.name}", _model_server(server, settings.upstream_connect_s))
    if not settings.model_servers():
        yield Finding(True, "model server", "none is set: the demo model would answer")
    for mcp in settings.mcp_servers:
        yield await _found(f"MCP server {mcp.name}", _mcp_server(mcp))
    yield await _found("port", _port(settings))


async def _found(part: str, look: Awaitable[str]) -> Finding:
    try:
        return Finding(True, part, await look)
    except SettingsError as error:
        return Finding(False, part, str(error))


# Data


async def _data_folder(settings: Settings) -> str:
    path = settings.data_dir
    if not _writable("ODYSSEUS_DATA_DIR", path):
        return f"{path} would be made"
    holder = _holder(path)
    return f"{path} can be written" if holder is None else f"{path} is used by a running service, process {holder}"


async def _database(settings: Settings) -> str:
    file = sqlite_file(settings.database())
    if file is None or _is_there(file):
        return await look_at_database(settings.database())
    _writable("ODYSSEUS_DATABASE_URL", file.parent)
    return f"{file} would be made"


def _is_there(file: Path) -> bool:
    return os.path.exists(file)  # False, too, for a name that can't be, of which `_writable` tells


def _writable(setting: str, folder: Path) -> bool:
    """Return whether *folder* is there. Raises `SettingsError` if it can't be written, or made."""
    place = folder.absolute()
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:  # without a name, where the system can do that
            file.write(b"x")
    except OSError as error:
        do = "let the service's user write there, or name another place"
        raise SettingsError(setting, f"can't write in {place}: {error.strerror}; {do}") from error
    return place == folder.absolute()


def _holder(folder: Path) -> str | None:
    """Return the id of the process that uses *folder*, None if nobody does.

    A lock that is free is held for a moment, shared: the kernel has no other way to tell.
    """
    try:
        lock = os.open(folder / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError("ODYSSEUS_DATA_DIR", f"{folder / 'lock'} can't be read: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(lock, 20).decode() or "unknown"
    finally:
        os.close(lock)
    return None


# Servers


async def _model_server(server: UpstreamSettings, connect_s: float) -> str:
    url = str(server.url).rstrip("/")
    shown = URL(url).with_user(None).with_query(None)
    key = server.api_key.get_secret_value() if server.api_key else None
    setting = "ODYSSEUS_UPSTREAM_URL" if server.name == "default" else f"upstreams, {server.name}"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=_LIST_S, sock_connect=connect_s)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as http,
            http.get(f"{url}/models") as response,
        ):
            status, body = response.status, await response.read()
    except (aiohttp.ClientError, OSError) as error:
        raise SettingsError(setting, f"{shown} can't be reached: {_reason(error)}") from error
    if status in (401, 403):
        problem = "refuses the key" if key else "wants a key, and none is set"
        raise SettingsError(setting, f"{shown} {problem} (it answered {status})")
    listed = _models(body) if status == 200 else None
    if listed is None and not server.models:
        problem = f"{shown}/models gives no list of models (it answered {status})"
        raise SettingsError(setting, f"{problem}; does the URL end where /models begins, as in /v1? Or name the models")
    if listed is None:
        return f"{shown} can be reached; it doesn't list its models, the settings name {', '.join(server.models)}"
    if not listed and not server.models:
        raise SettingsError(setting, f"{shown} can be reached, but serves no model")
    if missing := [model for model in server.models if model not in listed]:
        return f"{shown} can be reached; its list lacks what the settings name: {', '.join(missing)}"
    return f"{shown} can be reached, models: {', '.join(server.models or listed)}"


def _models(body: bytes) -> list[str] | None:
    try:
        return [str(model["id"]) for model in orjson.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return None


async def _mcp_server(settings: McpServerSettings) -> str:
    from odysseus.tools.mcp import McpServer  # takes half a second, which only those wait who have servers

    server = McpServer(settings)
    server.start()
    try:
        async with asyncio.timeout(_MCP_S):
            await server.settled.wait()
        state, problem, count = server.state, server.problem, len(server.tools)
    except TimeoutError:
        state, problem, count = "failed", f"no answer within {_MCP_S:g} s", 0
    finally:
        await server.close()
    if state != "ready":
        raise SettingsError(f"mcp_servers, {settings.name}", f"{problem}; runs would go on without its tools")
    return f"can be started, tools: {count}"


# The port


async def _port(settings: Settings) -> str:
    host, port = settings.host, settings.port
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        _listen(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            if _is_in_use(settings.data_dir) and await _is_odysseus(host, port):
                return f"the running service listens at {shown}"
            raise SettingsError("ODYSSEUS_PORT", f"{shown} is in use: stop who uses it, or set another port") from error
        if error.errno == errno.EACCES:
            raise SettingsError("ODYSSEUS_PORT", f"may not listen on {shown}: set a port above 1023") from error
        raise SettingsError("ODYSSEUS_HOST", f"can't listen on {shown}: {error.strerror}") from error
    return f"{shown} is free" if port else f"any free one of {host} would be taken"


def _listen(host: str, port: int) -> None:
    """Take every address of *host* as the service would, but let nobody connect. Raises `OSError`."""
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with closing(socket.socket(family, kind, protocol)) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            taken.bind(address)


def _is_in_use(folder: Path) -> bool:
    try:
        return _holder(folder) is not None
    except SettingsError:
        return False


async def _is_odysseus(host: str, port: int) -> bool:
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = URL.build(scheme="http", host=near, port=port, path="/healthz")
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_SELF_S)) as http,
            http.get(url) as response,
        ):
            health: Any = await response.json()
    except (aiohttp.ClientError, OSError, ValueError):
        return False
    return bool(health == {"status": "ok"})


def _reason(error: Exception) -> str:
    """Return what may be shown of *error*: aiohttp's own words can hold the request's headers, and so the key."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return type(error).__name__
