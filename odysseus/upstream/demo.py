"""The demo model: a small OpenAI-compatible server on loopback, for when no model server is set.

It is spoken to over HTTP like any other, so that everything Odysseus does can be seen without a model: answers that
take their time, a model that shows its reasoning or calls a tool, and a connection that ends the moment a run is
stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError, model_validator

from odysseus import sse

__all__ = ["DemoServer"]

_log = logging.getLogger(__name__)

_COUNT = re.compile(r"\bcount (?:up )?to (\d{1,5})\b", re.IGNORECASE)
_SUM = re.compile(r"[\d(][\d\s.()]*([-+*/%^][\d\s.()]*)+(?<=[\d)])")
_TIME = re.compile(r"\b(what time|the time)\b", re.IGNORECASE)
_ZONE = re.compile(r"\b[A-Z][A-Za-z]+/[A-Z]\w+\b")
_TOKEN = re.compile(r"\S+\s*|\s+")

_ANSWER = """\
You asked: “{question}”

I am Odysseus's demo model. I don't know the answer: I am a few lines of Python that speak the same protocol as a real \
model server, so that you can watch what happens to a stream. This is message {number} of our conversation.

Here is what to try while I am still talking:

1. Close this connection. A normal run goes on without you, and resuming it gives you every word you missed, then the \
rest as it comes.
2. Open a second terminal and watch the same run from there. Both get the same bytes.
3. Stop it. My connection ends at once, in the middle of a word if need be, and what I had said by then is kept.
4. Ask several of us in a compare. Close one stream, and only that model stops.

When you have seen enough of me, set ODYSSEUS_UPSTREAM_URL to a real model server: vLLM, Ollama, llama.cpp and OpenAI \
all speak what I speak. Nothing else changes. Until then, ask me to count to 100, or to any number you like: it is the \
one thing I am good at.
"""

_REASONING = """\
The user wrote {words} words. I should say first that I can't really think: this shows how reasoning is \
streamed apart from the answer. Then I give the same answer as my siblings, so that a compare is fair.
"""


@dataclass(frozen=True, slots=True)
class _Pace:
    tokens_per_s: float
    reasons: bool = False


_MODELS = {
    "demo": _Pace(40),
    "demo-fast": _Pace(200),
    "demo-slow": _Pace(4),
    "demo-reasoning": _Pace(40, reasons=True),
}


class _Message(BaseModel):
    role: str
    content: str | None = None
    tool_calls: list[Any] = Field(default_factory=list)

    @model_validator(mode="after")
    def _says_something(self) -> _Message:
        if self.content is None and not self.tool_calls:
            raise ValueError("a message without tool_calls needs content")
        return self


class _Function(BaseModel):
    name: str


class _Tool(BaseModel):
    function: _Function


class _Request(BaseModel):
    model: str
    messages: list[_Message] = Field(min_length=1)
    stream: bool = False
    max_tokens: int | None = Field(None, ge=1)
    tools: list[_Tool] = Field(default_factory=list)


class DemoServer:
    """Listens on a free port of 127.0.0.1 between `start` and `close`."""

    def __init__(self) -> None:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_get("/v1/models", _models)
        app.router.add_post("/v1/chat/completions", _chat_completions)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)

    async def start(self) -> str:
        """Return the URL to ask, up to and with `/v1`."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def close(self) -> None:
        await self._runner.cleanup()


async def _models(request: web.Request) -> web.Response:
    data = [{"id": model, "object": "model", "owned_by": "odysseus"} for model in _MODELS]
    return web.json_response({"object": "list", "data": data})


async def _chat_completions(request: web.Request) -> web.StreamResponse:
    try:
        asked = _Request.model_validate_json(await request.read())
    except ValidationError as error:
        return _refusal(400, str(error))
    if asked.model not in _MODELS:
        return _refusal(404, f"the model {asked.model!r} does not exist")
    if not asked.stream:
        return _refusal(400, "the demo model only streams: send stream: true")
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    chunks = list(_chunks(asked))
    pace = _MODELS[asked.model]
    begun = asyncio.get_running_loop().time()
    written = 0
    try:
        for chunk in chunks:
            await asyncio.sleep(begun + written / pace.tokens_per_s - asyncio.get_running_loop().time())
            await response.write(sse.encode(orjson.dumps(chunk)))
            written += 1
        await response.write(sse.encode(b"[DONE]"))
    except (asyncio.CancelledError, ConnectionError):
        _log.info("%s: its connection was closed after %d of %d chunks", asked.model, written, len(chunks))
        raise
    return response


def _chunks(asked: _Request) -> Iterator[dict[str, Any]]:
    head = {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": asked.model,
    }

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": None}

    question = next((message.content or "" for message in reversed(asked.messages) if message.role == "user"), "")
    said: list[dict[str, Any]] = []
    if _MODELS[asked.model].reasons:
        said += [{"reasoning_content": token} for token in _tokens(_REASONING.format(words=len(question.split())))]
    call = _call(question, asked)
    said += [{"content": token} for token in _tokens(_answer(question, asked))] if call is None else _fragments(*call)
    left = len(said) if asked.max_tokens is None else asked.max_tokens
    for delta in said[:left]:
        yield chunk(delta)
    yield chunk({}, "length" if left < len(said) else "stop" if call is None else "tool_calls")
    prompt = sum(len(_tokens(message.content or "")) for message in asked.messages)
    used = min(left, len(said))
    usage = {"prompt_tokens": prompt, "completion_tokens": used, "total_tokens": prompt + used}
    yield {**head, "choices": [], "usage": usage}


def _answer(question: str, asked: _Request) -> str:
    last = asked.messages[-1]
    if last.role == "tool":
        return f"I have asked a tool, and this is what it says: {last.content}"
    if (count := _COUNT.search(question)) is not None:
        return " ".join(str(number) for number in range(1, int(count[1]) + 1)) + "."
    shown = question if len(question) <= 200 else f"{question[:200]}…"
    return _ANSWER.format(question=shown, number=sum(message.role == "user" for message in asked.messages))


def _call(question: str, asked: _Request) -> tuple[str, dict[str, str]] | None:
    """Return the tool that answers *question*, and its arguments; None without one, and when it has been asked."""
    offered = {tool.function.name for tool in asked.tools}
    if asked.messages[-1].role == "tool":
        return None
    if "calculator" in offered and (sum_ := _SUM.search(question[:200])) is not None:
        return "calculator", {"expression": sum_[0]}
    if "current_time" in offered and _TIME.search(question):
        zone = _ZONE.search(question)
        return "current_time", {} if zone is None else {"timezone": zone[0]}
    return None


def _fragments(name: str, arguments: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the call in the pieces in which real models stream it."""
    id_ = f"call_{secrets.token_hex(8)}"
    yield {"tool_calls": [{"index": 0, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}}]}
    for token in _tokens(json.dumps(arguments)):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": token}}]}


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=status)
