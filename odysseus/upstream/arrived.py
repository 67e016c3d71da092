"""What has arrived of a response's body and wasn't taken yet.

aiohttp wakes whoever reads in a later turn of the loop, raises a connection's error before it hands out the bytes that
came before it, and sets a timer and resumes its parser at every read. Here a read costs none of that: bytes come
straight from the parser. For that, the reader that aiohttp made becomes a `_Telling` one, which is not public API.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from odysseus.tasks import look_at

__all__ = ["Arrived"]

_MAX_AHEAD = 1024 * 1024  # bytes read ahead of a consumer that is slower than the model


class Arrived:
    """The body of *response*; it fails with `TimeoutError` when nothing has come for *silence_s*."""

    def __init__(self, response: aiohttp.ClientResponse, silence_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._response = response
        self._content = response.content
        self._silence_s = silence_s
        self._chunks: list[bytes] = []
        self._size = 0
        self._paused = False
        self._ended = False
        self._error: BaseException | None = None
        self._taker: asyncio.Future[None] | None = None
        self._last_at = self._loop.time()
        self._timer = self._loop.call_later(silence_s, self._look)
        self._protocol = None if response.connection is None else response.connection.protocol
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
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if self._paused and self._protocol is not None:
            self._paused = False
            self._last_at = self._loop.time()  # the silence was ours
            self._protocol.resume_reading()
        return data

    def close(self) -> None:
        """Close the connection, unless the response has ended and it can be used again."""
        self._timer.cancel()
        if self._closed is not None:
            self._closed.remove_done_callback(self._on_closed)
        if self._content.is_eof():
            self._response.release()
            return
        if self._response.connection is not None and self._response.connection.transport is not None:
            # A polite close of a TLS connection waits 30 s for a peer that doesn't answer it.
            self._response.connection.transport.abort()
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
        self._last_at = self._loop.time()
        self._tell()
        if self._size > _MAX_AHEAD and not self._paused and self._protocol is not None:
            self._paused = True
            self._protocol.pause_reading()

    # What aiohttp asks of the future of a reader that waits

    def done(self) -> bool:
        return self._ended

    def set_result(self, _: None) -> None:
        self._end(None)

    def set_exception(self, error: BaseException) -> None:
        self._end(error)

    def _begin(self) -> None:
        content = self._content
        while content.exception() is None and (data := content.read_nowait()):  # what came with the headers
            self.feed(data)
        if (error := content.exception()) is not None or content.is_eof():
            self._end(error)
            return
        content.__class__ = _Telling
        content._waiter = self  # type: ignore[assignment]
        if self._protocol is not None:
            self._protocol.read_timeout = None  # it would be set anew at every read

    def _end(self, error: BaseException | None) -> None:
        self._ended, self._error = True, error
        self._timer.cancel()
        self._tell()

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
