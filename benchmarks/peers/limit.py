"""What bare asyncio protocols can do: the least that could be done, without a word of JSON.

A direct stream splices the model server's bytes to the client. A detached run is a hub of ready chunks: the bytes are
kept, and written to every subscriber's transport. The log is the body as it was sent, a place in it an event's id.
"""

from __future__ import annotations

import asyncio
import re
import sys

import uvloop

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
_LAST_EVENT_ID = re.compile(rb"(?i)\r\nlast-event-id: *(\d+)")
_ASK = b"POST /v1/chat/completions HTTP/1.1\r\nHost: upstream\r\nContent-Length: %d\r\n\r\n%b"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"X-Odysseus-Session-Id: %d\r\n\r\n"
)
_STOPPED = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{"stopped":true}'

hubs: list[Hub] = []


class Source(asyncio.Protocol):
    """A connection to the model server, for one answer."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        transport.write(_ASK % (len(self.body), self.body))


class Splice(Source):
    """A direct stream: the model server's bytes go to the client as they are, its head included."""

    def __init__(self, body: bytes, client: Client) -> None:
        super().__init__(body)
        self.client = client

    def data_received(self, data: bytes) -> None:
        self.client.transport.write(data)


class Hub(Source):
    """A detached run: its log, and whoever watches it. What a slow subscriber doesn't take waits in its transport."""

    def __init__(self, body: bytes, client: Client) -> None:
        super().__init__(body)
        self.log = bytearray()
        self.subscribers: set[asyncio.Transport] = set()
        self.begun = False
        self.number = len(hubs)
        hubs.append(self)
        self.subscribe(client, 0)

    def data_received(self, data: bytes) -> None:
        if not self.begun:
            self.begun, data = True, data.partition(b"\r\n\r\n")[2]
        self.log += data
        for transport in self.subscribers:
            transport.write(data)

    def subscribe(self, client: Client, start: int) -> None:
        client.hub = self
        client.transport.write(_HEAD % self.number + self.log[start:])
        self.subscribers.add(client.transport)


class Client(asyncio.Protocol):
    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.request = b""
        self.splice: Splice | None = None
        self.hub: Hub | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.request += data
        head, end, body = self.request.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if end and len(body) >= (int(length[1]) if length else 0):
            self.request = b""
            self.answer(head, head.split(b" ", 2)[1], body)

    def answer(self, head: bytes, path: bytes, body: bytes) -> None:
        if path == b"/api/chat_stream":
            asyncio.get_running_loop().create_task(self.ask(body))
            return
        hub = hubs[int(path.rpartition(b"/")[2])]
        if path.startswith(b"/api/chat/stop/"):
            hub.transport.abort()
            self.transport.write(_STOPPED)
            self.transport.close()
        else:
            start = _LAST_EVENT_ID.search(head)
            hub.subscribe(self, int(start[1]) if start else 0)

    async def ask(self, body: bytes) -> None:
        kind = Splice if b'"compare_mode": true' in body else Hub
        source = kind(body, self)
        await asyncio.get_running_loop().create_connection(lambda: source, "127.0.0.1", self.upstream_port)
        if isinstance(source, Splice):
            self.splice = source
            if self.transport.is_closing():
                source.transport.abort()

    def pause_writing(self) -> None:
        if self.splice is not None:
            self.splice.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.splice is not None:
            self.splice.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.splice is not None:
            self.splice.transport.abort()
        if self.hub is not None:
            self.hub.subscribers.discard(self.transport)


async def main(port: int, upstream_port: int) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Client(upstream_port), "127.0.0.1", port, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
