"""The worlds in which the contract is tested: in this process, one node and three nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from odysseus.accounts.api_tokens import new_token
from odysseus.application import create_app
from odysseus.settings import Settings
from odysseus.store import Database, database_url
from odysseus.store.tokens import Tokens
from tests.contract.client import Api
from tests.postgres import Postgres, postgres_server
from tests.process.models import Models
from tests.process.nodes import nodes_with
from tests.process.redis import redis_server
from tests.process.service import Process, environment

__all__ = ["WORLDS", "Worlds"]

_IN_PROCESS, _NODE, _NODES = WORLDS = "in-process", "one-node", "three-nodes"
"""By what stands behind the address. The first has SQLite and no Redis, the others PostgreSQL and Redis."""

_SETTINGS = {"tools_need_approval": "current_time", "requests_per_minute": 1_000_000}


class Worlds:
    """Those that a test has asked for, by name and settings; they stay until all tests have run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = AsyncExitStack()
        self._server: Postgres | None = None
        self._made: dict[str, Api] = {}
        self._count = 0

    async def get(self, name: str, settings: dict[str, Any]) -> Api:
        key = f"{name} {sorted(settings.items())}"
        if key not in self._made:
            self._count += 1
            folder = self._folder / f"world{self._count}"
            self._made[key] = await self._stack.enter_async_context(self._world(name, folder, _SETTINGS | settings))
        return self._made[key]

    async def close(self) -> None:
        await self._stack.aclose()

    @property
    def _postgres(self) -> Postgres:
        if self._server is None:
            self._server = self._stack.enter_context(postgres_server())
        return self._server

    @asynccontextmanager
    async def _world(self, name: str, folder: Path, settings: dict[str, Any]) -> AsyncIterator[Api]:
        async with Models() as models:
            if name == _IN_PROCESS:
                async with _in_process(models, folder, settings) as port:
                    yield await _api(name, lambda: port, models, f"sqlite:///{folder}/odysseus.db", settings)
            else:
                postgres, count = self._postgres, 1 if name == _NODE else 3
                async with (
                    redis_server() as redis,
                    nodes_with(count, models, folder, redis=redis, postgres=postgres, drain_s=0, **settings) as nodes,
                ):
                    url = postgres.url(nodes.database)
                    yield await _api(name, lambda: nodes.next_node().service.port, models, url, settings)
                    for node in nodes:
                        await _goes_in_peace(node.service)
            await models.all_closed()
            assert models.refused == []


async def _goes_in_peace(process: Process) -> None:
    process.terminate()
    assert await process.wait() == 0
    assert not process.faults, "\n".join(process.faults)


async def _api(name: str, ports: Callable[[], int], models: Models, database: str, settings: dict[str, Any]) -> Api:
    api = Api(name, ports, models, {})
    if settings.get("auth") == "token":
        for owner in ("ann", "bob"):
            api.tokens[owner] = await _token(database, owner)
    return api


async def _token(url: str, owner: str) -> str:
    """Make a token, as `odysseus token add` does."""
    database = Database(database_url(url))
    try:
        await database.open()
        text, stored = new_token(owner)
        await Tokens(database).add(stored)
    finally:
        await database.close()
    return text


@asynccontextmanager
async def _in_process(models: Models, folder: Path, settings: dict[str, Any]) -> AsyncIterator[int]:
    """Serve in this loop, as production does: cancelling the handlers of clients that leave. Yield the port."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment(models, folder, {"drain_s": 0} | settings).items():
            patch.setenv(variable, value)
        app = create_app(Settings.load())
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
