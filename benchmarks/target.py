"""What a target is: a server that is measured, a real process on the server's core, asked over its own API.

A new one is a subclass of `Target`, added to `benchmarks.targets.TARGETS`. What it doesn't override is Odysseus's API,
which most of the peers speak too, so that all get the same requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.cores import LOAD_CORE, SERVER_CORE, pin
from benchmarks.response import Response
from benchmarks.upstream import token

if TYPE_CHECKING:
    from benchmarks.publisher import Publisher

__all__ = ["ROOT", "Ability", "Target", "Unavailable", "free_port", "install"]

ROOT = Path(__file__).parent.parent
_READY_S = 30.0
_GONE_S = 10.0
_SESSION = re.compile(rb"(?i)\r\nx-odysseus-session-id: *(\S+)")
_EVENT_ID = re.compile(rb"(?m)^id: *(.+)$")


class Ability(StrEnum):
    """What a target can do, and a scenario may need."""

    DIRECT = "direct"
    """A stream that stops with its client."""
    DETACHED = "detached"
    """A run that outlives its client, and can be resumed."""
    STOP = "stop"
    """A detached run can be stopped."""
    FAN_OUT = "fan-out"
    """Many subscribers of one run."""
    LOG = "log"
    """A run's events are kept, as events, while it runs and for a while after."""


class Unavailable(Exception):
    """What a target needs can't be had here. Says in one line what is missing."""


class Target(ABC):
    name: str
    abilities: frozenset[Ability] = frozenset(Ability)

    def __init__(self) -> None:
        self.port = 0
        self._upstream_port = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def prepare(self) -> None:
        """Install what the target needs, once, before anything is measured. Raises `Unavailable`."""
        return

    @property
    def pids(self) -> Sequence[int]:
        """All processes whose time and memory count."""
        return [process.pid for process in self._processes]

    @asynccontextmanager
    async def running(self, upstream_port: int) -> AsyncIterator[None]:
        """Start the target before the model server at *upstream_port*; stop it when the block is left."""
        self._upstream_port = upstream_port
        try:
            await self._begin()
            yield
        finally:
            self._end()

    async def restart(self) -> None:
        """Start the target anew: it remembers nothing, and its memory is as it was at first."""
        self._end()
        await self._begin()

    async def _begin(self) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-")
        await self.start(Path(self._folder.name), self._upstream_port)

    def _end(self) -> None:
        for process in reversed(self._processes):
            stop(process)
        self._processes.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @abstractmethod
    async def start(self, folder: Path, upstream_port: int) -> None:
        """Start what there is to start with `launch`, and listen on `self.port`. *folder* is empty, and goes away."""

    async def launch(
        self, command: Sequence[str], folder: Path, *, port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start one process, and wait until it listens on *port*. Raises `RuntimeError`, with its last words."""
        log = folder / f"{len(self._processes)}.log"
        process = _spawn(command, environment or {}, log)
        self._processes.append(process)
        try:
            async with asyncio.timeout(_READY_S):
                while not await _listens(port):
                    if process.poll() is not None:
                        raise RuntimeError(f"{self.name} doesn't start:\n{log.read_text()[-2000:]}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise RuntimeError(f"{self.name} doesn't listen:\n{log.read_text()[-2000:]}") from None

    # How it is asked. A *key* is what names a run to it, as `key` finds it in the first response.

    def direct(self, prompt: str) -> bytes:
        """Return the request that streams an answer to this client alone."""
        return request("POST", "/api/chat_stream", body={"message": prompt, "compare_mode": True})

    def detached(self, prompt: str) -> bytes:
        """Return the request that starts a run, and streams it."""
        return request("POST", "/api/chat_stream", body={"message": prompt})

    def modes(self) -> Mapping[Ability, Callable[[str], bytes]]:
        """Return `direct` and `detached`, or the one of them that the target is able to do."""
        both = {Ability.DIRECT: self.direct, Ability.DETACHED: self.detached}
        return {ability: asked for ability, asked in both.items() if ability in self.abilities}

    def resume(self, key: str, last_event_id: str | None) -> bytes:
        """Return the request that subscribes to a run, after an event or from its start."""
        headers = () if last_event_id is None else (f"Last-Event-ID: {last_event_id}",)
        return request("GET", f"/api/chat/resume/{key}", *headers)

    def stop_run(self, key: str) -> bytes:
        return request("POST", f"/api/chat/stop/{key}", "Connection: close", body={})

    async def publisher(self, key: str) -> Publisher:
        """Return what tells the tokens of a new run *key*: only of a target that asks no model server itself."""
        raise NotImplementedError

    def key(self, response: Response) -> str:
        match = _SESSION.search(response.head)
        if match is None:
            raise RuntimeError(f"{self.name} answered {response.head!r}")
        return match[1].decode()

    def event_id(self, response: Response, number: int) -> str:
        """Return the id of the event that told token *number*."""
        return _EVENT_ID.findall(response.body, 0, response.body.index(token(number)))[-1].decode()


def install(*packages: str, needs: str) -> None:
    """Install Debian *packages*, where that is ours to do. Raises `Unavailable` if there is no *needs* to run then."""
    if shutil.which(needs) is None:
        subprocess.run([ROOT / ".ci" / "system-packages", *packages], stdout=sys.stderr, check=False)
    if shutil.which(needs) is None:
        raise Unavailable(f"there is no {needs}")


def request(method: str, path: str, *headers: str, body: object = None) -> bytes:
    """Return an HTTP request, with *body* as JSON."""
    lines = [f"{method} {path} HTTP/1.1", "Host: bench", "Accept: text/event-stream", *headers]
    data = b""
    if body is not None:
        data = json.dumps(body).encode()
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def _spawn(command: Sequence[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start *command* on the server's core, with our environment but for settings of Odysseus."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ODYSSEUS_")}
    with log.open("wb") as output:
        pin(SERVER_CORE)
        try:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env={**inherited, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        finally:
            pin(LOAD_CORE)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GONE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
