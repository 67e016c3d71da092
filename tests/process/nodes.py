"""Several nodes of one service: real processes with one Redis, one PostgreSQL and one model server.

Each node reaches Redis and PostgreSQL through a proxy of its own, so that one of them can be cut off alone.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.postgres import Postgres
from tests.process.models import Models
from tests.process.proxy import Proxy, proxied
from tests.process.raw_client import LIMIT_S, until
from tests.process.redis import Redis
from tests.process.service import APP, Process, environment

__all__ = ["LEASE_S", "Node", "Nodes", "nodes_with"]


LEASE_S = 2
_SECRET = "sesame-0123456789-sesame-0123456789"  # links are signed by one node and read by another


class Node:
    """One process after the other, on one data folder."""

    def __init__(self, models: Models, folder: Path, settings: dict[str, Any]) -> None:
        self._environment = environment(models, folder, settings)
        self.folder = folder
        self.service: Process
        """The process that was started last."""
        self.redis: Proxy | None = None
        """What stands between this node and Redis, if it has one."""
        self.database: Proxy | None = None
        """What stands between this node and PostgreSQL, if it has one."""
        self.stopped = False
        """SIGSTOP was the last of the two."""
        self._logs: list[list[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    @property
    def running(self) -> bool:
        return self.service.process.poll() is None

    @property
    def faults(self) -> list[str]:
        """What all its processes have logged that no outage excuses."""
        marks = ("never retrieved", "never awaited", "was destroyed", "Warning")
        return [line for log in self._logs for line in log if any(mark in line for mark in marks)]

    async def start(self) -> None:
        """Start a process and wait until it is ready. Raises what it said if it ended instead."""
        self.service = await asyncio.to_thread(Process, APP, self._environment)
        self._logs.append(self.service.log)
        self.stopped = False
        await self.service.started()

    async def start_again(self, limit_s: float = LIMIT_S) -> None:
        """As `start`, as a supervisor does it: until what it needs is there."""
        give_up = time.monotonic() + limit_s
        while True:
            try:
                await self.start()
            except (RuntimeError, AssertionError, OSError):
                await self.kill()
                if time.monotonic() > give_up:
                    raise
                await asyncio.sleep(0.3)
            else:
                return

    async def is_ready(self) -> bool:
        try:
            return (await self.service.get("/readyz")).status == 200
        except ConnectionError:
            return False

    async def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.service.kill()
        await self.service.wait()

    def terminate(self) -> None:
        self.service.terminate()

    def stop(self) -> None:
        """SIGSTOP: it does nothing, as in a long pause; its connections stay open."""
        self.service.terminate(signal.SIGSTOP)
        self.stopped = True

    def resume(self) -> None:
        """SIGCONT, if it is still there."""
        self.stopped = False
        if self.running:
            self.service.terminate(signal.SIGCONT)


class Nodes(Sequence[Node]):
    """The nodes, and whose turn it is."""

    def __init__(self, nodes: Sequence[Node], database: str = "", seed: int = 0) -> None:
        self.database = database
        """The name of the PostgreSQL database that they share, if they do."""
        self._nodes = nodes
        self._rng = random.Random(seed)
        self._last: Node | None = None

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, at: Any) -> Any:
        return self._nodes[at]

    def next_node(self) -> Node:
        """Hand out one of the nodes that weren't the last: always in turn, each request would find the same one."""
        others = [node for node in self._nodes if node is not self._last or len(self._nodes) == 1]
        self._last = self._rng.choice(others)
        return self._last

    def next_url(self) -> str:
        return self.next_node().url

    def at_random(self, seed: int | str) -> Iterator[Node]:
        """Hand out nodes at random, the same ones for the same *seed*."""
        rng = random.Random(seed)
        while True:
            yield rng.choice(self._nodes)

    async def heal(self) -> None:
        """End what was done to the nodes and their connections, and wait until all are ready."""
        for node in self._nodes:
            for proxy in (node.redis, node.database):
                if proxy is not None:
                    await proxy.heal()
            node.resume()
        await asyncio.gather(*(node.start_again() for node in self._nodes if not node.running))
        await asyncio.gather(*(until(node.is_ready) for node in self._nodes))


@asynccontextmanager
async def nodes_with(
    count: int,
    models: Models,
    folder: Path,
    *,
    redis: Redis | None = None,
    postgres: Postgres | None = None,
    **settings: Any,
) -> AsyncIterator[Nodes]:
    """Start *count* nodes that share *redis* and a new database of *postgres*; kill them in the end.

    Without *postgres* each has SQLite in its data folder; more than one node needs both.
    """
    assert count == 1 or (redis and postgres)
    async with AsyncExitStack() as stack:
        database = None if postgres is None else await postgres.create_database()
        nodes = []
        for number in range(count):
            own = dict(settings)
            at_redis = None if redis is None else await stack.enter_async_context(proxied(redis.port))
            at_database = None if postgres is None else await stack.enter_async_context(proxied(postgres.port))
            if redis is not None and at_redis is not None:
                own |= {"redis_url": redis.url_at(at_redis.port), "lease_s": LEASE_S, "secret": _SECRET}
            if postgres is not None and at_database is not None and database is not None:
                own |= {"database_url": postgres.url(database, port=at_database.port)}
            node = Node(models, folder / f"node{number}", own | settings)
            node.redis, node.database = at_redis, at_database
            nodes.append(node)
        stack.push_async_callback(_end, nodes)
        await asyncio.gather(*(node.start() for node in nodes))
        yield Nodes(nodes, database or "")


async def _end(nodes: Sequence[Node]) -> None:
    for node in nodes:
        if hasattr(node, "service"):
            await node.kill()
