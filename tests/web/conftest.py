"""The whole service on a real socket, a scripted model server behind it, and a client that reads events."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer

from odysseus.application import create_app
from odysseus.settings import Settings
from odysseus.sse import Decoder
from tests.fake_upstream import FakeUpstream, say
from tests.migrated import lay_tables
from tests.waiting import soon

MODELS = ("m", "n")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    body: Any
    """Decoded, where it is JSON."""

    @property
    def error(self) -> dict[str, str]:
        assert self.headers["Content-Type"].startswith("application/json")
        assert set(self.body) == {"error"}
        return self.body["error"]


class Stream:
    """An open answer, read as an `EventSource` reads it. The events are JSON, and `[DONE]` as it is."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self.status, self.headers = response.status, response.headers
        self.raw = b""
        self.seen: list[Any] = []
        """Every event so far."""
        self.ids: list[str] = []
        """What `lastEventId` was at each of them."""
        self._decoder = Decoder()
        self._taken = 0

    @property
    def run_id(self) -> str:
        return self.headers["X-Odysseus-Run-Id"]

    @property
    def session_id(self) -> str:
        return self.headers["X-Odysseus-Session-Id"]

    @property
    def frames(self) -> list[bytes]:
        """The complete frames so far, comments left out."""
        return [frame + b"\n\n" for frame in self.raw.split(b"\n\n")[:-1] if not frame.startswith(b":")]

    async def next(self) -> Any:
        """Return the next event; None at the end of the stream."""
        while self._taken == len(self.seen):
            if not (data := await self.response.content.readany()):
                return None
            self.raw += data
            for event in self._decoder.feed(data):
                self.seen.append(event.data.decode() if event.data == b"[DONE]" else orjson.loads(event.data))
                self.ids.append(event.last_event_id)
        self._taken += 1
        return self.seen[self._taken - 1]

    async def until(self, kind: str) -> Any:
        """Return the next event of type *kind*."""
        async with asyncio.timeout(30):
            while (event := await self.next()) is not None:
                if event != "[DONE]" and event["type"] == kind:
                    return event
        raise AssertionError(f"the stream ended without {kind}: {self.seen}")

    async def rest(self) -> list[Any]:
        """Read to the end; return every event there was."""
        async with asyncio.timeout(30):
            while await self.next() is not None:
                pass
        return self.seen

    async def said(self, text: str, kind: str = "delta") -> None:
        """Read until the model has said *text*, and the run has begun."""
        async with asyncio.timeout(30):
            while not self.seen or self._text(kind) != text:
                assert await self.next() is not None

    async def text(self) -> str:
        """Read to the end; return the answer's text."""
        await self.rest()
        return self._text("delta")

    async def ended(self) -> tuple[str, str | None]:
        """Read to the end, which must be in order; return the status and its reason."""
        *_, ended, done = await self.rest()
        assert (ended["type"], done) == ("ended", "[DONE]")
        return ended["status"], ended["stop_reason"]

    def leave(self) -> None:
        self.response.close()

    def _text(self, kind: str) -> str:
        return "".join(event["text"] for event in self.seen if event != "[DONE]" and event["type"] == kind)


class Service:
    """What the tests say to the service. Paths and bodies are those of the README."""

    def __init__(self, client: TestClient[Any, Any]) -> None:
        self.client = client
        self.app = client.app

    async def call(self, method: str, path: str, json: Any = None, **options: Any) -> Answer:
        async with self.client.request(method, path, **_with_json(options, json)) as response:
            body = await soon(response.read())
            is_json = response.content_type == "application/json" and body
            return Answer(response.status, response.headers, orjson.loads(body) if is_json else body)

    async def open(self, method: str, path: str, json: Any = None, **options: Any) -> Stream:
        response = await soon(self.client.request(method, path, **_with_json(options, json)))
        assert (response.status, response.content_type) == (200, "text/event-stream"), await response.text()
        return Stream(response)

    async def chat(self, message: str = "Hi", **fields: Any) -> Stream:
        return await self.open("POST", "/api/chat_stream", {"message": message, **fields})

    async def accepted(self, message: str = "Hi", **fields: Any) -> dict[str, str]:
        """Start a run without watching it."""
        headers = {"Accept": "application/json"}
        answer = await self.call("POST", "/api/chat_stream", {"message": message, **fields}, headers=headers)
        assert answer.status == 202, answer.body
        return answer.body

    async def resume(self, session_id: str, last_event_id: str | None = None) -> Stream:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        return await self.open("GET", f"/api/chat/resume/{session_id}", headers=headers)

    async def resume_status(self, session_id: str, last_event_id: str | None = None) -> int:
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        return (await self.call("GET", f"/api/chat/resume/{session_id}", headers=headers)).status

    async def stop(self, session_id: str, run_id: str | None = None) -> dict[str, Any]:
        headers = {} if run_id is None else {"X-Odysseus-Run-Id": run_id}
        answer = await self.call("POST", f"/api/chat/stop/{session_id}", headers=headers)
        assert answer.status == 200, answer.body
        return answer.body

    async def get(self, path: str) -> Any:
        answer = await self.call("GET", path)
        assert answer.status == 200, answer.body
        return answer.body

    async def status(self, session_id: str) -> dict[str, Any]:
        return await self.get(f"/api/chat/stream_status/{session_id}")

    async def messages(self, session_id: str) -> list[dict[str, Any]]:
        return (await self.get(f"/api/sessions/{session_id}"))["messages"]

    async def answer(self, session_id: str) -> dict[str, Any]:
        """Return the session's last message."""
        message = (await self.messages(session_id))[-1]
        assert message["role"] == "assistant"
        return message

    async def compare(self, *models: str, message: str = "Hi", **fields: Any) -> dict[str, Any]:
        answer = await self.call("POST", "/api/compare", {"message": message, "models": list(models), **fields})
        assert answer.status == 201, answer.body
        return answer.body

    async def close(self) -> None:
        await soon(self.client.close())


def _with_json(options: dict[str, Any], json: Any) -> dict[str, Any]:
    if json is None:
        return options
    headers = {"Content-Type": "application/json"} | options.pop("headers", {})
    return {**options, "data": io.BytesIO(orjson.dumps(json)), "headers": headers}


Serve = Callable[..., Awaitable[Service]]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("ODYSSEUS_"):
            monkeypatch.delenv(name)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    """The model server: whatever is asked, it says "Hello world"."""
    async with FakeUpstream(say("Hello", " world"), MODELS) as server:
        yield server


@pytest.fixture
async def serve(upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[Serve]:
    """Return a function that starts the service, each time on the same data folder."""
    async with AsyncExitStack() as stack:

        async def serve(**settings: Any) -> Service:
            defaults = {
                "data_dir": tmp_path / "data",
                "upstream_url": upstream.url,
                "upstream_models": MODELS,
                "drain_s": 0,
            }
            chosen = Settings(**(defaults | settings))
            lay_tables(chosen.data_dir)
            server = TestServer(create_app(chosen))
            await server.start_server(shutdown_timeout=0.5, access_log=None)
            service = Service(TestClient(server))
            stack.push_async_callback(service.close)
            return service

        yield serve


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve()
