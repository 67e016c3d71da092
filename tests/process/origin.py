"""A server that notes what a proxy sends it, byte for byte, and answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Self

from tests.listener import Listener

__all__ = ["Origin", "fine"]

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


async def fine(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")


class Origin:
    """Answers every request by *answer*, which may close its connection."""

    def __init__(self, answer: Answer = fine) -> None:
        self.heads: list[str] = []
        """Those of all requests, oldest first."""
        self.connections = 0
        """How many there have been."""
        self._answer = answer
        self._listener = Listener(self._serve)

    async def __aenter__(self) -> Self:
        self.port = await self._listener.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._listener.close()

    def header(self, name: str, number: int = -1) -> list[str]:
        """Return every value of a header of request *number*."""
        fields = [line.partition(":") for line in self.heads[number].split("\r\n")[1:]]
        return [value.strip() for field, _, value in fields if field.lower() == name.lower()]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode()[:-4])
                await reader.readexactly(sum(int(length) for length in self.header("Content-Length")))
                await self._answer(writer)
                await writer.drain()
