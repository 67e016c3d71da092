"""The load client: one request on a socket of its own. It keeps what arrives, and when, for `response` to look at.

Where that would be too much to keep, it hands on what arrives to a `Tally`.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time

from benchmarks.response import Response
from benchmarks.tally import Tally

__all__ = ["Client"]

_LAST_CHUNK = b"\r\n0\r\n\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Client(asyncio.Protocol):
    def __init__(self, request: bytes, own_socket: socket.socket) -> None:
        self._request = request
        self._socket = own_socket
        self._tail = b""
        self._arrivals: list[tuple[int, bytes]] = []
        self._marker: tuple[bytes, asyncio.Future[None]] | None = None
        self.tally: Tally | None = None
        """Set by who wants to have counted, not kept, what arrives from then on."""
        self.sent_at = 0
        """When the request was written, as `time.monotonic_ns` tells it."""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """The response has ended, or its connection."""

    @classmethod
    async def connect(cls, port: int, request: bytes) -> Client:
        loop = asyncio.get_running_loop()
        own_socket = socket.socket()
        own_socket.setblocking(False)
        await loop.sock_connect(own_socket, ("127.0.0.1", port))
        _, client = await loop.create_connection(lambda: cls(request, own_socket), sock=own_socket)
        return client

    def close(self, *, reset: bool = False) -> int:
        """Leave, as a browser does (FIN) or with a reset (RST). Return when, as `time.monotonic_ns` tells it."""
        now = time.monotonic_ns()
        try:
            if reset:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            else:
                self._socket.shutdown(socket.SHUT_RDWR)  # at once: `abort` waits for the loop's next turn
        except OSError:
            pass  # the other side was quicker
        self._transport.abort()
        return now

    async def seen(self, marker: bytes) -> None:
        """Wait until *marker* has arrived. Raises `ConnectionError` if the response ends without it."""
        if marker in b"".join(data for _, data in self._arrivals):
            return
        self._marker = marker, asyncio.get_running_loop().create_future()
        await asyncio.wait({self._marker[1], self.finished}, return_when=asyncio.FIRST_COMPLETED)
        if not self._marker[1].done():
            raise ConnectionError(f"ended without {marker!r}: {self.response().head!r}")
        self._marker = None

    def response(self) -> Response:
        return Response(self._arrivals)

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.sent_at = time.monotonic_ns()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.tally is not None:
            self.tally.add(data)
            return
        self._arrivals.append((time.monotonic_ns(), data))
        if self._marker is not None and not self._marker[1].done() and self._marker[0] in self._tail + data:
            self._marker[1].set_result(None)
        self._tail = data[-32:] if len(data) >= 32 else (self._tail + data)[-32:]
        if self._tail.endswith(_LAST_CHUNK):
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.finished.done():
            self.finished.set_result(None)
