"""A Redis server of the tests' own, and what can happen to one: it stops, loses its data, or freezes.

Spoken to in bare sockets: the tests can say what it holds without the client library that is under test.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.postgres import free_port
from tests.process.raw_client import LIMIT_S, until

__all__ = ["Redis", "redis_server"]

_BINARY = os.environ.get("REDIS_SERVER", "redis-server")
"""Another one, such as `valkey-server`, is what all tests use then."""


class Redis:
    """A server of our own in *folder*, on a free port of 127.0.0.1. It writes down what it is told, at once.

    *options* are added to those of its command line.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._options = options
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return self.url_at(self.port)

    @staticmethod
    def url_at(port: int) -> str:
        """Return the URL of its database at *port*, which may be that of somebody in between."""
        return f"redis://127.0.0.1:{port}/0"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, *, empty: bool = False) -> None:
        """Start it, on the port that it had before, if it had one. With *empty* it has forgotten everything."""
        assert not self.running
        if empty:
            shutil.rmtree(self._folder / "appendonlydir", ignore_errors=True)
        for last in (False, True):
            self.port = self.port or free_port()
            self._process = await asyncio.create_subprocess_exec(
                *(_BINARY, *self._arguments()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await until(self._settled)
            if self.running:
                return
            assert not last, f"{_BINARY} ended with {self._process.returncode}"
            self.port = 0  # what was free a moment ago may be somebody's

    def _arguments(self) -> list[str]:
        return [
            *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "no", "--loglevel", "warning"),
            *self._options,
        ]

    async def stop(self) -> None:
        """Kill it: every connection breaks. What it had written down is there when it is started again."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        async with asyncio.timeout(LIMIT_S):
            await self._process.wait()

    def freeze(self) -> None:
        """Let it do nothing: connections stay open, and new ones are taken by the kernel."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def flush(self) -> None:
        """Let it forget everything while it runs."""
        assert await self.call("FLUSHALL") == "+OK"

    async def call(self, *words: str) -> str:
        """Send one command; return the first line of the reply, with the mark of its type."""
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(" ".join(words).encode() + b"\r\n")
                line = await reader.readline()
                if not line:
                    raise ConnectionResetError
                return line.decode().removesuffix("\r\n")
            finally:
                writer.close()

    async def lines(self, *words: str) -> list[str]:
        """Send one command; return the whole reply as it comes, line by line."""
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(" ".join(words).encode() + b"\r\nPING\r\n")  # whose reply ends what we read
                return (await reader.readuntil(b"+PONG\r\n")).decode().split("\r\n")
            except asyncio.IncompleteReadError:
                raise ConnectionResetError from None
            finally:
                writer.close()

    async def _settled(self) -> bool:
        """Whether it answers, or has ended."""
        try:
            return not self.running or await self.call("PING") == "+PONG"  # while it loads it says so instead
        except ConnectionError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


@asynccontextmanager
async def redis_server() -> AsyncIterator[Redis]:
    """Run a server. Where Redis isn't installed the test is skipped, which CI doesn't let pass."""
    if shutil.which(_BINARY) is None:
        reason = f"Redis isn't installed: there is no {_BINARY}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="odysseus-redis-"))
    server = Redis(folder)
    try:
        await server.start()
        yield server
    finally:
        if server.running:
            await server.stop()
        shutil.rmtree(folder, ignore_errors=True)
