"""The limits in `deploy/nginx.conf`: who asks too much is refused and told so, and no stream that runs is cut."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.process.models import Cue, Models
from tests.process.nginx import FROM_ANYWHERE, check_error, in_front_of
from tests.process.origin import Origin
from tests.process.raw_client import request
from tests.process.service import Answer, Process, Service

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

PROTOCOLS = pytest.mark.parametrize("protocol", ["h1", "h2"])

BURST, PER_SECOND, AT_ONCE = 60, 20, 100  # as in the file
ANY_RATE = {"rate=20r/s": "rate=10000r/s"}
SLOW_RATE = {"rate=20r/s": "rate=1r/m"}  # so that it is the burst alone that counts, on any machine


async def ask_often(far: Service, times: int, **headers: str) -> list[Answer]:
    return [await far.get("/api/models", **headers) for _ in range(times)]


def refused(answers: list[Answer]) -> int:
    for answer in answers:
        if answer.status != 200:
            check_error(answer, 429, "too_many_requests", "1")
    return sum(answer.status == 429 for answer in answers)


async def test_too_many_requests(service: Process, models: Models) -> None:
    async with in_front_of(service.port) as nginx:
        cue = Cue("Hel")
        running = await nginx.h1().chat(models.plan(cue))
        far = nginx.h2(share=True)
        since = time.monotonic()
        answers = await ask_often(far, 2 * BURST + 100)
        allowed = BURST + PER_SECOND * (time.monotonic() - since)
        assert len(answers) - allowed - 2 <= refused(answers) <= len(answers) - BURST
        await running.read_text("Hel")
        cue.say("lo")
        cue.end()
        await running.read_all()
        assert (running.complete, running.text) == (True, "Hello")


async def test_whose_requests_are_counted_together() -> None:
    """Those of one address, or of one IPv6 network of 64 bits, whatever bytes it is made of."""
    async with Origin() as origin, in_front_of(origin.port, changes=FROM_ANYWHERE | SLOW_RATE) as nginx:
        far = nginx.h2(share=True)
        for busy, also_refused in (
            ("203.0.113.10", "203.0.113.10"),
            ("2001:db8:0:a0a::1", "2001:db8:0:a0a:ffff:ffff:ffff:ffff"),
            ("2001:0:a00:0a::1", "2001:0:a00:0a:a00::"),
        ):
            assert refused(await ask_often(far, BURST + 10, X_Test_Address=busy)) >= 8
            assert refused(await ask_often(far, 5, X_Test_Address=also_refused)) >= 4
        for another in ("203.0.113.11", "2001:db8:0:a0b::1", "2001:0:a00::1"):
            assert refused(await ask_often(far, 5, X_Test_Address=another)) == 0


@PROTOCOLS
async def test_too_many_streams(service: Process, models: Models, protocol: str) -> None:
    """A stream of HTTP/2 counts by itself, however many share a connection."""
    async with in_front_of(service.port, changes=ANY_RATE) as nginx:
        far = nginx.h1() if protocol == "h1" else nginx.h2(share=True)
        run = await service.chat(models.plan(cue := Cue("Hel")))
        watchers = [await far.resume(run.session_id) for _ in range(AT_ONCE)]
        assert {watcher.status for watcher in watchers} == {200}
        check_error(await far.get("/api/models"), 429, "too_many_connections", "1")
        cue.say("lo")
        cue.end()
        for watcher in watchers:
            await watcher.read_all()
            assert (watcher.complete, watcher.text) == (True, "Hello")
        assert (await far.get("/api/models")).status == 200


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST /api/chat_stream HTTP/1.1\r\nHost: odys",
        request("POST", "/api/chat_stream", Content_Length="100") + b"{",
    ],
    ids=["nothing", "half a head", "half a body"],
)
async def test_a_client_that_dawdles_is_dropped(begun: bytes) -> None:
    """And what it has sent goes no further."""
    short = {name: name.replace("10s", "1s") for name in ("client_header_timeout 10s;", "client_body_timeout 10s;")}
    async with Origin() as origin, in_front_of(origin.port, changes=short) as nginx:
        client = await nginx.h1().connect()
        await client.send(begun)
        since = time.monotonic()
        with pytest.raises(ConnectionError):
            await client.read_head()
        assert time.monotonic() - since < 8
    assert origin.heads == []


async def test_a_client_that_takes_nothing_is_dropped() -> None:
    gone = asyncio.Event()

    async def flood(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        except ConnectionError:
            gone.set()
            raise

    async with (
        Origin(flood) as origin,
        in_front_of(origin.port, changes={"send_timeout 30s;": "send_timeout 1s;"}) as nginx,
    ):
        await nginx.h1().open("GET", "/api/chat/resume/x", receive_buffer=4096)
        async with asyncio.timeout(8):
            await gone.wait()


async def test_who_is_refused_can_read_why(service: Process) -> None:
    """Though it goes on sending: a reset would take the answer from it."""
    async with in_front_of(service.port) as nginx:
        client = await nginx.h1().connect()
        await client.send(request("POST", "/api/chat_stream", Content_Length="8000000", Connection="close"))
        for _ in range(80):
            await client.send(b"x" * 100_000)
        assert await client.read_head() == 413
