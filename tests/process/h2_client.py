"""HTTP/2 over TLS by hand: streams that read only what they are asked to, and can be reset one by one."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

from tests.process.raw_client import Client, Cut
from tests.process.service import Answer
from tests.process.tls_client import HOST, TlsClient, TlsService

__all__ = ["H2Client", "H2Service", "Lost"]


class Lost(ConnectionError):
    """The answer ended before its end: its stream was reset, or its connection closed."""


class _Wire(TlsClient):
    """One connection with its streams. It has no reader of its own: whoever reads, reads for all."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.h2 = H2Connection(H2Configuration(header_encoding="utf-8"))
        self.streams: dict[int, H2Client] = {}
        self._reads = asyncio.Lock()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.send(data)

    async def pump(self, stream: H2Client) -> None:
        """Read until something has come for *stream*."""
        async with self._reads:
            while not stream.news:
                try:
                    data = await self.receive()
                except Cut as error:
                    raise Lost(str(error)) from error
                for event in self.h2.receive_data(data):
                    self._tell(event)
                await self.flush()
            stream.news = False

    def _tell(self, event: Any) -> None:
        stream = self.streams.get(getattr(event, "stream_id", 0))
        if stream is None:
            return
        stream.news = True
        if isinstance(event, ResponseReceived):
            stream.take_head({str(name): str(value) for name, value in event.headers})
        elif isinstance(event, DataReceived):
            stream.take(event.data)
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            stream.ended = True
        elif isinstance(event, StreamReset):
            stream.lost = f"reset, {event.error_code}"


class H2Client(Client):
    """One request and its answer. `leave("rst_stream")` ends them alone, the others take the connection along."""

    def __init__(self, wire: _Wire) -> None:
        super().__init__(wire.sock)
        self._wire = wire
        self._number = wire.h2.get_next_available_stream_id()
        wire.streams[self._number] = self
        self.news = False
        """Something has come for it since it last asked."""
        self.ended = False
        """Its end has come, though not all of it need be read."""
        self.lost = ""
        """Why no more will come."""

    async def ask(self, method: str, path: str, body: Any = None, **headers: str) -> None:
        fields = [(":method", method), (":scheme", "https"), (":authority", HOST), (":path", path)]
        content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if body is not None:
            fields += [("content-type", "application/json")]
        fields += [(name.replace("_", "-").lower(), value) for name, value in headers.items()]
        self._wire.h2.send_headers(self._number, fields, end_stream=body is None)
        if body is not None:
            self._wire.h2.send_data(self._number, content, end_stream=True)
        await self._wire.flush()

    async def read_head(self) -> int:
        while not self.status:
            await self._more()
        return self.status

    def take_head(self, headers: dict[str, str]) -> None:
        self.status = int(headers.pop(":status"))
        self.headers = headers
        self._left = None  # to the stream's end, which is told as the end of a connection would be

    def take(self, data: bytes) -> None:
        self._received += data

    def leave(self, how: str) -> float:
        if how != "rst_stream":
            return super().leave(how)
        self.left_at = time.monotonic()
        self._wire.h2.reset_stream(self._number, ErrorCodes.CANCEL)
        self.sock.send(self._wire.encrypted(self._wire.h2.data_to_send()))
        return self.left_at

    async def _receive(self, most: int = 65536) -> None:
        await asyncio.sleep(0)  # bytes that are already here let nobody else run
        while not self._received:
            await self._more()

    async def _more(self) -> None:
        if self.lost:
            raise Lost(self.lost)
        if self.ended:
            raise Cut("the stream's end")
        await self._wire.pump(self)


class H2Service(TlsService):
    """The service as HTTP/2 shows it. Each request has a connection of its own, or all of them share one."""

    def __init__(self, port: int, tls: ssl.SSLContext, *, share: bool = False) -> None:
        super().__init__(port, tls)
        tls.set_alpn_protocols(["h2"])
        self._share = share
        self._shared: _Wire | None = None

    async def open(
        self, method: str, path: str, body: Any = None, *, receive_buffer: int | None = None, **headers: str
    ) -> H2Client:
        client = H2Client(self._shared or await self._wire(receive_buffer))
        await client.ask(method, path, body, **headers)
        await client.read_head()
        return client

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        client = await self.open(method, path, body, **headers)
        await client.read_all()
        is_json = client.headers.get("content-type", "").startswith("application/json")
        return Answer(client.status, client.headers, json.loads(client.body) if is_json else bytes(client.body))

    async def _wire(self, receive_buffer: int | None) -> _Wire:
        wire = await _Wire.connect(self.new_socket(), self.host, self.port, receive_buffer=receive_buffer)
        assert isinstance(wire, _Wire)
        await wire.secure(self.tls)
        assert wire.tls.selected_alpn_protocol() == "h2"
        wire.h2.initiate_connection()
        await wire.flush()
        if self._share:
            self._shared = wire
        return wire
