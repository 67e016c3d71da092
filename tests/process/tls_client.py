"""The client of bare sockets, through TLS: what is below the encryption stays in the test's hands."""

from __future__ import annotations

import asyncio
import ssl
from typing import Self

from tests.process.raw_client import LIMIT_S, Client, Cut
from tests.process.service import Service

__all__ = ["HOST", "TlsClient", "TlsService"]

HOST = "odysseus"
"""The name that is asked for."""


class TlsClient(Client):
    """As `Client`. Closing it closes the socket: most browsers say no goodbye in TLS, either."""

    async def secure(self, context: ssl.SSLContext) -> Self:
        """Do the handshake; *context* says whom to believe and which protocols to offer."""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=HOST)
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._exchange()
            else:
                break
        await super().send(self._out.read())
        return self

    def encrypted(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._out.read()

    async def send(self, data: bytes) -> None:
        await super().send(self.encrypted(data))

    async def receive(self, most: int = 65536) -> bytes:
        """Return bytes as they come. Raises `Cut` when no more will."""
        while True:
            try:
                if data := self.tls.read(most):
                    return data
                raise Cut("with a goodbye in TLS")
            except ssl.SSLZeroReturnError as error:
                raise Cut("with a goodbye in TLS") from error
            except ssl.SSLWantReadError:
                await self._exchange()

    async def _receive(self, most: int = 65536) -> None:
        await asyncio.sleep(0)  # bytes that are already here let nobody else run
        self._received += await self.receive(most)

    async def _exchange(self) -> None:
        """Send what TLS has to say, and take what comes."""
        if waiting := self._out.read():
            await super().send(waiting)
        async with asyncio.timeout(LIMIT_S):
            data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
        if not data:
            raise Cut(f"after {len(self.body)} bytes of the body")
        self._in.write(data)


class TlsService(Service):
    """The service as HTTP/1.1 shows it at *port*, through TLS."""

    def __init__(self, port: int, tls: ssl.SSLContext) -> None:
        super().__init__(port)
        self.tls = tls

    async def connect(self, *, receive_buffer: int | None = None) -> TlsClient:
        client = await TlsClient.connect(self.new_socket(), self.host, self.port, receive_buffer=receive_buffer)
        assert isinstance(client, TlsClient)
        return await client.secure(self.tls)
