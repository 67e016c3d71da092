"""A connection to an MCP server over its stdin and stdout, as the SDK's `Client` takes one.

The SDK has its own, but that takes any length of line, and quadratic time for a long one: 50 MB hold it up for twenty
seconds. Here a line has a limit, and the server runs under `supervisor`, which leaves nothing of it behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import Callable
from pathlib import Path

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCMessage, jsonrpc_message_adapter
from pydantic import ValidationError

from odysseus.server_settings import McpServerSettings
from odysseus.tasks import Tasks

__all__ = ["StdioTransport"]

_log = logging.getLogger(__name__)

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_MAX_LINE_BYTES = 16 * 1024 * 1024
_READ_BYTES = 64 * 1024
_EXIT_S = 1.0  # for a server to exit by itself when its stdin is closed
_KILL_S = 4.0  # for the supervisor to end the group, which takes it 2 seconds at most
_REAP_S = 1.0  # for the loop to learn that it was killed

_ToSession = MemoryObjectReceiveStream[SessionMessage | Exception]
_FromSession = MemoryObjectSendStream[SessionMessage]


class _Protocol(SubprocessStreamProtocol):
    """Tells of the exit itself: `Process.wait` also waits for pipes, which the server's children may hold open."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=_MAX_LINE_BYTES, loop=loop)
        self.exited = loop.create_future()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set_result(None)


class StdioTransport:
    """Runs the server while it is entered. *on_end* is called when the connection has ended."""

    def __init__(self, settings: McpServerSettings, on_end: Callable[[], None]) -> None:
        assert settings.command is not None
        self._command = settings.command
        self._settings = settings
        self._on_end = on_end
        self._line_too_long = False
        self._ended = False  # by the server: nobody has left this
        self._leaving = False
        self._told = False  # that the server prints what isn't a message
        self._started = False
        self._process: asyncio.SubprocessTransport
        self._protocol: _Protocol
        self._pumps: list[asyncio.Task[None]] = []  # between the server's pipes and the session's streams
        self._tasks = Tasks()

    @property
    def problem(self) -> str | None:
        """Why the server's end of the connection is closed, as far as that is known."""
        if self._line_too_long:
            return f"sent a line of more than {_MAX_LINE_BYTES // 1024**2} MB"
        if not self._ended or (code := self._process.get_returncode()) is None:
            return None
        known = {127: f"there is no command {self._command}", 126: f"the command {self._command} can't be run"}
        return known.get(code, f"the command {self._command} ended" + f", status {code}" * (code >= 0))

    async def __aenter__(self) -> tuple[_ToSession, _FromSession]:
        """Start the server. Raises `OSError` if its folder isn't there.

        Start and end are carried through: asyncio would kill the supervisor before its work is done.
        """
        try:
            await self._tasks.finish(self._start())
        except asyncio.CancelledError:
            await self._tasks.finish(self._stop())
            raise
        return self._to_session, self._from_session

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.finish(self._stop())

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        env = {name: value.get_secret_value() for name, value in self._settings.env.items()}
        self._process, self._protocol = await loop.subprocess_exec(
            lambda: _Protocol(loop),
            *(sys.executable, "-I", "-S", str(_SUPERVISOR), str(os.getpid()), self._command, *self._settings.args),
            env=get_default_environment() | env,
            cwd=self._settings.cwd,
            stderr=None,  # ours
            start_new_session=True,
        )
        self._incoming, self._to_session = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        self._from_session, self._outgoing = anyio.create_memory_object_stream[SessionMessage](0)
        self._protocol.exited.add_done_callback(self._exit)
        self._pumps = [loop.create_task(self._read()), loop.create_task(self._write())]
        self._started = True

    async def _stop(self) -> None:
        """Close the server's stdin and wait for its end; bring that about if it doesn't exit by itself."""
        if not self._started:
            return
        self._leaving = True
        self._to_session.close()  # from now on the reader throws away what the server still has to say
        if self._protocol.stdin is not None:
            self._protocol.stdin.close()
        if not await self._exited(_EXIT_S):
            self._process.terminate()
            await self._exited(_KILL_S)
        if not self._protocol.exited.done() or self._killed():  # the supervisor, before its work was done
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.get_pid(), signal.SIGKILL)
            await self._exited(_REAP_S)
        for pump in self._pumps:
            pump.cancel()
        for stream in (self._incoming, self._to_session, self._from_session, self._outgoing):
            stream.close()
        self._process.close()

    async def _exited(self, limit_s: float) -> bool:
        # Not a timeout around it: those of the first Pythons 3.11 end a task that is being cancelled already.
        done, _ = await asyncio.wait({self._protocol.exited}, timeout=limit_s)
        return bool(done)

    async def _read(self) -> None:
        stdout = self._protocol.stdout
        assert stdout is not None
        try:
            while True:
                await self._take(await stdout.readuntil())
        except asyncio.LimitOverrunError:
            self._line_too_long = True
        except (asyncio.IncompleteReadError, ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # the server has closed its stdout, or the session is over
        self._end()
        while await stdout.read(_READ_BYTES):  # a server that can't write doesn't come to read that it shall exit
            pass

    async def _take(self, line: bytes) -> None:
        message = _parsed(line)
        if message is not None:
            await self._incoming.send(SessionMessage(message))
            return
        if not self._told:
            self._told = True
            _log.warning("MCP server %s prints lines that aren't messages; they are skipped", self._settings.name)
        await asyncio.sleep(0)  # a flood of them is always there to read, which would leave no room for others

    async def _write(self) -> None:
        stdin = self._protocol.stdin
        assert stdin is not None
        try:
            async for message in self._outgoing:
                stdin.write(message.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await stdin.drain()
        except ConnectionError:
            self._end()  # it may still be alive, but a request would wait for ever

    def _exit(self, _: object) -> None:
        if self._killed():  # what it should have ended may live and hold the pipes open
            self._end()

    def _killed(self) -> bool:
        """Whether the supervisor was killed: by somebody, or by itself together with the rest of its group."""
        code = self._process.get_returncode()
        return code is not None and code < 0

    def _end(self) -> None:
        self._ended = self._ended or not self._leaving
        self._incoming.close()
        self._on_end()


def _parsed(line: bytes) -> JSONRPCMessage | None:
    if not line.startswith(b"{"):  # spares the parser's errors, which take their time
        return None
    try:
        return jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValidationError:
        return None
