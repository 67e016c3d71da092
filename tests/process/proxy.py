"""A TCP proxy that stands between a node and what it needs, and takes it away: cut, or frozen as in a partition."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.listener import Listener

__all__ = ["Proxy", "proxied"]


class Proxy:
    """Passes every connection on to *target*, a port of 127.0.0.1, while it isn't told otherwise."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._place = _socket(0)  # never listens; it keeps the port ours while nobody does
        self.port: int = self._place.getsockname()[1]
        self.accepted = 0
        """Connections there have been."""
        self._listener = Listener(self._serve)
        self._passing = asyncio.Event()

    @property
    def connections(self) -> int:
        """Connections that are open now, frozen ones included."""
        return len(self._listener)

    def cut(self) -> None:
        """Close every connection, and refuse new ones."""
        self._listener.cut()

    def freeze(self) -> None:
        """Pass nothing: no byte, no end and no beginning of a connection, though new ones are taken."""
        self._passing.clear()

    async def heal(self) -> None:
        """Pass everything, also what was held back; what was cut stays cut."""
        self._passing.set()
        if not self._listener.listens:
            await self._listener.open(_socket(self.port))

    async def close(self) -> None:
        await self._listener.close()
        self._place.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        with suppress(OSError):  # one of the ends has gone
            await self._connect(reader, writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passing.wait()
        there, far = await asyncio.open_connection("127.0.0.1", self._target)
        ways = [asyncio.ensure_future(way) for way in (self._pass(reader, far), self._pass(there, writer))]
        try:
            await asyncio.gather(*ways)
        finally:
            far.transport.abort()  # before all else: what follows may be cancelled
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        await self._passing.wait()
        writer.write_eof()


def _socket(port: int) -> socket.socket:
    sock = socket.socket(proto=socket.IPPROTO_TCP)  # without it asyncio leaves Nagle's algorithm on: 40 ms now and then
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # beside the one that keeps the port
    sock.bind(("127.0.0.1", port))
    return sock


@asynccontextmanager
async def proxied(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy before *target*; it passes."""
    proxy = Proxy(target)
    try:
        await proxy.heal()
        yield proxy
    finally:
        await proxy.close()
