"""Calls of `odysseus chat`, with pipes or at a terminal, and a proxy whose connections break."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.process.raw_client import LIMIT_S, until
from tests.process.service import Service

__all__ = ["CLEAN", "ODYSSEUS", "Command", "Proxy", "Terminal", "at_terminal", "called", "chatting", "proxied"]

ODYSSEUS = str(Path(sys.executable).with_name("odysseus"))
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("ODYSSEUS_")}


class Command:
    """A call of `odysseus chat`, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = self.err = ""
        self._readers = [
            asyncio.create_task(self._collect(stream, name))
            for stream, name in ((process.stdout, "out"), (process.stderr, "err"))
            if stream is not None
        ]

    async def said(self, what: Callable[[Command], object]) -> None:
        """Wait until what it has printed is like that."""

        async def look() -> object:
            return what(self)

        await until(look)

    async def wait(self) -> int:
        """Wait for its end; return its exit code."""
        async with asyncio.timeout(LIMIT_S):
            code = await self.process.wait()
            await asyncio.gather(*self._readers)
        return code

    @property
    def session_id(self) -> str:
        """As the last line names it."""
        found = re.search(r"session (ses_\w+)", self.err)
        assert found is not None, self.err
        return found[1]

    async def _collect(self, stream: asyncio.StreamReader, name: str) -> None:
        while data := await stream.read(65536):
            setattr(self, name, getattr(self, name) + data.decode())


@asynccontextmanager
async def chatting(service: Service | Proxy, *arguments: str, stdin: bytes | None = None) -> AsyncIterator[Command]:
    process = await asyncio.create_subprocess_exec(
        *(ODYSSEUS, "chat", "--url", f"http://127.0.0.1:{service.port}", *arguments),
        stdin=DEVNULL if stdin is None else PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=CLEAN,
    )
    if process.stdin is not None:
        process.stdin.write(stdin or b"")
        process.stdin.close()
    command = Command(process)
    try:
        yield command
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await command.wait()


async def called(service: Service, *arguments: str, stdin: bytes | None = None) -> tuple[int, str, str]:
    async with chatting(service, *arguments, stdin=stdin) as command:
        return await command.wait(), command.out, command.err


class Proxy:
    """Connections to *port* that can be cut, and can be kept from answering."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self.answers = asyncio.Event()
        """What the service says is held back while it isn't set."""
        self.answers.set()
        self.holding = 0
        """Connections whose answers are held back now."""
        self.opened = 0
        """Connections there have been."""
        self._behind = port
        self._open: set[asyncio.StreamWriter] = set()
        self._refuses = False

    def cut(self, *, refuse: bool = False) -> None:
        """Break every connection; with *refuse* every new one, too, until `accept`."""
        self._refuses = refuse
        for writer in self._open:
            writer.transport.abort()

    def accept(self) -> None:
        self._refuses = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        if self._refuses:
            writer.transport.abort()
            return
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self._behind)
        ends = {writer, behind_writer}
        self._open |= ends
        pumps = [
            asyncio.create_task(self._pump(reader, behind_writer, None)),
            asyncio.create_task(self._pump(behind_reader, writer, self.answers)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in pumps:
                task.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None
    ) -> None:
        while data := await reader.read(65536):
            if gate is not None:
                self.holding += 1
                await gate.wait()
                self.holding -= 1
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(service: Service) -> AsyncIterator[Proxy]:
    proxy = Proxy(service.port)
    served: set[asyncio.Task[None]] = set()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(proxy.serve(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


class Terminal:
    """A terminal at which `odysseus chat` is called."""

    def __init__(self) -> None:
        self.seen = ""
        self._master, self.slave = os.openpty()
        asyncio.get_running_loop().add_reader(self._master, self._read)

    def _read(self) -> None:
        with suppress(OSError):  # nobody has it open any more
            self.seen += os.read(self._master, 65536).decode().replace("\r\n", "\n")
            return
        asyncio.get_running_loop().remove_reader(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    async def shows(self, text: str) -> None:
        async def look() -> bool:
            return text in self.seen

        await until(look)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._master)
        os.close(self._master)


@asynccontextmanager
async def at_terminal(service: Service, *arguments: str) -> AsyncIterator[tuple[Terminal, Command]]:
    terminal = Terminal()
    process = await asyncio.create_subprocess_exec(
        *(ODYSSEUS, "chat", "--url", f"http://127.0.0.1:{service.port}", *arguments),
        stdin=terminal.slave,
        stdout=terminal.slave,
        stderr=terminal.slave,
        env=CLEAN,
    )
    os.close(terminal.slave)
    try:
        yield terminal, Command(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        terminal.close()
