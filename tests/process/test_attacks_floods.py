"""Clients that hold on to what they are given: requests that never quite come, connections that say nothing.

The service relies on nginx to cut them off. Alone it must stay bounded: they cost little memory, everybody else is
answered meanwhile, and when they have left nothing of them is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.process.attacks import LEFT_ALONE, head
from tests.process.models import Models, words
from tests.process.raw_client import Client, until
from tests.process.service import Process

SETTINGS: dict[str, Any] = {"max_body_bytes": 100_000, **LEFT_ALONE}

LATE_S = 5.0  # in which everybody else must be answered, on a slow machine; alone it takes milliseconds

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("service", ["app.py", "gunicorn"], indirect=True, scope="module"),
]


@asynccontextmanager
async def crowd(service: Process, count: int) -> AsyncIterator[list[Client]]:
    """Hold *count* connections; when they have left, the service has as many files open as before, and no fault."""
    await service.get("/readyz")
    files, memory = service.open_files, service.rss_bytes
    clients = []
    for _ in range(count):
        clients.append(await service.connect())
    try:
        yield clients
        assert service.rss_bytes - memory < 60e6, f"{(service.rss_bytes - memory) / 1e6:.0f} MB"
    finally:
        for client in clients:
            client.close()

    async def left() -> int:
        return service.open_files

    await until(left, lambda seen: seen <= files + 30)  # those of the store's pool
    assert not service.faults, "\n".join(service.faults)


async def others_are_answered(service: Process, models: Models) -> None:
    """Whatever goes on: health, a session, and a whole chat."""
    for path in ("/healthz", "/api/sessions"):
        since = time.monotonic()
        assert (await service.get(path)).status == 200
        assert time.monotonic() - since < LATE_S
    script, said = words(5)
    since = time.monotonic()
    client = await service.chat(models.plan(script))
    await client.read_all()
    assert client.text == said
    assert time.monotonic() - since < LATE_S
    client.close()


JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
SLOW: dict[str, tuple[bytes, bytes]] = {
    "a line that never ends": (b"GET /api/sess", b"x"),
    "a header that never ends": (b"GET /healthz HTTP/1.1\r\nHost: odysseus\r\nX-A: ", b"x"),
    "headers that never end": (b"GET /healthz HTTP/1.1\r\nHost: odysseus\r\n", b"X-A: b\r\n"),
    "a body that never ends": (head("POST", "/api/chat_stream", JSON, "Content-Length: 90000"), b" "),
    "chunks that never end": (head("POST", "/api/chat_stream", JSON, CHUNKED), b"1\r\n \r\n"),
    "a size that never ends": (head("POST", "/api/chat_stream", JSON, CHUNKED, body=b"1;"), b"x"),
    "trailers that never end": (
        head("POST", "/api/chat_stream", JSON, CHUNKED, body=b"2\r\n{}\r\n0\r\n"),
        b"X-A: b\r\n",
    ),
}
"""How a slow request begins, and what it goes on with, again and again."""


@pytest.mark.parametrize("what", SLOW)
async def test_requests_that_trickle(service: Process, models: Models, what: str) -> None:
    begin, drop = SLOW[what]
    async with crowd(service, 60) as clients:
        for client in clients:
            await client.send(begin)
        for turn in range(6):
            for client in clients:
                await client.send(drop)
            if turn % 3 == 2:
                await others_are_answered(service, models)


@pytest.mark.parametrize("what", SLOW)
async def test_what_never_ends_is_not_kept(service: Process, models: Models, what: str) -> None:
    """Fast this time: the service refuses it and hangs up, or reads no more, or reads on and throws it away."""
    begin, drop = SLOW[what]
    async with crowd(service, 1) as [client]:
        before = service.rss_bytes
        await client.send(begin)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(3):
                for _ in range(1200):
                    await client.send(drop * (50_000 // len(drop)))
        assert service.rss_bytes - before < 30e6, f"{(service.rss_bytes - before) / 1e6:.0f} of 60 MB"
        await others_are_answered(service, models)


async def test_connections_that_say_nothing(service: Process, models: Models) -> None:
    async with crowd(service, 500) as clients:
        await others_are_answered(service, models)
        for client in clients[::2]:  # half of them ask once, and then hold on to their connection
            await client.send(head("GET", "/healthz"))
            assert await client.read_head() == 200
            await client.read_all()
        await others_are_answered(service, models)


async def test_answers_that_nobody_takes(service: Process, models: Models) -> None:
    """Each asks as often as it can, and reads nothing."""
    async with crowd(service, 20) as clients:
        for client in clients:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.send(head("GET", "/openapi.json") * 500)
        await others_are_answered(service, models)


async def test_connections_that_come_and_go(service: Process, models: Models) -> None:
    async with crowd(service, 0):
        for turn in range(10):
            some = [await service.connect() for _ in range(50)]
            for number, client in enumerate(some):
                if number % 2:
                    await client.send(b"GET /healthz HTTP/1.1\r\nHost: o")
                client.leave(("fin", "reset", "half_close")[number % 3])
            if turn % 5 == 4:
                await others_are_answered(service, models)
            for client in some:
                client.close()
