"""The servers that are measured: each a real process on the server's core, asked over its own API.

A new target is a subclass of `Target`, added to `TARGETS`. What it doesn't override is Odysseus's API, which the
Python peers speak too, so that all get the same requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path

from benchmarks.cores import LOAD_CORE, SERVER_CORE, pin
from benchmarks.response import Response
from benchmarks.upstream import token

__all__ = ["TARGETS", "Ability", "FastApi", "Limit", "Odysseus", "Target"]

_ROOT = Path(__file__).parent.parent
_READY_S = 30.0
_GONE_S = 10.0
_SESSION = re.compile(rb"(?i)\r\nx-odysseus-session-id: *(\S+)")
_EVENT_ID = re.compile(rb"(?m)^id: *(.+)$")


class Ability(StrEnum):
    """What a target can do, and a scenario may need."""

    DIRECT = "direct"
    """A stream that stops with its client."""
    DETACHED = "detached"
    """A run that outlives its client, can be resumed and be stopped."""
    FAN_OUT = "fan-out"
    """Many subscribers of one run."""


class Target(ABC):
    name: str
    abilities: frozenset[Ability] = frozenset(Ability)

    def __init__(self) -> None:
        self.port = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def pids(self) -> Sequence[int]:
        """All processes whose time and memory count."""
        return [process.pid for process in self._processes]

    @asynccontextmanager
    async def running(self, upstream_port: int) -> AsyncIterator[None]:
        """Start the target before the model server at *upstream_port*; stop it when the block is left."""
        with tempfile.TemporaryDirectory(prefix=f"bench-{self.name}-") as folder:
            self.port = free_port()
            try:
                await self.start(Path(folder), upstream_port)
                yield
            finally:
                for process in reversed(self._processes):
                    stop(process)
                self._processes.clear()

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

    def resume(self, key: str, last_event_id: str | None) -> bytes:
        """Return the request that subscribes to a run, after an event or from its start."""
        headers = () if last_event_id is None else (f"Last-Event-ID: {last_event_id}",)
        return request("GET", f"/api/chat/resume/{key}", *headers)

    def stop_run(self, key: str) -> bytes:
        return request("POST", f"/api/chat/stop/{key}", "Connection: close", body={})

    def key(self, response: Response) -> str:
        match = _SESSION.search(response.head)
        if match is None:
            raise RuntimeError(f"{self.name} answered {response.head!r}")
        return match[1].decode()

    def event_id(self, response: Response, number: int) -> str:
        """Return the id of the event that told token *number*."""
        return _EVENT_ID.findall(response.body, 0, response.body.index(token(number)))[-1].decode()


class Limit(Target):
    name = "limit"

    async def start(self, folder: Path, upstream_port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.peers.limit", str(self.port), str(upstream_port)]
        await self.launch(command, folder, port=self.port)

    def event_id(self, response: Response, number: int) -> str:
        """Its events have no ids: it resumes at a byte of the chunked body."""
        end = b"\n\n\r\n"
        return str(response.raw.index(end, response.raw.index(token(number))) + len(end))


class Odysseus(Target):
    """`python app.py` with SQLite, set as for a big installation, and otherwise as it comes."""

    name = "odysseus"

    async def start(self, folder: Path, upstream_port: int) -> None:
        environment = {
            "ODYSSEUS_PORT": str(self.port),
            "ODYSSEUS_DATA_DIR": str(folder / "data"),
            "ODYSSEUS_UPSTREAM_URL": f"http://127.0.0.1:{upstream_port}/v1",
            "ODYSSEUS_UPSTREAM_MODELS": "bench",
            "ODYSSEUS_MAX_RUNS": "10000",
            "ODYSSEUS_DRAIN_S": "0",
        }
        await self.launch([sys.executable, "app.py"], folder, port=self.port, environment=environment)


class FastApi(Target):
    name = "fastapi"

    async def start(self, folder: Path, upstream_port: int) -> None:
        command = [sys.executable, "-m", "benchmarks.peers.fastapi_peer", str(self.port), str(upstream_port)]
        await self.launch(command, folder, port=self.port)


TARGETS: Mapping[str, type[Target]] = {target.name: target for target in (Limit, Odysseus, FastApi)}


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
                cwd=_ROOT,
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
