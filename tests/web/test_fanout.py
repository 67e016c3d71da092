"""What a run's subscribers get, byte for byte, over real sockets whose buffers are small.

The run is appended to by hand: several frames at once are a burst in which no task gets a turn.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp_sse
import pytest
from aiohttp import web

from odysseus.accounts import Identity
from odysseus.run import Run
from odysseus.runs import Runs
from odysseus.settings import Settings
from odysseus.sse import PING
from odysseus.web.fanout import Fanout, follow
from odysseus.web.guard import Guard
from odysseus.web.pulse import Pulse
from odysseus.web.routes import IDENTITY, SERVICE, SETTINGS
from odysseus.web.stream import GUARD, PULSE, chunk
from tests.process.raw_client import Client, request
from tests.waiting import soon, until

READY = b": ok\n\n"
LONG = 64 * 1024  # from here on a frame isn't handed out at once
SMALL = 4096  # of a socket's buffer: the kernel makes more of it, but not megabytes


def frame(number: int, size: int = 100) -> bytes:
    head = b"id: run_1.%d\ndata: " % number
    return head.ljust(size - 2, b"%d" % (number % 10)) + b"\n\n"


class Stage:
    """A server with one route, the stream of one run."""

    def __init__(self, **settings: Any) -> None:
        self.runs: Runs[bytes] = Runs()
        self.run: Run[bytes] = Run("run_1", "ses_1", owner="", detached=True, about=None)
        self.frames: list[bytes] = []  # of the run so far
        self.transports: list[asyncio.Transport] = []  # the service's sides of the connections, as they came
        self.port = 0
        self.app = app = web.Application()
        app[SETTINGS] = Settings(**({"ping_interval_s": 1000, "send_timeout_s": 60} | settings))
        app[PULSE] = self.pulse = Pulse(app[SETTINGS].ping_interval_s)
        app[GUARD] = Guard(lambda ids: asyncio.sleep(0, set()))
        app[SERVICE] = SimpleNamespace(runs=self.runs)  # type: ignore[assignment]
        app.router.add_get("/{seq}", self._follow)

    async def join(self, seq: int = 0, *, version: str = "1.1", small: bool = False) -> Client:
        """Return a client that has the head of its answer and has sent for frames from *seq* on."""
        buffer = SMALL if small else None
        client = await Client.connect(socket.socket(), "127.0.0.1", self.port, receive_buffer=buffer)
        await client.send(request("GET", f"/{seq}{'?small' if small else ''}", version=version))
        assert await client.read_head() == 200
        return client

    async def riders(self, count: int) -> None:
        """Wait until *count* streams have all there is."""
        await until(lambda: self.riding == count)

    @property
    def riding(self) -> int:
        return len(self.run.outlet._riders) if isinstance(self.run.outlet, Fanout) else 0

    def say(self, *frames: bytes) -> None:
        for one in frames:
            self.run.append(one)
        self.frames += frames

    def say_sizes(self, *sizes: int) -> None:
        self.say(*(frame(len(self.frames) + number, size) for number, size in enumerate(sizes)))

    def end(self, *last: bytes) -> None:
        """End the run, as `odysseus.lifetime` does: the frames of the ending come without being pushed."""
        for one in last:
            self.run.log.append(one)
        self.frames += last
        self.run.ended.set()
        self.run.wake()

    def body(self, seq: int = 0) -> bytes:
        """Return what a stream from frame *seq* on must have brought by now."""
        return READY + b"".join(self.frames[seq:])

    async def over(self) -> None:
        """Wait until nothing is left of any stream."""
        await until(lambda: not self.runs.subscribers and not any(self.pulse._slots))
        assert self.riding == self.run.subscribers == 0

    async def _follow(self, request: web.Request) -> web.StreamResponse:
        transport = request.transport
        assert transport is not None
        request[IDENTITY] = Identity("")
        self.transports.append(transport)
        if "small" in request.query:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        return await follow(request, self.run, int(request.match_info["seq"]))


@asynccontextmanager
async def staged(**settings: Any) -> AsyncIterator[Stage]:
    stage = Stage(**settings)
    runner = web.AppRunner(stage.app, handler_cancellation=True, shutdown_timeout=0.5, access_log=None)
    await runner.setup()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        stage.port = listening.getsockname()[1]
        await web.SockSite(runner, listening).start()
        try:
            yield stage
        finally:
            for client in tuple(Client.everyone):
                client.close()
            Client.everyone.clear()
            await runner.cleanup()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


async def has(client: Client, body: bytes) -> None:
    """Read until *client* has as many bytes as *body*, which must be these."""
    async with asyncio.timeout(30):
        assert await client.read_bytes(len(body))
    assert client.body == body


async def read_all(client: Client) -> bytes:
    await soon(client.read_all())
    assert client.complete
    return bytes(client.body)


# Everybody gets the same


async def test_many_subscribers_get_the_same(stage: Stage) -> None:
    """Alone and in bursts; who takes what comes goes on riding, so no task is woken for a frame."""
    clients = [await stage.join(version=version) for version in ["1.1"] * 25 + ["1.0"] * 5]
    await stage.riders(30)
    for burst in (1, 1, 7, 1, 30):
        stage.say_sizes(*(random.randrange(20, 200) for _ in range(burst)))
        assert stage.riding == 30
        for client in clients:
            await has(client, stage.body())
    assert stage.riding == 30
    stage.end(frame(len(stage.frames)))
    assert {await read_all(client) for client in clients} == {stage.body()}
    await stage.over()


async def test_frames_reach_the_wire_in_the_turn_they_come(stage: Stage) -> None:
    client = await stage.join()
    await has(client, READY)
    await stage.riders(1)
    stage.say_sizes(100)
    wire = client.sock.recv(4096)  # no other task has had a turn
    assert wire == chunk(stage.frames[0])


async def test_the_log_has_readers_of_other_kinds(stage: Stage) -> None:
    """An outlet is one way out of a run; who waits for its changes is still told."""
    client = await stage.join()
    await stage.riders(1)
    with stage.runs.reader(stage.run) as reader:
        waiting = asyncio.ensure_future(reader.read())
        await asyncio.sleep(0)
        stage.say_sizes(50, 60)
        assert await soon(waiting) == stage.frames
    await has(client, stage.body())


# Who doesn't read


async def test_a_subscriber_that_does_not_read(stage: Stage) -> None:
    """It costs the run and the others nothing, and keeps little. It goes on exactly where it was, and rides again."""
    stuck, reads = await stage.join(small=True), await stage.join()
    await stage.riders(2)
    held = 0
    for _ in range(4000):
        stage.say_sizes(1000)
        await soon(reads.read())
        held = max(held, stage.transports[0].get_write_buffer_size())
    assert 0 < held < 2 * LONG
    assert stage.riding == 1
    for _ in range(2):
        await has(reads, stage.body())
        await has(stuck, stage.body())
        await stage.riders(2)
        stage.say_sizes(1000)
    assert stage.riding == 2


async def test_a_burst_for_a_subscriber_that_does_not_read(stage: Stage) -> None:
    """The whole of it comes in one turn: what is pushed stops at the first frame that the client can't take."""
    stuck, reads = await stage.join(small=True), await stage.join()
    await stage.riders(2)
    stage.say_sizes(*[LONG - 1] * 100, 50, LONG * 4, 50)
    assert stage.transports[0].get_write_buffer_size() < LONG + 20
    await has(reads, stage.body())
    assert stage.transports[0].get_write_buffer_size() < LONG * 6  # that, and what a reader takes at once: 256 KB
    await has(stuck, stage.body())
    await stage.riders(2)
    stage.end(frame(100))
    assert await read_all(stuck) == await read_all(reads) == stage.body()


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_falling_behind_again_and_again(stage: Stage, version: str) -> None:
    """Frames of every length, read by halves: each is sent once, by whichever of the two ways."""
    dice = random.Random(7)
    clients = [await stage.join(small=True, version=version) for _ in range(4)]
    for _ in range(60):
        stage.say_sizes(*(dice.choice((30, 500, 5000, 30_000, LONG)) for _ in range(dice.randrange(1, 4))))
        for client in clients:
            behind = len(stage.body()) - len(client.body)
            await soon(client.read_bytes(len(client.body) + dice.choice((0, behind // 2, behind))))
            assert stage.body().startswith(client.body)
    stage.end(frame(0), frame(1, 300_000))
    for client in clients:
        assert await read_all(client) == stage.body()
    await stage.over()


# Long frames


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_long_frames(stage: Stage, small: bool, version: str) -> None:
    """Each alone, then all in one turn, with short ones between: those must wait for the long one before them."""
    client = await stage.join(small=small, version=version)
    sizes = (50, LONG - 1, LONG, LONG + 1, 50, 300_000, 50, 60, LONG + 1, LONG + 2, 1_000_000, 50)
    for size in sizes:
        await stage.riders(1)
        stage.say_sizes(size)
        assert stage.riding == (size <= LONG)
        await has(client, stage.body())
    await stage.riders(1)
    stage.say_sizes(*sizes)
    await has(client, stage.body())


# Coming and going


async def test_joining_and_leaving_in_the_middle_of_a_burst(stage: Stage) -> None:
    """Frames come all the time, meanwhile clients come, at any place, and go in every way; the rest get everything.

    So nothing falls between a stream's last look into the log and its ride, nor between the ride and the next look.
    """
    dice = random.Random(11)
    stay: list[tuple[int, asyncio.Task[bytes]]] = []
    left = 0
    for _ in range(80):
        stage.say_sizes(*(dice.choice((30, 100, 3000)) for _ in range(dice.randrange(1, 6))))
        seq = dice.randrange(len(stage.frames) + 1)
        joining = asyncio.create_task(stage.join(seq, version=dice.choice(("1.0", "1.1"))))
        while not joining.done():
            stage.say_sizes(dice.choice((30, 100, 3000)))
            await asyncio.sleep(0.0005)
        client = joining.result()
        if dice.random() < 0.5:
            client.leave(dice.choice(("fin", "reset")))
            left += 1
            stage.say_sizes(*[100] * 5)  # for a client that has gone, which the service doesn't know yet
        else:
            stay.append((seq, asyncio.create_task(read_all(client))))
    await until(lambda: stage.run.subscribers == len(stay))
    assert left > 10 < len(stay)
    await stage.riders(len(stay))
    stage.say_sizes(40, 50)
    stage.end(frame(0))
    for seq, reading in stay:
        assert await soon(reading) == stage.body(seq)
    await stage.over()


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_leaving_while_behind(stage: Stage, how: str) -> None:
    stuck, reads = await stage.join(small=True), await stage.join()
    await stage.riders(2)
    stage.say_sizes(*[LONG] * 20)
    await has(reads, stage.body())
    stuck.leave(how)
    await until(lambda: stage.run.subscribers == 1)
    stage.say_sizes(100)
    await has(reads, stage.body())


# The end


@pytest.mark.parametrize("last", [(), (50,), (50, 300_000, 50)])
async def test_the_end_releases_everybody(stage: Stage, last: tuple[int, ...]) -> None:
    """Riders, one that is behind, and one that comes after it; the last frames are only in the log."""
    clients = [await stage.join(version=version) for version in ("1.1", "1.0", "1.1")]
    stuck = await stage.join(small=True)
    await stage.riders(4)
    stage.say_sizes(*[LONG] * 10)
    for client in clients:
        await has(client, stage.body())
    await stage.riders(3)
    stage.end(*(frame(number, size) for number, size in enumerate(last)))
    assert stage.riding == 0
    clients += [stuck, await stage.join(2)]
    for client, seq in zip(clients, (0, 0, 0, 0, 2), strict=True):
        assert await read_all(client) == stage.body(seq)
    await stage.over()


async def test_a_connection_is_used_again_after_a_stream(stage: Stage) -> None:
    """Its stream ended as HTTP/1.1 wants it to: not a byte is left between the answers."""
    client = await stage.join()
    stage.say_sizes(50, 70_000, 50)
    await has(client, stage.body())
    stage.end(frame(0))
    assert await read_all(client) == stage.body()
    await client.send(request("GET", "/1"))
    client.body.clear()
    assert await soon(client.read_head()) == 200
    assert await read_all(client) == stage.body(1)
    assert len(set(stage.transports)) == 1


async def test_http_1_0_gets_no_chunks(stage: Stage) -> None:
    client = await stage.join(version="1.0")
    assert "transfer-encoding" not in client.headers and client.headers["connection"] == "close"
    for sizes in ((50,), (50, 70_000, 50), (50,)):
        await stage.riders(1)
        stage.say_sizes(*sizes)
    stage.end(frame(0))
    assert await read_all(client) == stage.body()


# Pings


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_pings_come_between_frames(version: str) -> None:
    async with staged(ping_interval_s=0.02) as stage:
        clients = [await stage.join(version=version, small=small) for small in (True, False)]
        for sizes in ((50,), (300_000, 50), (LONG, 50, LONG)):
            stage.say_sizes(*sizes)
            for client in clients:
                pings = client.body.count(PING)
                while client.body.count(PING) < pings + 3 or client.body.replace(PING, b"") != stage.body():
                    assert await soon(client.read(3000))
                    assert stage.body().startswith(client.body.replace(PING, b"").removesuffix(PING[:-1]) or READY)
        stage.end(frame(0))
        for client in clients:
            assert (await read_all(client)).replace(PING, b"") == stage.body()
        await stage.over()


async def test_a_client_that_does_not_take_the_last_frame_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is silent, so nobody writes any more; the pings see it, also where the kernel has no limit."""
    monkeypatch.setattr(aiohttp_sse, "_TCP_USER_TIMEOUT", None)
    async with staged(ping_interval_s=0.1, send_timeout_s=0.3) as stage:
        stuck = await stage.join(small=True)
        await stage.riders(1)
        while not stage.transports[0].get_write_buffer_size():
            stage.say_sizes(LONG)
        assert stage.riding == 1
        await until(lambda: not stage.run.subscribers)
        await stage.over()
        with pytest.raises(ConnectionError):
            await soon(stuck.read_all())


async def test_no_ping_for_a_client_that_is_behind() -> None:
    """It would wait behind the rest, and each after it too."""
    async with staged(ping_interval_s=0.02) as stage:
        stuck, watching = await stage.join(small=True), await stage.join()
        await stage.riders(2)
        stage.say_sizes(*[LONG] * 20)
        await until(stage.transports[0].get_write_buffer_size)
        while watching.body.count(PING) < 5:
            assert await soon(watching.read())
        held = stage.transports[0].get_write_buffer_size()
        while watching.body.count(PING) < 15:
            assert await soon(watching.read())
        assert stage.transports[0].get_write_buffer_size() <= held
        while not stuck.body.endswith(stage.frames[-1]):
            assert await soon(stuck.read())
        assert stuck.body.count(PING) < 15
