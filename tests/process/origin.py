"""A server that notes what a proxy sends it, byte for byte, and answers as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

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
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in (tasks := set(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def header(self, name: str, number: int = -1) -> list[str]:
        """Return every value of a header of request *number*."""
        fields = [line.partition(":") for line in self.heads[number].split("\r\n")[1:]]
        return [value.strip() for field, _, value in fields if field.lower() == name.lower()]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            while not writer.is_closing():
                self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode()[:-4])
                await reader.readexactly(sum(int(length) for length in self.header("Content-Length")))
                await self._answer(writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
