"""The tools that are there: the built-in ones, and those of the MCP servers that answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Protocol

from odysseus.tools import Tool

__all__ = ["ToolServer", "Toolbox"]

_SETTLE_S = 10.0  # what a server that is just starting gets before a run goes on without its tools


class ToolServer(Protocol):
    """A server that has tools; it comes and goes by itself."""

    name: str
    transport: Literal["stdio", "http"]
    state: Literal["starting", "ready", "failed"]
    problem: str | None
    tools: Sequence[Tool]
    settled: asyncio.Event
    """Set when the first attempt to reach it has ended, well or not."""

    def start(self) -> None: ...

    async def close(self) -> None: ...


class Toolbox:
    def __init__(self, builtin: Sequence[Tool] = (), servers: Sequence[ToolServer] = ()) -> None:
        self.servers = servers
        self._builtin = builtin

    def start(self) -> None:
        for server in self.servers:
            server.start()

    async def close(self) -> None:
        await asyncio.gather(*(server.close() for server in self.servers))

    async def tools(self) -> Sequence[Tool]:
        """Return what can be called now. Waits for servers that are just being started, but not for long."""
        try:
            async with asyncio.timeout(_SETTLE_S):
                for server in self.servers:
                    await server.settled.wait()
        except TimeoutError:
            pass
        return [*self._builtin, *(tool for server in self.servers for tool in server.tools)]
