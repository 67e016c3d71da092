"""What a scenario works with: the target, the model server, clients that open streams, and meters."""

from __future__ import annotations

import asyncio
import gc
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.client import Client
from benchmarks.cores import busy_ns, cpu_ns
from benchmarks.publisher import Publisher
from benchmarks.scenario import Figure, Wrong
from benchmarks.target import Ability, Target
from benchmarks.upstream import Stream, Upstream, prompt_of, token

__all__ = ["Meter", "Open", "Run", "Stage", "window_s"]

_AT_ONCE = 50  # requests on their way while many streams are opened
_OPEN_S = 60.0
_LOOK_S = 0.1
_IDLE_SHARE = 0.03
_SETTLE_S = 15.0
_LONG_NS = 500_000_000  # long enough to tell what others took, which is known to 10 ms
_WARM_STREAMS = 5
_WARM_TOKENS = 500


@dataclass(frozen=True, slots=True)
class Open:
    """A stream that has begun: token 0 has gone all the way."""

    client: Client
    stream: Stream


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has begun, and that nobody watches."""

    key: str
    stream: Stream | Publisher


class Meter:
    """What one measurement took. Its figures know how busy the cores were."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._begin = self._now()
        self._end = self._begin

    def stop(self) -> None:
        self._end = self._now()

    def _now(self) -> tuple[int, int, int, int]:
        return time.monotonic_ns(), cpu_ns(self._pids), cpu_ns([os.getpid()]), busy_ns()

    @property
    def wall_s(self) -> float:
        return (self._end[0] - self._begin[0]) / 1e9

    @property
    def server_us(self) -> float:
        """The target's processor time."""
        return (self._end[1] - self._begin[1]) / 1e3

    def figure(self, value: float, unit: str) -> Figure:
        wall, server, load, busy = (end - begin for begin, end in zip(self._begin, self._end, strict=True))
        others = max(0, busy - server - load) / wall if wall >= _LONG_NS else None
        return Figure(value, unit, server / wall, load / wall, others)


class Stage:
    def __init__(self, target: Target, upstream: Upstream, *, quick: bool) -> None:
        self.target = target
        self.quick = quick
        self._upstream = upstream
        self._clients: list[Client] = []
        self._streams: list[Stream | Publisher] = []

    async def connect(self, request: bytes) -> Client:
        client = await Client.connect(self.target.port, request)
        self._clients.append(client)
        return client

    async def open(self, asked: Callable[[str], bytes], count: int = 1) -> list[Open]:
        """Open *count* streams with the requests that *asked*, `target.direct` or `target.detached`, makes."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one() -> Open:
            async with room:
                number, asked_for = self._upstream.expect()
                client = await self.connect(asked(prompt_of(number)))
                await asyncio.wait({asked_for, client.finished}, return_when=asyncio.FIRST_COMPLETED)
                if not asked_for.done():
                    raise Wrong(f"answered {client.response().head + client.response().raw!r}")
                stream = asked_for.result()
                self._streams.append(stream)
                stream.say(0)
                await client.seen(token(0))
                return Open(client, stream)

        async with asyncio.timeout(_OPEN_S):
            return await asyncio.gather(*(one() for _ in range(count)))

    async def run(self, count: int = 1) -> list[Run]:
        """Start *count* runs: token 0 has been told, and whoever asked has left."""
        if Ability.DETACHED not in self.target.abilities:
            return [await self._published() for _ in range(count)]
        opened = await self.open(self.target.detached, count)
        for it in opened:
            it.client.close()
        return [Run(self.target.key(it.client.response()), it.stream) for it in opened]

    async def _published(self) -> Run:
        key = uuid.uuid4().hex
        publisher = await self.target.publisher(key)
        self._streams.append(publisher)
        publisher.say(0)
        return Run(key, publisher)

    async def subscribe(self, run: Run, count: int) -> list[Client]:
        """Let *count* clients watch *run* from its start: token 0 has come to each."""
        room = asyncio.Semaphore(_AT_ONCE)

        async def one() -> Client:
            async with room:
                client = await self.connect(self.target.resume(run.key, None))
                await client.seen(token(0))
                return client

        async with asyncio.timeout(_OPEN_S):
            return await asyncio.gather(*(one() for _ in range(count)))

    async def warm_up(self) -> None:
        """Let the target do a little of everything: the first time is nobody's measure."""
        for asked in self.target.modes().values():
            for it in await self.open(asked, _WARM_STREAMS):
                it.stream.burst(_WARM_TOKENS)
                it.stream.end()
                await it.client.finished
        await self.clear()

    @contextmanager
    def measured(self) -> Iterator[Meter]:
        """Measure what happens in the block. The load side collects its garbage before, not meanwhile."""
        gc.collect()
        gc.disable()
        meter = Meter(self.target.pids)
        try:
            yield meter
        finally:
            meter.stop()
            gc.enable()

    async def settle(self) -> None:
        """Wait until the target has nothing to do: what came before must not be paid by what comes next."""
        async with asyncio.timeout(_SETTLE_S):
            before = cpu_ns(self.target.pids)
            while True:
                await asyncio.sleep(_LOOK_S)
                now = cpu_ns(self.target.pids)
                if now - before < _IDLE_SHARE * _LOOK_S * 1e9:
                    return
                before = now

    async def clear(self) -> None:
        """End and close all that is still open."""
        for stream in self._streams:
            stream.end()
        for client in self._clients:
            client.close()
        self._streams.clear()
        self._clients.clear()
        await self.settle()


def window_s(stage: Stage) -> float:
    """Return how long paced tokens are measured: some seconds, for what a target does once a second has to be in it."""
    return 2.0 if stage.quick else 4.0
