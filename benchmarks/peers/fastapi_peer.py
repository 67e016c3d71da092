"""What people write: FastAPI, uvicorn, aiohttp's client, and a run manager in memory with a queue per subscriber."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

PORT, UPSTREAM_PORT = int(sys.argv[1]), int(sys.argv[2])

runs: dict[str, Run] = {}


class Ask(BaseModel):
    message: str
    compare_mode: bool = False


class Run:
    """A detached run: a task that asks the model, the events so far, and a queue for everybody who watches."""

    def __init__(self, message: str) -> None:
        self.id = uuid.uuid4().hex
        self.events: list[str] = []
        self.queues: set[asyncio.Queue[str | None]] = set()
        self.done = False
        self.task = asyncio.create_task(self.generate(message))

    async def generate(self, message: str) -> None:
        try:
            async with aclosing(deltas(message)) as pieces:
                async for piece in pieces:
                    event = sse(piece, len(self.events))
                    self.events.append(event)
                    for queue in self.queues:
                        queue.put_nowait(event)
        finally:
            self.done = True
            for queue in self.queues:
                queue.put_nowait(None)

    async def follow(self, start: int) -> AsyncIterator[str]:
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        seen = self.events[start:]
        if not self.done:
            self.queues.add(queue)
        try:
            for event in seen:
                yield event
            while not self.done or not queue.empty():
                if (event := await queue.get()) is None:
                    break
                yield event
            yield "data: [DONE]\n\n"
        finally:
            self.queues.discard(queue)


def sse(piece: dict[str, str], number: int) -> str:
    return f"id: {number}\ndata: {json.dumps(piece)}\n\n"


async def deltas(message: str) -> AsyncIterator[dict[str, str]]:
    body = {"model": "bench", "messages": [{"role": "user", "content": message}], "stream": True}
    async with app.state.session.post(f"http://127.0.0.1:{UPSTREAM_PORT}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                return
            delta = json.loads(data)["choices"][0]["delta"]
            if text := delta.get("content"):
                yield {"type": "delta", "text": text}
            elif text := delta.get("reasoning_content"):
                yield {"type": "reasoning", "text": text}


async def direct(message: str) -> AsyncIterator[str]:
    number = 0
    async with aclosing(deltas(message)) as pieces:
        async for piece in pieces:
            yield sse(piece, number)
            number += 1
    yield "data: [DONE]\n\n"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as app.state.session:
        yield


app = FastAPI(lifespan=lifespan)


def streamed(events: AsyncIterator[str], run_id: str = "") -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Odysseus-Session-Id": run_id})


@app.post("/api/chat_stream")
async def chat_stream(ask: Ask) -> StreamingResponse:
    if ask.compare_mode:
        return streamed(direct(ask.message))
    run = Run(ask.message)
    runs[run.id] = run
    return streamed(run.follow(0), run.id)


@app.get("/api/chat/resume/{run_id}")
async def resume(run_id: str, last_event_id: int = Header(-1)) -> StreamingResponse:
    return streamed(runs[run_id].follow(last_event_id + 1), run_id)


@app.post("/api/chat/stop/{run_id}")
async def stop(run_id: str) -> dict[str, bool]:
    run = runs[run_id]
    run.task.cancel()
    await asyncio.wait({run.task})
    return {"stopped": True}


if __name__ == "__main__":
    uvicorn.run(app, port=PORT, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
