"""A TCP server whose connections end with it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Listener"]

_Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


class Listener:
    """Serves each connection by *serve*, and closes it after that.

    With a coroutine, `asyncio.start_server` would leave a connection open that it accepts in its last moment: a task
    that is cancelled before its first step never comes to its own `finally`.
    """

    def __init__(
        self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
    ) -> None:
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many connections are open."""
        return len(self._tasks)

    @property
    def listens(self) -> bool:
        return self._server is not None

    async def open(self, sock: socket.socket | None = None) -> int:
        """Listen at *sock*, else at a free port of 127.0.0.1; return the port."""
        if sock is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        else:
            self._server = await asyncio.start_server(self._accept, sock=sock)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Take no new connections, and break those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            if not task.cancelling():  # a second cancel would interrupt what the first one ends
                task.cancel()

    async def close(self) -> None:
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            if task.cancelled():
                writer.transport.abort()
            else:
                writer.close()

        task.add_done_callback(over)
        if self._server is None:
            task.cancel()
