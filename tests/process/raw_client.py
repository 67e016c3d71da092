"""An HTTP/1.1 client of bare sockets: it reads only what it is asked to, and leaves in every way a client can.

A connection has no reader of its own: whoever calls nothing takes nothing.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from odysseus.sse import Decoder, Event

__all__ = ["LEAVINGS", "LIMIT_S", "Client", "Cut", "frames", "request", "until"]

LIMIT_S = 30.0
"""How long anything may take that should come soon. Only a test that fails waits for it."""

LEAVINGS = ("fin", "reset", "half_close")


class Cut(ConnectionError):
    """The connection ended in the middle of an answer."""


def request(method: str, path: str, body: Any = None, version: str = "1.1", **headers: str) -> bytes:
    """Return the bytes of a request; underscores in the names of *headers* stand for hyphens."""
    lines = [f"{method} {path} HTTP/{version}", "Host: odysseus"]
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def frames(body: bytes | bytearray) -> list[bytes]:
    """Return the whole frames of a stream's *body*, byte for byte, without the comments between them."""
    *whole, _ = bytes(body).split(b"\n\n")
    return [frame + b"\n\n" for frame in whole if not frame.startswith(b":")]


class Client:
    """One connection, and the answer that is read from it: its head, then its body as events."""

    everyone: ClassVar[set[Client]] = set()
    """Those that were made and not seen to be closed: the tests' fixture does that."""

    def __init__(self, sock: socket.socket) -> None:
        self.everyone.add(self)
        self.sock = sock
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        """What has been read of the body, without its chunk sizes."""
        self.events: list[Event] = []
        """Those that *body* holds."""
        self.arrivals: list[float] = []
        """`time.monotonic()` of each of them."""
        self.complete = False
        """The answer has ended as HTTP wants it to."""
        self.left_at = 0.0
        """`time.monotonic()` right before the client left."""
        self._received = bytearray()
        self._decoder = Decoder()
        self._chunked = False
        self._left: int | None = 0  # of the chunk, or of the body; None: to the end of the connection
        self._after_chunk = False

    @classmethod
    async def connect(cls, sock: socket.socket, host: str, port: int, *, receive_buffer: int | None = None) -> Client:
        """Connect *sock*. A small *receive_buffer* makes the server notice sooner that nobody reads."""
        client = cls(sock)
        sock.setblocking(False)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        async with asyncio.timeout(LIMIT_S):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
        return client

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(LIMIT_S):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    # Reading

    async def read_head(self) -> int:
        """Read the answer's head; return its status."""
        self._after_chunk = False
        lines = (await self._until(b"\r\n\r\n")).decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        length = self.headers.get("content-length", "0" if self._chunked or self.status == 204 else None)
        self._left = None if length is None else int(length)
        self.complete = not self._chunked and self._left == 0
        return self.status

    async def read(self, most: int = 65536) -> bytes:
        """Return up to *most* bytes of the body as they come, none at its end. Raises `Cut` when it has none."""
        if self._left == 0 and self._chunked and not self.complete:
            await self._next_chunk()
        if self.complete:
            return b""
        if not self._received:
            try:
                await self._receive(most)
            except Cut:
                self.complete = self._left is None
                if self.complete:
                    return b""
                raise
        data = bytes(self._received[: most if self._left is None else min(self._left, most)])
        del self._received[: len(data)]
        if self._left is not None:
            self._left -= len(data)
            self.complete = not self._chunked and not self._left
        self.body += data
        if self.headers.get("content-type") == "text/event-stream":
            self.events += (new := self._decoder.feed(data))
            self.arrivals += [time.monotonic()] * len(new)
        return data

    async def read_events(self, count: int) -> list[Event]:
        """Read until there are *count* events, counted from the stream's start; return them."""
        while len(self.events) < count:
            assert await self.read(), f"the stream ended after {self.events}"
        return self.events[:count]

    async def read_text(self, text: str) -> None:
        """Read until the deltas say *text* together; how they cut it is for the service to say."""
        while self.text != text:
            assert text.startswith(self.text), self.text
            assert await self.read(), f"the stream ended after {self.text!r}"

    async def read_bytes(self, count: int) -> bool:
        """Read the body until there are *count* bytes of it, no byte more; False if it ended before."""
        while len(self.body) < count:
            if not await self.read(count - len(self.body)):
                return False
        return True

    async def read_all(self) -> list[Event]:
        """Read to the body's end; return its events."""
        while await self.read():
            pass
        return self.events

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """What the events say; `[DONE]`, which isn't JSON, is left out."""
        return [json.loads(event.data) for event in self.events if event.data != b"[DONE]"]

    @property
    def text(self) -> str:
        return "".join(payload["text"] for payload in self.payloads if payload["type"] == "delta")

    @property
    def run_id(self) -> str:
        return self.headers["x-odysseus-run-id"]

    @property
    def session_id(self) -> str:
        return self.headers["x-odysseus-session-id"]

    async def _next_chunk(self) -> None:
        if self._after_chunk:
            await self._until(b"\r\n")
        self._after_chunk = False
        self._left = int(await self._until(b"\r\n"), 16)
        if self._left:
            self._after_chunk = True
        else:
            await self._until(b"\r\n")
            self.complete = True

    async def _until(self, mark: bytes) -> bytes:
        while (at := self._received.find(mark)) < 0:
            await self._receive()
        data = bytes(self._received[:at])
        del self._received[: at + len(mark)]
        return data

    async def _receive(self, most: int = 65536) -> None:
        await asyncio.sleep(0)  # a receive that has bytes to return lets nobody else run
        async with asyncio.timeout(LIMIT_S):
            data = await asyncio.get_running_loop().sock_recv(self.sock, most)
        if not data:
            raise Cut(f"after {len(self.body)} bytes of the body")
        self._received += data

    # Leaving

    def leave(self, how: str) -> float:
        """Leave in one of `LEAVINGS`; return `time.monotonic()` of it."""
        self.left_at = time.monotonic()
        {"fin": self.close, "reset": self.reset, "half_close": self.half_close}[how]()
        return self.left_at

    def close(self) -> None:
        """Close with a FIN; the kernel makes it a reset if there is something unread."""
        self.sock.close()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def half_close(self) -> None:
        """Say that nothing more will be sent, and go on listening."""
        self.sock.shutdown(socket.SHUT_WR)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.sock.close()


async def until(look: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool] = bool) -> Any:
    """Look again and again until what is seen is *wanted*; return it. For what nobody announces."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            seen = await look()
            if wanted(seen):
                return seen
            await asyncio.sleep(0.01)
