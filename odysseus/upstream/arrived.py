"""What has arrived of a response's body and wasn't taken yet.

aiohttp wakes whoever reads in a later turn of the loop, raises a connection's error before it hands out the bytes that
came before it, and sets a timer and resumes its parser at every read. Here a read costs none of that: bytes come
straight from the parser, and may be used before anybody is woken. For that, the reader that aiohttp made becomes a
`_Telling` one, which is not public API, and a `_Tap` on the connection tells when all of a read has been parsed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import aiohttp

from odysseus.tasks import look_at

__all__ = ["Arrived"]

_MAX_AHEAD = 1024 * 1024  # bytes read ahead of a consumer that is slower than the model


class Arrived:
    """The body of *response*; it fails with `TimeoutError` when nothing has come for *silence_s*.

    What a read brings while somebody waits in `take` is offered to *use* first; if that returns True it has used it,
    and nobody is woken.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, silence_s: float, use: Callable[[bytes], bool] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._content = response.content
        self._silence_s = silence_s
        self._use = use
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._tapped = False
        self._ended = False
        self._error: BaseException | None = None
        self._taker: asyncio.Future[None] | None = None
        self._last_at = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._look)
        connection = response.connection
        self._protocol = None if connection is None else connection.protocol
        self._transport = None if connection is None else connection.transport
        self._closed = None if self._protocol is None else self._protocol.closed
        if self._closed is not None:
            self._closed.remove_done_callback(look_at)  # one is enough, however often the connection is used
            self._closed.add_done_callback(look_at)
            self._closed.add_done_callback(self._on_closed)
        self._begin()

    async def take(self) -> bytes:
        """Return all that has arrived since the last call; nothing at the end. Raises the error that ended it."""
        while not self._chunks and not self._ended:
            self._taker = self._loop.create_future()
            await self._taker
        if not self._chunks and self._error is not None:
            raise self._error
        data = self._all()
        if self._paused and self._protocol is not None:
            self._paused = False
            self._last_at = self._loop.time()  # the silence was ours
            self._protocol.resume_reading()
            self.parsed()  # what the parser had kept back
        return data

    def close(self) -> None:
        """Close the connection, unless the response has ended and it can be used again."""
        self._timer.cancel()
        self._untap()
        if self._closed is not None:
            self._closed.remove_done_callback(self._on_closed)
        if self._content.is_eof():
            self._response.release()
            return
        if self._response.connection is not None and self._transport is not None:
            _hang_up(self._transport)
        self._response.close()

    async def linger(self, limit_s: float) -> None:
        """Close the connection when the response has ended, or when *limit_s* have passed."""
        try:
            async with asyncio.timeout(limit_s):
                while not self._ended:
                    await self.take()
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass
        finally:
            self.close()

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)

    def parsed(self) -> None:
        """All that one read brought has been fed, where there is anything to feed."""
        if not self._chunks:
            return
        self._last_at = self._loop.time()
        if self._use is not None and self._taker is not None and not self._taker.done():
            self._offer(self._use)
            return
        self._tell()
        if self._size > _MAX_AHEAD and not (self._paused or self._ended) and self._protocol is not None:
            self._paused = True
            self._protocol.pause_reading()

    # What aiohttp asks of the future of a reader that waits

    def done(self) -> bool:
        return self._ended

    def set_result(self, _: None) -> None:
        self._end(None)

    def set_exception(self, error: BaseException) -> None:
        self._end(error)

    def _offer(self, use: Callable[[bytes], bool]) -> None:
        """Somebody waits, so nothing has come before this."""
        data = self._all()
        try:
            if use(data):
                return
        except Exception as error:  # it would go to aiohttp, which takes it for the model server's
            self._end(error)
            return
        self.feed(data)
        self._tell()

    def _all(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        return data

    def _begin(self) -> None:
        content = self._content
        while content.exception() is None and (data := content.read_nowait()):  # what came with the headers
            self.feed(data)
        self.parsed()
        if (error := content.exception()) is not None or content.is_eof():
            self._end(error)
            return
        content.__class__ = _Telling
        content._waiter = self  # type: ignore[assignment]
        if self._protocol is not None:
            self._protocol.read_timeout = None  # it would be set anew at every read
            if self._transport is not None:
                self._transport.set_protocol(_Tap(self._protocol, self.parsed))
                self._tapped = True

    def _end(self, error: BaseException | None) -> None:
        self._ended, self._error = True, error
        self._timer.cancel()
        self._untap()
        self._tell()

    def _untap(self) -> None:
        """From here on the connection may be another answer's."""
        if self._tapped and self._transport is not None and self._protocol is not None:
            self._tapped = False
            self._transport.set_protocol(self._protocol)

    def _tell(self) -> None:
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    def _look(self) -> None:
        """One timer an answer, moved when it fires. Silence of our own making, behind a slow client, doesn't count."""
        now = self._loop.time()
        due = (now if self._paused else self._last_at) + self._silence_s
        if now >= due:
            self._end(TimeoutError())
        else:
            self._timer = self._loop.call_at(due, self._look)

    def _on_closed(self, _: asyncio.Future[None]) -> None:
        """aiohttp 3.14 closes a connection whose chunks it can't parse and tells nobody who reads."""
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("closed in the middle"))


class _Tap(asyncio.Protocol):
    """Stands between a connection and aiohttp's *protocol*; calls *parsed* when that has parsed what a read brought."""

    def __init__(self, protocol: Any, parsed: Callable[[], None]) -> None:
        self._protocol = protocol
        self._parsed = parsed

    def data_received(self, data: bytes) -> None:
        self._protocol.data_received(data)
        self._parsed()

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()


class _Telling(aiohttp.StreamReader):
    """Hands what it is fed to the `Arrived` that stands where others keep the future of a reader that waits."""

    __slots__ = ()

    _waiter: Any

    def feed_data(self, data: bytes, size: int = 0) -> bool:
        if data and self._waiter is not None:
            self._waiter.feed(data)
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Nothing: nobody asks where the chunks of HTTP were cut."""

    def end_http_chunk_receiving(self) -> None:
        """Nothing, for the same reason."""


def _hang_up(transport: asyncio.Transport) -> None:
    """Close the connection now: without the goodbye of TLS, which waits 30 s for a peer that doesn't answer it, and
    without waiting for the turn of the loop in which `abort` closes the socket."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno())) as own:
        own.shutdown(socket.SHUT_RDWR)
    transport.abort()
