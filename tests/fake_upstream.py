"""A model server made of bare sockets: it says what its script says, and notes when its connections close.

It isn't aiohttp, so that what aiohttp does to a connection can be seen from the other side.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from tests.listener import Listener

__all__ = ["Exchange", "FakeUpstream", "Script", "breaks", "chunk", "in_turn", "say", "silent", "status", "wants"]

Script = Callable[["Exchange"], Awaitable[None]]


def chunk(
    content: str | None = None,
    *,
    reasoning: str | None = None,
    tool_calls: Sequence[dict[str, Any]] | None = None,
    finish_reason: str | None = None,
    usage: dict[str, int] | None = None,
) -> bytes:
    """Return one event of a streamed answer."""
    delta = {"content": content, "reasoning_content": reasoning, "tool_calls": tool_calls}
    choice = {"index": 0, "delta": {k: v for k, v in delta.items() if v is not None}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [] if usage else [choice], "usage": usage}).encode() + b"\n\n"


class Exchange:
    """One request and its answer, as the model server sees them."""

    def __init__(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.request_line, *headers = head.split("\r\n")
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in headers)}
        self.body: dict[str, Any] = json.loads(body) if body else {}
        self.closed = asyncio.Event()
        """Set when the client has closed its connection."""
        self.closed_at: float | None = None
        """`time.monotonic()` of that moment."""
        self._writer = writer

    async def head(self, status: int = 200, *, content_type: str = "text/event-stream", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {content_type}", "Transfer-Encoding: chunked"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def send(self, data: bytes) -> None:
        """Send *data* as one chunk of the body."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def abort(self) -> None:
        """Break the connection, with a reset."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close the connection in the middle of whatever it was saying."""
        self._writer.close()


class FakeUpstream:
    """Serves `GET /v1/models` from *models* and runs *script* for each `POST /v1/chat/completions`.

    Scripts by model id in `scripts` go before the common one. `exchanges` has every POST, oldest first. With
    *keep_alive* a connection waits for the next request after each answer. It listens at *sock*, else at a free port.
    """

    def __init__(
        self,
        script: Script,
        models: tuple[str, ...] = ("m",),
        *,
        keep_alive: bool = False,
        sock: socket.socket | None = None,
    ) -> None:
        self.script = script
        self.listing: Script = self._list
        """Answers `GET /v1/models`."""
        self.keep_alive = keep_alive
        self.scripts: dict[str, Script] = {}
        self.models = models
        self.exchanges: list[Exchange] = []
        self.connections = 0
        """Connections that are open now."""
        self.accepted = 0
        """Connections there have been."""
        self._arrived = asyncio.Condition()
        self._sock = sock
        self._listener = Listener(self._serve)

    async def __aenter__(self) -> Self:
        self.port = await self._listener.open(self._sock)
        self.url = f"http://127.0.0.1:{self.port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close()

    async def exchange(self, number: int = 0) -> Exchange:
        """Wait for POST *number*, counted from 0."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.exchanges) > number)
        return self.exchanges[number]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.accepted += 1
        ahead: bytes | None = b""
        try:
            while (ahead := await self._answer(ahead, reader, writer)) is not None:
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()  # at once: a client that is quick would use the connection again

    async def _answer(self, ahead: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """Answer one request, which begins with *ahead*; return the first byte of the next, None if there is none."""
        head = (ahead + await reader.readuntil(b"\r\n\r\n")).decode()[:-4]
        length = next((int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length")), 0)
        exchange = Exchange(head, await reader.readexactly(length), writer)
        if exchange.request_line.startswith("GET /v1/models"):
            await self.listing(exchange)
            return b""
        async with self._arrived:
            self.exchanges.append(exchange)
            self._arrived.notify_all()
        script = asyncio.ensure_future(self.scripts.get(exchange.body["model"], self.script)(exchange))
        gone = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({script, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not gone.done():
                script.result()
                # One request a connection, unless it is used again at once.
                await asyncio.wait({gone}, timeout=None if self.keep_alive else 0.05)
        finally:
            script.cancel()
            gone.cancel()
            await asyncio.gather(script, gone, return_exceptions=True)
            exchange.closed_at = time.monotonic()
            exchange.closed.set()
        return None if gone.cancelled() else gone.result() or None

    async def _list(self, exchange: Exchange) -> None:
        await exchange.head(content_type="application/json")
        await exchange.send(json.dumps({"data": [{"id": model} for model in self.models]}).encode())
        await exchange.end()


def say(*texts: str, pause_s: float = 0, done: bool = True) -> Script:
    """Return a script that streams *texts*, then ends properly; with done=False it falls silent instead."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for text in texts:
            await exchange.send(chunk(text))
            await asyncio.sleep(pause_s)
        if not done:
            await asyncio.Event().wait()
        await exchange.send(chunk(finish_reason="stop"))
        usage = {"prompt_tokens": 3, "completion_tokens": len(texts), "total_tokens": 3 + len(texts)}
        await exchange.send(chunk(usage=usage))
        await exchange.send(b"data: [DONE]\n\n")
        await exchange.end()

    return script


def breaks(*texts: str, how: Callable[[Exchange], None] = Exchange.abort) -> Script:
    """Return a script that streams *texts*, then breaks its connection, or closes it."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for text in texts:
            await exchange.send(chunk(text))
        how(exchange)

    return script


def status(number: int, body: bytes = b"sesame", content_type: str = "application/json", **headers: str) -> Script:
    """Return a script that answers with *body*, and is done."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(number, content_type=content_type, **headers)
        await exchange.send(body)
        await exchange.end()

    return script


def wants(*calls: tuple[str, str, str], done: bool = True) -> Script:
    """Return a script that calls tools (id, name, arguments), each in three fragments, all of them interleaved; with
    done=False it falls silent when the last fragment is still to come."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        heads = [{"index": n, "id": id_, "function": {"name": name}} for n, (id_, name, _) in enumerate(calls)]
        await exchange.send(chunk(tool_calls=heads))
        halves = [len(arguments) // 2 for _, _, arguments in calls]
        for n, (_, _, arguments) in enumerate(calls):
            await exchange.send(chunk(tool_calls=[{"index": n, "function": {"arguments": arguments[: halves[n]]}}]))
        if not done:
            await asyncio.Event().wait()
        for n, (_, _, arguments) in enumerate(calls):
            await exchange.send(chunk(tool_calls=[{"index": n, "function": {"arguments": arguments[halves[n] :]}}]))
        await exchange.send(chunk(finish_reason="tool_calls"))
        await exchange.send(b"data: [DONE]\n\n")
        await exchange.end()

    return script


def in_turn(*scripts: Script) -> Script:
    """Return a script that is the first of *scripts* for the first request, and so on; the last one stays."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


async def silent(exchange: Exchange) -> None:
    """Never say anything, headers included."""
    await asyncio.Event().wait()
