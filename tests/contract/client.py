"""The client of the contract: calls that each go to another node than the last, and streams to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from odysseus.sse import Event
from tests.process.models import Models
from tests.process.raw_client import LIMIT_S, Client, frames
from tests.process.service import Answer, Service

__all__ = ["Api", "Stream", "error"]

_JSON = {"Accept": "application/json"}
_LIMIT_S = 20.0  # for what should come soon; pings come all the time, so that no single read takes too long


class Stream(Client):
    """One answer of events, read as far as the test says."""

    @property
    def frames(self) -> list[bytes]:
        """The whole frames so far, byte for byte; comments are left out."""
        return frames(self.body)

    @property
    def ids(self) -> list[str]:
        """The ids of the frames that have one."""
        lines = [line for frame in self.frames for line in frame.split(b"\n")]
        return [line.removeprefix(b"id: ").decode() for line in lines if line.startswith(b"id: ")]

    @property
    def last_id(self) -> str:
        return self.ids[-1]

    @property
    def kinds(self) -> list[str]:
        return [payload["type"] for payload in self.payloads]

    async def read_text(self, text: str) -> None:
        async with asyncio.timeout(_LIMIT_S):
            await super().read_text(text)

    async def read_all(self) -> list[Event]:
        async with asyncio.timeout(_LIMIT_S):
            return await super().read_all()

    async def until(self, kind: str) -> dict[str, Any]:
        """Read until an event of type *kind* has come; return the first one."""
        async with asyncio.timeout(_LIMIT_S):
            while kind not in self.kinds:
                assert await self.read(), f"the stream ended without {kind}: {self.payloads}"
        return self.payloads[self.kinds.index(kind)]

    async def rest(self) -> list[bytes]:
        """Read to the end, which must be in order; return all frames."""
        await self.read_all()
        assert (self.complete, self.payloads[-1]["type"], self.events[-1].data) == (True, "ended", b"[DONE]")
        return self.frames

    async def ending(self) -> tuple[str, str | None]:
        """Read to the end; return the status and its reason."""
        await self.rest()
        return self.payloads[-1]["status"], self.payloads[-1]["stop_reason"]


class Api(Service):
    """The service at *ports*, as one: each request goes to another of them than the last."""

    def __init__(self, world: str, ports: Callable[[], int], models: Models, headers: dict[str, str]) -> None:
        super().__init__(0)
        self.world = world
        self.models = models
        self._next_port = ports
        self.tokens: dict[str, str] = {}
        """Of the owners that there are, where the service wants to know who asks."""
        self._headers = headers

    def of(self, owner: str) -> Api:
        """Return the same service, asked by *owner*."""
        headers = {"Authorization": f"Bearer {self.tokens[owner]}"}
        return Api(self.world, self._next_port, self.models, headers)

    async def connect(self, *, receive_buffer: int | None = None) -> Stream:
        sock = self.new_socket()
        client = await Stream.connect(sock, self.host, self._next_port(), receive_buffer=receive_buffer)
        assert isinstance(client, Stream)
        return client

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        return await super().call(method, path, body, **self._headers, **headers)

    async def open(self, method: str, path: str, body: Any = None, **how: Any) -> Stream:
        client = await super().open(method, path, body, **self._headers, **how)
        assert isinstance(client, Stream)
        return client

    async def ask(self, message: str, **fields: Any) -> Answer:
        """POST a message, for an answer of JSON."""
        return await self.post("/api/chat_stream", {"message": message, **fields}, **_JSON)

    async def accepted(self, message: str, **fields: Any) -> dict[str, str]:
        """Start a run that nobody watches."""
        answer = await self.ask(message, **fields)
        assert answer.status == 202, answer
        run: dict[str, str] = answer.json
        return run

    async def stream(self, message: str, **fields: Any) -> Stream:
        """Start a run and open its stream."""
        return await self.watch("/api/chat_stream", method="POST", body={"message": message, **fields})

    async def watch(self, path: str, *, method: str = "GET", body: Any = None, **headers: str) -> Stream:
        """Open the stream at *path*."""
        stream = await self.open(method, path, body, **headers)
        if stream.status != 200:
            await stream.read_all()
        assert stream.status == 200, (stream.status, bytes(stream.body))
        return stream

    async def back(self, session_id: str, last_event_id: str | None = None, run_id: str | None = None) -> Stream:
        """Come back to a run."""
        path = f"/api/chat/resume/{session_id}" + (f"?run_id={run_id}" if run_id else "")
        return await self.watch(path, **({} if last_event_id is None else {"Last_Event_ID": last_event_id}))

    async def back_status(self, session_id: str, last_event_id: str | None = None) -> int:
        """Come back to a run that has nothing more to give; return the status of the answer."""
        stream = await self.resume(session_id, last_event_id)
        await stream.read_all()
        assert not stream.body or stream.status >= 400
        return stream.status

    async def stopped(self, session_id: str, run_id: str | None = None) -> dict[str, Any]:
        """Stop, and return the receipt."""
        answer = await self.stop(session_id, **({} if run_id is None else {"X_Odysseus_Run_Id": run_id}))
        assert answer.status == 200, answer
        receipt: dict[str, Any] = answer.json
        return receipt

    async def read(self, path: str) -> Any:
        answer = await self.get(path)
        assert answer.status == 200, answer
        return answer.json

    async def answer(self, session_id: str) -> dict[str, Any]:
        """Return the session's last message, which is an answer."""
        message = (await self.messages(session_id))[-1]
        assert message["role"] == "assistant"
        return message

    async def compare(self, message: str, *models: str) -> dict[str, Any]:
        answer = await self.post("/api/compare", {"message": message, "models": list(models)})
        assert answer.status == 201, answer
        made: dict[str, Any] = answer.json
        return made

    async def closed(self, prompt: str) -> None:
        """Wait until the model server has been asked *prompt*, and has been let go."""
        await self.models.exchange_of(prompt)
        async with asyncio.timeout(LIMIT_S):
            await self.models.closed(prompt)


def error(answer: Answer) -> tuple[int, str]:
    """Return the status and the code of an answer that is an error, and nothing else."""
    assert set(answer.json) == {"error"}, answer
    assert answer.headers["content-type"].startswith("application/json")
    return answer.status, answer.json["error"]["code"]
