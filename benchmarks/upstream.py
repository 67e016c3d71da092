"""The fake model server: OpenAI-compatible enough, and as cheap as can be.

A request names its stream in the prompt, `stream 17`; the scenario finds that stream here and tells it what to say.
Every token says its number, and when it was sent, if it was sent alone: `~000042@000014000000000000`.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

__all__ = ["TOKEN", "Stream", "Upstream", "pace", "prompt_of", "token"]

TOKEN = re.compile(rb"~(\d{6})(?:@(\d{18}))?")

_STREAM = re.compile(rb"stream (\d+)")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_FIELDS = b'"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench"'


def prompt_of(number: int) -> str:
    return f"stream {number}"


def token(number: int) -> bytes:
    """Return what the text of token *number* begins with."""
    return b"~%06d" % number


def _chunk(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _answer(delta: bytes, finish_reason: bytes = b"null") -> bytes:
    return _chunk(b'{%b,"choices":[{"index":0,"delta":{%b},"finish_reason":%b}]}' % (_FIELDS, delta, finish_reason))


_STAMPED = _answer(b'"content":"~000000@000000000000000000"').replace(b"~000000@000000000000000000", b"~%06d@%018d")
_BARE = _answer(b'"content":"~000000"').replace(b"~000000", b"~%06d")
_END = _answer(b"", b'"stop"') + _chunk(b"[DONE]") + b"0\r\n\r\n"


@functools.cache
def _tokens(count: int, *kinds: bytes) -> bytes:
    """Return the tokens 1 to *count*, each of the next of *kinds*."""
    return b"".join(_answer(b'"%b":"%b"' % (kinds[n % len(kinds)], token(n))) for n in range(1, count + 1))


class Stream:
    """One answer, told by a scenario what to say next."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """When the other side closed the connection before the end, as `time.monotonic_ns` tells it."""

    def say(self, number: int) -> None:
        """Send one token, with the time."""
        self._transport.write(_STAMPED % (number, time.monotonic_ns()))

    def say_bare(self, number: int) -> None:
        """Send one token without the time: it is then as long as a model's."""
        self._transport.write(_BARE % number)

    def burst(self, count: int) -> None:
        """Send the tokens 1 to *count* as fast as the socket takes them."""
        self._transport.write(_tokens(count, b"content"))

    def burst_apart(self, count: int) -> None:
        """The same, in turns of text and reasoning: two that follow each other can't be joined into one event."""
        self._transport.write(_tokens(count, b"content", b"reasoning_content"))

    def end(self) -> None:
        if not self.closed.done():
            self.closed.cancel()
            self._transport.write(_END)

    def lost(self) -> None:
        if not self.closed.done():
            self.closed.set_result(time.monotonic_ns())


async def pace(says: Sequence[Callable[[int], None]], gap_s: float, numbers: Sequence[int]) -> None:
    """Let every one of *says* send the tokens *numbers*, one each *gap_s*, the streams evenly spread over the gap.

    One token is sent in each turn of the event loop, so that none that arrives has to wait for a whole row of them.
    """
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    start_s, apart_s = loop.time(), gap_s / len(says)
    sent = 0

    def turn() -> None:
        nonlocal sent
        says[sent % len(says)](numbers[sent // len(says)])
        sent += 1
        if sent == len(numbers) * len(says):
            done.set_result(None)
        elif (due_s := start_s + sent * apart_s) <= loop.time():
            loop.call_soon(turn)
        else:
            loop.call_at(due_s, turn)

    loop.call_soon(turn)
    await done


class Upstream:
    def __init__(self) -> None:
        self.port = 0
        self._expected: dict[int, asyncio.Future[Stream]] = {}
        self._last = 0

    def expect(self) -> tuple[int, asyncio.Future[Stream]]:
        """Return the number of a new stream, and what becomes that stream when it is asked for."""
        self._last += 1
        expected = self._expected[self._last] = asyncio.get_running_loop().create_future()
        return self._last, expected

    def asked(self, request: bytes, transport: asyncio.Transport) -> Stream:
        number = int(_STREAM.findall(request)[-1])
        transport.write(_HEAD)
        stream = Stream(transport)
        self._expected.pop(number).set_result(stream)
        return stream

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", 0, backlog=4096)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()


class _Connection(asyncio.Protocol):
    """One connection of a target; it may ask for one stream after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._request = b""
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, _, body = self._request.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if length is not None and len(body) >= int(length[1]):
            self._stream = self._upstream.asked(body, self._transport)
            self._request = b""

    def eof_received(self) -> None:
        self._lost()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def _lost(self) -> None:
        if self._stream is not None:
            self._stream.lost()
