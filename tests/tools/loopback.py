"""Pages to fetch, from real servers on loopback: one address stands for the internet, one for what is inside."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from odysseus.tools import ToolError
from odysseus.tools.fetch_url import UrlFetcher
from odysseus.tools.public_addresses import Address

__all__ = [
    "PRIVATE",
    "PUBLIC",
    "Names",
    "Trap",
    "error_of",
    "fetched",
    "fetched_body",
    "fetching",
    "serving",
    "trapped",
]

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def allowed(address: Address) -> bool:
    return address == IPv4Address(PUBLIC)


class Names(AbstractResolver):
    """Gives each question the next of its answers."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.asked: list[str] = []
        self._answers: Iterator[tuple[str, ...]] = iter(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in next(self._answers)
        ]

    async def close(self) -> None:
        pass


class Trap:
    """A server on the private address that notes each connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0


@asynccontextmanager
async def trapped(port: int = 0) -> AsyncIterator[Trap]:
    trap = Trap(port)

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trap.connections += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    async with await asyncio.start_server(note, PRIVATE, port) as server:
        trap.port = server.sockets[0].getsockname()[1]
        yield trap


@asynccontextmanager
async def fetching(
    *, resolver: AbstractResolver | None = None, limit_s: float = 30, check: Callable[[Address], bool] = allowed
) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    fetcher = UrlFetcher(allowed=check, resolver=resolver, limit_s=limit_s)
    try:
        yield fetcher.fetch_url
    finally:
        await fetcher.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    server = TestServer(app, host=PUBLIC)
    async with server:
        yield server


async def fetched(handler: Handler, path: str = "/", *, limit_s: float = 30) -> str:
    async with serving(handler) as server, fetching(limit_s=limit_s) as fetch:
        return await fetch(str(server.make_url(path)))


async def fetched_body(body: str | bytes, content_type: str, **headers: str) -> str:
    async def handler(_: web.Request) -> web.Response:
        raw = body if isinstance(body, bytes) else body.encode()
        return web.Response(body=raw, headers={"Content-Type": content_type, **headers})

    return await fetched(handler)


async def error_of(awaitable: Awaitable[str]) -> str:
    with pytest.raises(ToolError) as refused:
        await awaitable
    return str(refused.value)
