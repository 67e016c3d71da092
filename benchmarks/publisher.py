"""Tells the tokens of a run to a target that has to be told: it asks no model server itself, as nchan."""

from __future__ import annotations

import asyncio
import time

from benchmarks.upstream import token

__all__ = ["Publisher"]


class Publisher(asyncio.Protocol):
    """What `upstream.Stream` is for the others. Every token is one POST; they share a connection, and don't wait."""

    def __init__(self, path: str) -> None:
        self._head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n".encode()

    @classmethod
    async def connect(cls, port: int, path: str) -> Publisher:
        loop = asyncio.get_running_loop()
        _, publisher = await loop.create_connection(lambda: cls(path), "127.0.0.1", port)
        return publisher

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def say(self, number: int) -> None:
        """Send one token, with the time."""
        self._transport.write(self._post(b"%b@%018d" % (token(number), time.monotonic_ns())))

    def say_bare(self, number: int) -> None:
        """Send one token without the time."""
        self._transport.write(self._post(token(number)))

    def burst(self, count: int) -> None:
        """Send the tokens 1 to *count* as fast as the socket takes them."""
        for number in range(1, count + 1):
            self.say_bare(number)

    def end(self) -> None:
        self._transport.close()

    def _post(self, text: bytes) -> bytes:
        data = b'{"type":"delta","text":"%b"}' % text
        return self._head + b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
