"""The demo model over HTTP, as any model server is spoken to."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from odysseus.conversation import spoken
from odysseus.errors import UpstreamError
from odysseus.events import Part
from odysseus.sse import Decoder
from odysseus.upstream import Ask, Call, Finish, Offer, Piece, Reasoning, Text, Tokens
from odysseus.upstream.client import Client
from odysseus.upstream.demo import DemoServer
from tests.waiting import at_once, soon, until


@pytest.fixture
async def url() -> AsyncIterator[str]:
    server = DemoServer()
    try:
        yield await server.start()
    finally:
        await server.close()


@pytest.fixture
async def client(url: str) -> AsyncIterator[Client]:
    client = Client("demo", url, None, connect_s=30, silence_s=30)
    yield client
    await client.close()


def asking(text: str, model: str = "demo-fast", max_tokens: int | None = None) -> Ask:
    return Ask(model=model, messages=[{"role": "user", "content": text}], max_tokens=max_tokens)


async def hear(client: Client, ask: Ask) -> list[Piece]:
    async with asyncio.timeout(30), aclosing(client.ask(ask)) as reads:
        return [piece async for read in reads for piece in read]


def said(pieces: list[Piece], kind: type[Text] | type[Reasoning] = Text) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, kind))


async def test_models(client: Client) -> None:
    assert await client.models() == ["demo", "demo-fast", "demo-slow", "demo-reasoning"]


async def test_an_answer_is_what_the_protocol_says(url: str) -> None:
    body = {"model": "demo-fast", "messages": [{"role": "user", "content": "count to 3"}], "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", json=body) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        *events, last = [event.data for event in Decoder().feed(await response.read())]
    chunks = [json.loads(event) for event in events]
    assert last == b"[DONE]"
    assert {(chunk["object"], chunk["model"], chunk["id"]) for chunk in chunks} == {
        ("chat.completion.chunk", "demo-fast", chunks[0]["id"])
    }
    assert [choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]] == [
        "1 ", "2 ", "3.", None
    ]  # fmt: skip
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("count to 5", "1 2 3 4 5."),
        ("Please COUNT UP TO 2, then stop.", "1 2."),
        ("Count to 1", "1."),
    ],
)
async def test_it_counts(client: Client, question: str, answer: str) -> None:
    assert said(await hear(client, asking(question))) == answer


async def test_it_says_what_it_was_asked(client: Client) -> None:
    pieces = await hear(client, asking("Who are you? \u00e4\u20ac\U0001f6a2"))
    assert "Who are you? \u00e4\u20ac\U0001f6a2" in said(pieces)
    assert said(pieces, Reasoning) == ""
    assert pieces[-2] == Finish("stop") and isinstance(pieces[-1], Tokens)


async def test_a_conversation(client: Client) -> None:
    """The last question counts, whatever was said before it."""
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "count to 9"},
        {"role": "assistant", "content": "1 2"},
        {"role": "user", "content": "count to 4"},
    ]
    assert said(await hear(client, Ask(model="demo-fast", messages=messages))) == "1 2 3 4."


async def test_reasoning_comes_first(client: Client) -> None:
    pieces = await hear(client, asking("count to 3", "demo-reasoning"))
    kinds = [type(piece) for piece in pieces]
    assert set(kinds[: kinds.index(Text)]) == {Reasoning}
    assert Reasoning not in kinds[kinds.index(Text) :]
    assert len(said(pieces, Reasoning)) > 50
    assert said(pieces) == "1 2 3."


@pytest.mark.parametrize(
    ("max_tokens", "answer", "reason"), [(1, "1 ", "length"), (2, "1 2 ", "length"), (3, "1 2 3.", "stop")]
)
async def test_max_tokens(client: Client, max_tokens: int, answer: str, reason: str) -> None:
    pieces = await hear(client, asking("count to 3", max_tokens=max_tokens))
    assert (said(pieces), pieces[-2]) == (answer, Finish(reason))
    usage = {"prompt_tokens": 3, "completion_tokens": max_tokens, "total_tokens": 3 + max_tokens}
    assert pieces[-1] == Tokens(usage)  # type: ignore[arg-type]


async def test_the_models_differ_in_pace(client: Client) -> None:
    async def seconds_a_token(model: str, tokens: int) -> float:
        begun = time.monotonic()
        await hear(client, asking("count to 100", model, tokens))
        return (time.monotonic() - begun) / tokens

    fast, normal, slow = [
        await seconds_a_token(model, tokens) for model, tokens in (("demo-fast", 24), ("demo", 24), ("demo-slow", 6))
    ]
    assert slow > 0.2
    assert fast < normal < slow


ASKED: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"{}",
        ASKED | {"model": "gpt-9"},
        ASKED | {"model": 1},
        ASKED | {"stream": False},
        {name: value for name, value in ASKED.items() if name != "stream"},
        ASKED | {"messages": []},
        ASKED | {"messages": "Hi"},
        ASKED | {"messages": [{"role": "user"}]},
        ASKED | {"messages": [{"role": "user", "content": None}]},
        ASKED | {"messages": [{"role": "user", "content": "\ud800"}]},
        ASKED | {"max_tokens": 0},
        ASKED | {"max_tokens": "many"},
    ],
    ids=str,
)
async def test_bad_requests(url: str, body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", data=data) as response:
        assert response.status in (400, 404)
        assert set((await response.json())["error"]) == {"message", "type"}


@pytest.mark.parametrize(("method", "path"), [("GET", "/chat/completions"), ("POST", "/models"), ("GET", "/nothing")])
async def test_other_calls(url: str, method: str, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, url + path) as response:
        assert 400 <= response.status < 500
        assert response.content_type != "text/html"


TOOLS = (Offer("calculator", "", {"type": "object"}), Offer("current_time", "", {"type": "object"}))


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("what is 17 * 23?", "calculator", {"expression": "17 * 23"}),
        ("Calculate (1 + 2.5) / 3^2, please.", "calculator", {"expression": "(1 + 2.5) / 3^2"}),
        ("What time is it?", "current_time", {}),
        ("what's the time in Europe/Berlin?", "current_time", {"timezone": "Europe/Berlin"}),
        ("Who are you?", None, None),
        ("In 2026 or 2027?", None, None),
        ("count to 3", None, None),
        ("1" * 200_000, None, None),
    ],
)
async def test_it_calls_a_tool_and_uses_the_result(client: Client, question: str, name: Any, arguments: Any) -> None:
    asked = replace(asking(question, "demo-fast"), tools=TOOLS)
    with at_once():
        calls = [piece for piece in await hear(client, asked) if isinstance(piece, Call)] if name else []
    assert [(call.name, json.loads(call.arguments)) for call in calls] == ([(name, arguments)] if name else [])
    if not name:
        async with aclosing(client.ask(asked)) as reads:
            assert isinstance((await soon(anext(reads)))[0], Text)
        return
    parts: list[Part] = [
        {"type": "tool_call", "call_id": "c1", "name": name, "arguments": arguments},
        {
            "type": "tool_result",
            "call_id": "c1",
            "name": name,
            "output": "the result",
            "is_error": False,
            "duration_ms": 1.0,
        },
    ]
    pieces = await hear(client, replace(asked, messages=[*asked.messages, *spoken(parts)]))
    assert "the result" in said(pieces)
    assert not any(isinstance(piece, Call) for piece in pieces)


async def test_it_calls_no_tool_that_it_was_not_offered(client: Client) -> None:
    async with aclosing(client.ask(asking("what is 17 * 23?"))) as reads:
        assert isinstance((await soon(anext(reads)))[0], Text)


async def test_an_unknown_model_is_a_clean_error(client: Client) -> None:
    with pytest.raises(UpstreamError) as raised:
        await hear(client, asking("Hi", "gpt-9"))
    assert str(raised.value) == "upstream_status: the model server answered 404"


async def test_closing_the_connection_stops_it(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "odysseus.upstream.demo")
    reads = client.ask(asking("count to 100", "demo-slow"))
    assert await soon(anext(reads)) == [Text("1 ")]
    with at_once():
        await reads.aclose()
        await until(lambda: "its connection was closed after" in caplog.text)


async def test_closing_the_server_ends_its_streams() -> None:
    server = DemoServer()
    client = Client("demo", await server.start(), None, connect_s=30, silence_s=30)
    async with aclosing(client.ask(asking("count to 1000", "demo-slow"))) as reads:
        await soon(anext(reads))
        with at_once():
            await server.close()
            with pytest.raises(UpstreamError):
                async for _ in reads:
                    pass
    await client.close()
