"""One node and three, with one Redis and one PostgreSQL, on this machine: `python -m benchmarks.scale [ROUNDS]`.

Prints the table of docs/scale.md. It needs redis-server, PostgreSQL and what the tests need. Nothing is pinned to a
core: nodes, servers and the load take whatever there is, so three nodes show what they cost rather than what they could
do on machines of their own.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from statistics import median, quantiles
from typing import Any

import redis
import uvloop

from benchmarks.client import Client
from benchmarks.cores import cpu_ns, raise_file_limit
from benchmarks.target import free_port, stop
from benchmarks.targets.python import Odysseus
from benchmarks.upstream import Stream, Upstream, pace, prompt_of, token
from tests.postgres import Postgres, postgres_server

_COUNTS = (1, 3)
_ROUNDS = 2
_CORES = os.sched_getaffinity(0)
_RUNS = 50
_GAP_S = 0.05  # 20 tokens a second, as a big model says them
_PACED = 80
_BURST_RUNS, _BURST = 20, 2000
_SHORT = 20
_CLIENTS = 30
_RATE_S = 3.0
_WARM_S = 1.0
_SUBSCRIBERS = 200  # of one run, on each node
_SECRET = "sesame-0123456789-sesame-0123456789"

Figures = dict[str, float]


class _Stage:
    def __init__(self, nodes: Sequence[Odysseus], upstream: Upstream, server: redis.Redis) -> None:
        self.nodes, self.upstream, self.server = nodes, upstream, server

    async def start(self, node: Odysseus) -> tuple[Client, Stream]:
        """Start a run at *node* and follow it there: token 0 has come."""
        number, asked = self.upstream.expect()
        client = await Client.connect(node.port, node.detached(prompt_of(number)))
        stream = await asked
        stream.say(0)
        await client.seen(token(0))
        return client, stream

    async def follow(self, client: Client, node: Odysseus) -> Client:
        other = await Client.connect(node.port, node.resume(node.key(client.response()), None))
        await other.seen(token(0))
        return other

    def node(self, number: int) -> Odysseus:
        return self.nodes[number % len(self.nodes)]

    def redis(self) -> dict[str, float]:
        """Return what Redis has done so far."""
        info: dict[str, Any] = self.server.info("everything")  # type: ignore[assignment]
        calls = {name: info.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "xread")}
        return {
            "writes": calls["evalsha"],
            "reads": calls["xread"],
            "kB in": info["total_net_input_bytes"] / 1000,
            "kB out": info["total_net_output_bytes"] / 1000,
            "ms of its CPU": (info["used_cpu_user"] + info["used_cpu_sys"]) * 1000,
        }

    def kept(self) -> float:
        """Return the kB that the logs take in Redis."""
        keys = self.server.scan_iter("{odysseus}:log:*", count=1000)
        return sum(self.server.memory_usage(key, samples=0) or 0 for key in keys) / 1000  # type: ignore[misc]

    @contextmanager
    def redis_used(self, figures: Figures, name: str, tokens: int) -> Iterator[None]:
        """Add to *figures* what Redis does in the block, for 1,000 tokens."""
        kept, before = self.kept(), self.redis()
        yield
        used = {it: value - before[it] for it, value in self.redis().items()} | {"kB of memory": self.kept() - kept}
        figures |= {f"Redis, 1,000 tokens in {name}: {it}": value / tokens * 1000 for it, value in used.items()}


async def _paced(stage: _Stage, figures: Figures) -> None:
    """Runs spread over all nodes, each followed at its owner and, where there is one, at another node."""
    begun = [await stage.start(stage.node(number)) for number in range(_RUNS)]
    others = []
    if len(stage.nodes) > 1:
        others = [await stage.follow(client, stage.node(number + 1)) for number, (client, _) in enumerate(begun)]
    await asyncio.sleep(0.5)
    with stage.redis_used(figures, f"{_RUNS} runs of 20 a second", _RUNS * _PACED):
        await pace([stream.say for _, stream in begun], _GAP_S, range(1, _PACED + 1))
        await asyncio.sleep(0.3)
    await _end(begun, others)
    here = [{it.number: it for it in client.response().tokens() if it.number} for client, _ in begun]
    _delays(
        figures,
        f"{_RUNS} runs, 20 tokens/s: model to local subscriber",
        [it.arrived_at - it.sent_at for by in here for it in by.values()],
    )
    extra = [
        it.arrived_at - by[it.number].arrived_at
        for by, other in zip(here, others, strict=False)
        for it in other.response().tokens()
        if it.number
    ]
    if extra:
        _delays(figures, f"{_RUNS} runs, 20 tokens/s: local to remote subscriber", extra)


async def _burst(stage: _Stage, figures: Figures) -> None:
    begun = [await stage.start(stage.node(number)) for number in range(_BURST_RUNS)]
    began = time.monotonic()
    with stage.redis_used(figures, "bursts", _BURST_RUNS * _BURST):
        for _, stream in begun:
            stream.burst(_BURST)
            stream.end()
        await asyncio.gather(*(client.finished for client, _ in begun))
        figures["bursts: tokens/s"] = _BURST_RUNS * _BURST / (time.monotonic() - began)
        await asyncio.sleep(0.3)


async def _rate(stage: _Stage, figures: Figures, limit_s: float = _RATE_S) -> None:
    until = time.monotonic() + limit_s
    ended = 0

    async def keep_asking(first: int) -> None:
        nonlocal ended
        for number in itertools.count(first):
            client, stream = await stage.start(stage.node(number))
            stream.burst(_SHORT)
            stream.end()
            await client.finished
            if time.monotonic() > until:
                return
            ended += 1

    await asyncio.gather(*(keep_asking(number) for number in range(_CLIENTS)))
    figures[f"runs/s, of {_SHORT} tokens, {_CLIENTS} at once"] = ended / limit_s


async def _subscribers(stage: _Stage, figures: Figures) -> None:
    """One run, and as many subscribers of it on each node."""
    first = await stage.start(stage.nodes[0])
    followers = {node: [await stage.follow(first[0], node) for _ in range(_SUBSCRIBERS)] for node in stage.nodes}
    await asyncio.sleep(0.5)
    before = [cpu_ns(node.pids) for node in stage.nodes]
    await pace([first[1].say], _GAP_S, range(1, _PACED + 1))
    await asyncio.sleep(0.2)
    us = [
        (cpu_ns(node.pids) - was) / 1000 / _SUBSCRIBERS / _PACED for node, was in zip(stage.nodes, before, strict=True)
    ]
    await _end([first], [client for clients in followers.values() for client in clients])
    for name, used, nodes in (("owner", us[:1], stage.nodes[:1]), ("other node", us[1:], stage.nodes[1:])):
        if nodes:
            late = [it.arrived_at - it.sent_at for node in nodes for it in _tokens(followers[node])]
            _delays(figures, f"{_SUBSCRIBERS} subscribers, {name}", late)
            figures[f"CPU of the {name}, us/token delivered"] = median(used)
            figures[f"subscribers a core carries at 20 tokens/s, {name}"] = 1e6 / median(used) * _GAP_S


def _tokens(clients: Sequence[Client]) -> Iterator[Any]:
    return (it for client in clients for it in client.response().tokens() if it.number)


async def _end(begun: Sequence[tuple[Client, Stream]], others: Sequence[Client]) -> None:
    for _, stream in begun:
        stream.end()
    async with asyncio.timeout(20):
        await asyncio.gather(*(client.finished for client in (*(client for client, _ in begun), *others)))
    told = {tuple(it.number for it in client.response().tokens()) for client in (*(one for one, _ in begun), *others)}
    assert told == {tuple(range(_PACED + 1))}, "somebody didn't get what was told"


def _delays(figures: Figures, name: str, delays_ns: Sequence[int]) -> None:
    cuts = quantiles((delay / 1e6 for delay in delays_ns), n=100)
    figures[f"{name}, p50 ms"], figures[f"{name}, p99 ms"] = cuts[49], cuts[98]


def _redis_server(port: int, folder: str) -> subprocess.Popen[bytes]:
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "everysec"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@asynccontextmanager
async def _staged(count: int, postgres: Postgres) -> AsyncIterator[_Stage]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scale-"))
        port = free_port()
        stack.callback(stop, _redis_server(port, folder))
        server = redis.Redis(port=port, retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.1), 50))
        stack.callback(server.close)
        server.ping()
        upstream = Upstream()
        await stack.enter_async_context(upstream.serve())
        settings = {
            "ODYSSEUS_REDIS_URL": f"redis://127.0.0.1:{port}/0",
            "ODYSSEUS_DATABASE_URL": postgres.url(await postgres.create_database()),
            "ODYSSEUS_SECRET": _SECRET,
            "ODYSSEUS_REQUESTS_PER_MINUTE": "1000000",
        }
        nodes = [Odysseus(**settings) for _ in range(count)]
        for node in nodes:
            await stack.enter_async_context(node.running(upstream.port))
        for pid in (os.getpid(), *(pid for node in nodes for pid in node.pids)):
            os.sched_setaffinity(pid, _CORES)
        yield _Stage(nodes, upstream, server)


async def _measure(count: int, postgres: Postgres) -> Figures:
    figures: Figures = {}
    async with _staged(count, postgres) as stage:
        await _rate(stage, {}, _WARM_S)
        for part in (_paced, _subscribers, _burst, _rate):
            await part(stage, figures)
    return figures


def main() -> None:
    raise_file_limit()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else _ROUNDS
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: {count: [] for count in _COUNTS})
    with postgres_server() as postgres:
        for count in _COUNTS * rounds:
            for name, value in uvloop.run(_measure(count, postgres)).items():
                found[name][count].append(value)
    print("| | one node | three nodes |\n|---|---|---|")
    for name, by in found.items():
        shown = (f"{float(f'{median(by[count]):.3g}'):,.10g}" if by[count] else "" for count in _COUNTS)
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
