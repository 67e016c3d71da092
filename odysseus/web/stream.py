"""A response that streams events: one writer, pings that never get in its way, an end for a client that is stuck.

What a client can take at once goes to its transport directly, in the chunks of HTTP/1.1: aiohttp's own way there is
five coroutines long. The rest waits in aiohttp's `write`.

The care has a reason: since aiohttp 3.14, a `write` that is cancelled or timed out while it waits spoils its
connection for every later one. So nothing here times a write out; a client that takes nothing loses its connection.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios

from aiohttp import HttpVersion11, web
from aiohttp_sse import EventSourceResponse

from odysseus.run import Run
from odysseus.sse import PING
from odysseus.web.guard import Guard
from odysseus.web.pulse import Pulse
from odysseus.web.routes import IDENTITY, SETTINGS, STREAMING

__all__ = ["GUARD", "PULSE", "EventStream", "chunk"]

GUARD = web.AppKey("guard", Guard)
PULSE = web.AppKey("pulse", Pulse)

_READY = b": ok\n\n"  # the headers leave with the first bytes of the body, which may be a while
_LONG = 64 * 1024


def chunk(data: bytes) -> bytes:
    """Return *data* as a chunk of HTTP/1.1. Source: RFC 9112, section 7.1."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_PING_CHUNK = chunk(PING)


class EventStream(EventSourceResponse):
    """One client's stream of frames that are already encoded. It is also the sink of a direct run.

    A client that is gone shows as `ConnectionError` from `write`, and as a cancel of the handler. One that has taken
    nothing for `SEND_TIMEOUT_S` is cut off; on Linux the kernel does that too when it stops acknowledging.
    """

    def __init__(self, request: web.Request) -> None:
        settings = request.app[SETTINGS]
        super().__init__(sep="\n", allow_all_methods=True, send_timeout=settings.send_timeout_s)
        self.headers["Cache-Control"] = "no-store"
        self._in_chunks = request.version >= HttpVersion11
        if not self._in_chunks:  # the end of the connection is the end of the stream
            self.headers["Connection"] = "close"
            self.force_close()
        self._request = request
        self._limit_s = settings.send_timeout_s
        self._transport: asyncio.Transport | None = None  # set when the stream has begun
        self._written = 0
        self._watch: asyncio.TimerHandle | None = None  # set while the client has something to take

    async def open(self, run: Run[bytes]) -> None:
        await self.begin(run.id, run.session_id)

    async def begin(self, run_id: str, session_id: str) -> None:
        """Send the headers. Raises `ConnectionError` when the client has gone."""
        self.headers["X-Odysseus-Run-Id"] = run_id
        self.headers["X-Odysseus-Session-Id"] = session_id
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client left before its stream began")
        self._request[STREAMING] = True
        await self.prepare(self._request)
        self._transport = transport
        await super().write(_READY)  # with the headers
        self._written += len(_READY)
        self._request.app[PULSE].add(self)
        self._request.app[GUARD].add(self, self._request[IDENTITY])

    async def _ping(self) -> None:
        """Nothing: one timer pings all streams. aiohttp-sse's own way, a task that is then cancelled, keeps the stream
        in memory until the garbage collector comes by."""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            self.cut()
            raise ConnectionResetError("the client has gone")
        backlog = transport.get_write_buffer_size()
        if not backlog and len(data) <= _LONG:
            transport.write(chunk(bytes(data)) if self._in_chunks else data)
            self._written += len(data)
            return
        self._watch_over(transport)
        self._written += len(data)
        try:
            await super().write(data)
        except asyncio.CancelledError:
            self.cut()  # half a frame may stand in the buffer, and the connection can't be waited for any more
            raise

    @property
    def free(self) -> bool:
        """Whether the client is there and has taken all that was sent."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and not transport.get_write_buffer_size()

    def write_nowait(self, frame: bytes) -> None:
        """As `write`, without waiting: for what one read of the model server brought, while this is `free`."""
        assert self._transport is not None
        self._transport.write(chunk(frame) if self._in_chunks else frame)
        self._written += len(frame)

    def push(self, frame: bytes, as_chunk: bytes) -> bool:
        """Send *frame* now, if the client has taken all before it; return whether it had. A lost client has it all."""
        transport = self._transport
        assert transport is not None
        if transport.is_closing():
            return True  # its handler is being cancelled
        if transport.get_write_buffer_size():
            return False
        transport.write(as_chunk if self._in_chunks else frame)
        self._written += len(frame)
        return True

    def ping(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            self.cut()
        elif transport.get_write_buffer_size():
            self._watch_over(transport)  # it has bytes to take; a ping would wait behind them
        else:
            self.push(PING, _PING_CHUNK)

    def cut(self) -> None:
        """End the connection without waiting for anything that is still unsent."""
        if self._transport is not None:
            self._transport.abort()

    def end(self) -> None:
        """Stop the pings. The stream itself ends when the handler returns it."""
        if self._transport is not None:
            self._request.app[PULSE].discard(self)
            self._request.app[GUARD].discard(self)
            if self._transport.get_write_buffer_size():
                self._watch_over(self._transport)

    async def write_eof(self, data: bytes = b"") -> None:
        try:
            await super().write_eof(data)  # waits until the client has taken everything
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def _watch_over(self, transport: asyncio.Transport) -> None:
        if self._watch is None:
            taken = self._written - _untaken(transport)
            self._watch = asyncio.get_running_loop().call_later(self._limit_s, self._look, transport, taken)

    def _look(self, transport: asyncio.Transport, taken_then: int) -> None:
        self._watch = None
        if not transport.get_write_buffer_size():
            return
        if self._written - _untaken(transport) <= taken_then:
            self.cut()
        else:
            self._watch_over(transport)


def _untaken(transport: asyncio.Transport) -> int:
    """Return how many bytes the client hasn't taken, those in the kernel included.

    The transport alone would look stuck for long: Linux lets it go on only when a third of its 4 MB has been taken.
    """
    socket = transport.get_extra_info("socket")
    try:
        queued = int.from_bytes(fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except (OSError, AttributeError):  # not Linux, or not a socket of TCP
        queued = 0
    return transport.get_write_buffer_size() + queued
