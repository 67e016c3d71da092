"""The service under test: the real process, under `app.py` or gunicorn, or aiohttp's own test server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp.test_utils import TestServer

from odysseus.application import create_app
from odysseus.settings import Settings
from tests.migrated import lay_tables
from tests.process.models import Models
from tests.process.namespaces import SERVER, Wire
from tests.process.raw_client import LIMIT_S, Client, request, until

__all__ = ["FINAL", "WAYS", "Answer", "Process", "Service", "books", "check_books", "environment", "served", "serving"]

REPOSITORY = Path(__file__).parents[2]

APP = [sys.executable, "app.py"]
GUNICORN = [
    *(sys.executable, "-m", "gunicorn", "odysseus.application:create_runner"),
    *("-k", "aiohttp.GunicornWebWorker", "-w", "1", "-b"),
]
WAYS = ("app.py", "gunicorn", "test server")

FINAL = {"done", "stopped", "error", "interrupted"}

_LISTENS = re.compile(r"(?:listens at|Listening at:) http://[^ ]*:(\d+)")
_FAULT = re.compile(r"Traceback|never retrieved|never awaited|was destroyed| ERROR |\[ERROR\]|Warning")
_RECORD = re.compile(r"\n(?=\[?\d{4}-\d\d-\d\d[ T])")


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    json: Any


class Service:
    """What a client can ask of the service at *port*."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.host = host
        self.new_socket: Callable[[], socket.socket] = socket.socket

    async def connect(self, *, receive_buffer: int | None = None) -> Client:
        return await Client.connect(self.new_socket(), self.host, self.port, receive_buffer=receive_buffer)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Make one request on a connection of its own; the answer is JSON, or bytes."""
        async with await self.connect() as client:
            await client.send(request(method, path, body, Connection="close", **headers))
            await client.read_head()
            await client.read_all()
            is_json = client.headers.get("content-type", "").startswith("application/json")
            return Answer(client.status, client.headers, json.loads(client.body) if is_json else bytes(client.body))

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self.call("POST", path, body, **headers)

    async def session(self) -> str:
        """Make a session; return its id."""
        answer = await self.post("/api/sessions", {})
        session_id: str = answer.json["id"]
        return session_id

    async def stop(self, session_id: str, **headers: str) -> Answer:
        return await self.post(f"/api/chat/stop/{session_id}", **headers)

    async def status(self, session_id: str) -> dict[str, Any]:
        answer = await self.get(f"/api/chat/stream_status/{session_id}")
        return dict(answer.json)

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        answer = await self.get(f"/api/sessions/{session_id}")
        return list(answer.json["messages"])

    async def open(
        self, method: str, path: str, body: Any = None, *, receive_buffer: int | None = None, **headers: str
    ) -> Client:
        """Send a request and read the head of its answer."""
        client = await self.connect(receive_buffer=receive_buffer)
        await client.send(request(method, path, body, **headers))
        await client.read_head()
        return client

    async def chat(self, message: str, *, receive_buffer: int | None = None, **fields: Any) -> Client:
        """Start a generation and open its stream."""
        body = {"message": message, **fields}
        client = await self.open("POST", "/api/chat_stream", body, receive_buffer=receive_buffer)
        assert client.status == 200, (client.status, await client.read(), client.body)
        return client

    async def resume(self, session_id: str, last_event_id: str | None = None) -> Client:
        headers = {} if last_event_id is None else {"Last_Event_ID": last_event_id}
        return await self.open("GET", f"/api/chat/resume/{session_id}", **headers)

    async def settled(self, session_id: str, turns: int = 1) -> list[dict[str, Any]]:
        """Wait until the session has *turns* answers and all have ended; return them.

        Raises if it doesn't consist of as many pairs of a user's message and its answer.
        """
        messages = await until(
            lambda: self.messages(session_id),
            lambda seen: len(seen) >= 2 * turns and all(message["status"] in FINAL for message in seen),
        )
        assert [message["role"] for message in messages] == ["user", "assistant"] * turns
        return messages[1::2]

    async def abandoned(self, client: Client) -> str:
        """Check that a direct run has ended with its *client*; return its text."""
        [answer] = await self.settled(client.session_id)
        assert (answer["status"], answer["stop_reason"]) == ("stopped", "client_disconnect")
        return str(answer["content"])

    async def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels."""
        answer = await self.get("/metrics")
        lines = answer.json.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}(?:{{|\s)", line))

    async def until_metric(self, name: str, value: float) -> None:
        await until(lambda: self.metric(name), lambda seen: seen == value)


class Process(Service):
    """The service in a process of its own. *command* must greet with its address on one of its outputs."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], host: str = "127.0.0.1") -> None:
        super().__init__(0, host)
        self._command = command
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ODYSSEUS_")}
        self.process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env={**clean, "PYTHONUNBUFFERED": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.log: list[str] = []
        """The lines of its stderr."""
        self.folder = Path(environment["ODYSSEUS_DATA_DIR"])
        self._address: Future[int] = Future()
        self._readers = [
            threading.Thread(target=self._collect, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, []), (self.process.stderr, self.log))
        ]
        for reader in self._readers:
            reader.start()

    async def started(self) -> None:
        """Wait until it answers. Raises what it said if it ended instead."""
        async with asyncio.timeout(LIMIT_S):
            self.port = await asyncio.wrap_future(self._address)
        answer = await self.get("/readyz")
        assert answer.status == 200, answer

    @property
    def worker(self) -> int:
        """The id of the process that serves: the command's own, or gunicorn's only child."""
        if "gunicorn" not in self._command:
            return self.process.pid
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())

    @property
    def rss_bytes(self) -> int:
        status = Path(f"/proc/{self.worker}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    @property
    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.worker}/fd").iterdir()))

    @property
    def faults(self) -> list[str]:
        """Records of the log that a healthy service has no reason to write."""
        return [record for record in _RECORD.split("\n".join(self.log)) if _FAULT.search(record)]

    def kill(self) -> None:
        """Kill it with all its children, as a node's death would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def wait(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end; return its exit code."""
        code = await asyncio.to_thread(self.process.wait, limit_s)
        for reader in self._readers:
            await asyncio.to_thread(reader.join, limit_s)
        return code

    def _collect(self, stream: Any, lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))
                if not self._address.done() and (found := _LISTENS.search(line)):
                    self._address.set_result(int(found[1]))
        if stream is self.process.stderr and not self._address.done():
            self._address.set_exception(RuntimeError("\n".join(self.log)))


def environment(models: Models | None, folder: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a service that asks *models* and keeps its data in *folder*."""
    own = {"PORT": 0, "DATA_DIR": folder}
    if models is not None:
        own |= {"UPSTREAM_URL": models.url, "UPSTREAM_MODELS": ",".join(models.models)}
    return {f"ODYSSEUS_{name.upper()}": str(value) for name, value in (own | settings).items()}


@asynccontextmanager
async def serving(
    models: Models | None, folder: Path, way: str = "app.py", near: Wire | None = None, **settings: Any
) -> AsyncIterator[Process]:
    """Start the service as `python app.py` or under gunicorn; kill it in the end if nobody has ended it.

    It runs at the *near* end of a wire, if there is one.
    """
    host = "127.0.0.1" if near is None else SERVER
    at = {"host": host, "open_to_network": near is not None}
    command = [*([] if near is None else near.inside), *([*GUNICORN, f"{host}:0"] if way == "gunicorn" else APP)]
    if "database_url" not in settings:
        lay_tables(folder)
    process = await asyncio.to_thread(Process, command, environment(models, folder, at | settings), host)
    if near is not None:
        process.new_socket = near.near_socket
    try:
        await process.started()
        yield process
    finally:
        process.kill()
        await process.wait()


Row = tuple[str, str, str | None, str]


def books(folder: Path) -> dict[str, list[Row]]:
    """Return the stored messages by session, oldest first: role, status, stop_reason, content."""
    kept: dict[str, list[Row]] = {}
    query = "SELECT session_id, role, status, stop_reason, content FROM messages ORDER BY n"
    with contextlib.closing(sqlite3.connect(folder / "odysseus.db")) as database:
        for session_id, *row in database.execute(query):
            kept.setdefault(session_id, []).append((row[0], row[1], row[2], row[3]))
    return kept


def check_books(folder: Path) -> None:
    """What must be true of the data of a service that isn't running: each turn has one answer, and it has ended."""
    for rows in books(folder).values():
        assert [role for role, *_ in rows] == ["user", "assistant"] * (len(rows) // 2)
        assert {status for _, status, *_ in rows} <= FINAL
    assert not list((folder / "spool").glob("*"))


@asynccontextmanager
async def served(models: Models, folder: Path, way: str, **settings: Any) -> AsyncIterator[Service]:
    """As `serving`, also in this process under aiohttp's test server; in the end it must go down in peace."""
    if way != "test server":
        async with serving(models, folder, way, drain_s=0, **settings) as process:
            yield process
            process.terminate()
            assert await process.wait() == 0
            assert not process.faults, "\n".join(process.faults)
        check_books(folder)
        return
    lay_tables(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(models, folder, settings).items():
            patch.setenv(name, value)
        app = create_app(Settings.load())
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        yield Service(server.port)
