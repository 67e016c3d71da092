"""A turn of a normal chat: how it is asked for, what its stream says, what the model is asked, what is kept."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from unittest.mock import AsyncMock

import orjson
import pytest

from odysseus.errors import InvalidField, StoreError
from odysseus.turns import Request
from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, breaks, chunk, say, silent, status
from tests.waiting import at_once, soon, until
from tests.web.conftest import Serve, Service

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def thinking(exchange: Exchange) -> None:
    await exchange.head()
    for reasoning, text in (("H", None), ("m", None), (None, "He"), ("so", None), (None, "llo")):
        await exchange.send(chunk(text, reasoning=reasoning))
        await asyncio.sleep(0.02)
    await exchange.send(chunk(finish_reason="length") + b"data: [DONE]\n\n")
    await exchange.end()


# The stream


async def test_a_stream(service: Service) -> None:
    stream = await service.chat()
    assert {name: stream.headers[name] for name in ("Content-Type", "Cache-Control", "X-Accel-Buffering")} == {
        "Content-Type": "text/event-stream",
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
    }
    *events, done = await stream.rest()
    session_id, run_id = stream.session_id, stream.run_id
    assert done == "[DONE]"
    started, *deltas, usage, ended = events
    assert started == {
        "type": "started",
        "run_id": run_id,
        "session_id": session_id,
        "message_id": started["message_id"],
        "mode": "chat",
        "model": "m",
        "detached": True,
    }
    assert {delta["type"] for delta in deltas} == {"delta"}
    assert "".join(delta["text"] for delta in deltas) == "Hello world"
    assert usage == {"type": "usage", **USAGE}
    assert ended == {
        "type": "ended",
        "status": "done",
        "stop_reason": None,
        "message_id": started["message_id"],
        "finish_reason": "stop",
        "usage": USAGE,
        "timings": ended["timings"],
    }
    assert 0 <= ended["timings"]["ttft_ms"] <= ended["timings"]["duration_ms"] < 30_000
    for seq, (event, frame) in enumerate(zip(events, stream.frames, strict=False)):
        assert frame == b"id: %b.%d\ndata: %b\n\n" % (run_id.encode(), seq, orjson.dumps(event))
    assert stream.frames[-1] == b"data: [DONE]\n\n"
    assert b"\r" not in stream.raw


async def test_what_is_kept(service: Service) -> None:
    stream = await service.chat("Hi\nthere")
    events = await stream.rest()
    session = await service.get(f"/api/sessions/{stream.session_id}")
    assert (session["title"], session["active_run"]) == ("Hi", None)
    user, answer = session["messages"]
    assert (user["role"], user["content"], user["status"], user["run_id"]) == ("user", "Hi\nthere", "done", None)
    assert answer == {
        "id": events[0]["message_id"],
        "role": "assistant",
        "content": "Hello world",
        "reasoning": "",
        "parts": [{"type": "text", "text": "Hello world"}],
        "status": "done",
        "stop_reason": None,
        "model": "m",
        "run_id": stream.run_id,
        "usage": USAGE,
        "timings": events[-2]["timings"],
        "created_at": answer["created_at"],
        "html": "<p>Hello world</p>\n",
    }
    for time in (session["created_at"], session["updated_at"], user["created_at"], answer["created_at"]):
        assert time.endswith("Z") and datetime.fromisoformat(time)


async def test_reasoning(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = thinking
    stream = await service.chat()
    *events, ended, _ = await stream.rest()
    told = [(event["type"], event["text"]) for event in events[1:]]
    assert told == [("reasoning", "H"), ("reasoning", "m"), ("delta", "He"), ("reasoning", "so"), ("delta", "llo")]
    assert (ended["finish_reason"], ended["usage"]) == ("length", None)
    answer = await service.answer(stream.session_id)
    assert (answer["content"], answer["reasoning"]) == ("Hello", "Hmso")
    assert answer["parts"] == [
        {"type": "reasoning", "text": "Hm"},
        {"type": "text", "text": "He"},
        {"type": "reasoning", "text": "so"},
        {"type": "text", "text": "llo"},
    ]


async def test_pings_are_no_events(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    service = await serve(ping_interval_s=0.05)
    stream = await service.chat()
    await stream.until("delta")
    while stream.raw.count(b": ping\n\n") < 3:
        stream.raw += await soon(stream.response.content.readany())
    await service.stop(stream.session_id)
    events = await stream.rest()
    assert [event if event == "[DONE]" else event["type"] for event in events] == [
        "started", "delta", "ended", "[DONE]"
    ]  # fmt: skip


async def test_without_a_model_server_the_demo_answers(serve: Serve) -> None:
    service = await serve(upstream_url=None, upstream_models=())
    stream = await service.chat("count to 5", model="demo-fast")
    assert await stream.text() == "1 2 3 4 5."
    assert (await service.get("/api/models"))["models"][0] == {"id": "demo", "upstream": "demo", "default": True}


# How the answer is asked for


@pytest.mark.parametrize(
    ("accept", "code"),
    [
        ("*/*", 200),
        ("text/event-stream", 200),
        ("text/html,application/xhtml+xml,*/*;q=0.8", 200),
        ("text/event-stream, application/json", 200),
        ("application/json, text/event-stream", 200),
        ("application/json;q=0.5, text/event-stream", 200),
        ("application/json;q=0", 200),
        ("", 200),
        ("application/json", 202),
        ("Application/JSON; charset=utf-8", 202),
        ("application/json, */*;q=0.1", 202),
        ("text/event-stream;q=0.5, application/json;q=0.6", 202),
    ],
)
async def test_accept(service: Service, accept: str, code: int) -> None:
    answer = await service.call("POST", "/api/chat_stream", {"message": "Hi"}, headers={"Accept": accept})
    assert answer.status == code
    assert answer.headers["Content-Type"].startswith("text/event-stream" if code == 200 else "application/json")


async def test_accepted(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = silent
    answer = await service.accepted()
    session_id = answer["session_id"]
    assert set(answer) == {"run_id", "session_id", "message_id", "stream"}
    assert answer["stream"] == f"/api/chat/resume/{session_id}"
    assert (await service.answer(session_id))["id"] == answer["message_id"]
    assert (await service.get(f"/api/sessions/{session_id}"))["active_run"] == answer["run_id"]
    stream = await service.open("GET", answer["stream"])
    started = await stream.next()
    assert {name: started[name] for name in ("run_id", "session_id", "message_id")} == {
        name: answer[name] for name in ("run_id", "session_id", "message_id")
    }
    await service.stop(session_id)


async def test_a_client_that_leaves_stops_nothing(service: Service, upstream: FakeUpstream) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk("Hello"))
        await go_on.wait()
        await exchange.send(chunk(" world") + b"data: [DONE]\n\n")
        await exchange.end()

    upstream.script = script
    stream = await service.chat()
    await stream.until("delta")
    stream.leave()
    await until(lambda: service.app[SERVICE].runs.subscribers == 0)
    assert not (await upstream.exchange()).closed.is_set()
    follower = await service.resume(stream.session_id)
    go_on.set()
    assert await follower.ended() == ("done", None)
    assert (await service.answer(stream.session_id))["content"] == "Hello world"


async def test_leaving_while_the_request_is_accepted(service: Service) -> None:
    """Either nothing happened, or the message is there and its run goes to its end."""
    sessions = [(await service.call("POST", "/api/sessions", {})).body["id"] for _ in range(40)]
    for steps, session_id in enumerate(sessions):
        body = orjson.dumps({"message": "Hi", "session_id": session_id, "run_id": f"my-run-{steps}"})
        head = b"POST /api/chat_stream HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
        _, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(steps * 10):
            await asyncio.sleep(0)
        writer.transport.abort()
    await service.get("/healthz")
    await until(lambda: all(run.ended.is_set() for run in service.app[SERVICE].runs.all()))
    kept = [await service.messages(session_id) for session_id in sessions]
    assert {len(messages) for messages in kept} <= {0, 2}
    for user, answer in filter(None, kept):
        assert (user["content"], answer["content"], answer["status"]) == ("Hi", "Hello world", "done")


# What the model is asked


async def test_what_the_model_is_asked(service: Service, upstream: FakeUpstream) -> None:
    await (await service.chat("\u00e4\U0001f6a2", model="n", system="S", temperature=0, max_tokens=7)).rest()
    assert upstream.exchanges[0].body == {
        "model": "n",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "\u00e4\U0001f6a2"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": 7,
    }


@pytest.mark.parametrize(
    ("own", "asked", "model", "system"),
    [
        ({}, {}, "m", None),
        ({"model": "n", "system": "S"}, {}, "n", "S"),
        ({"model": "n", "system": "S"}, {"model": "m", "system": "T"}, "m", "T"),
        ({"system": "S"}, {"system": ""}, "m", None),
    ],
)
async def test_the_session_has_defaults(
    service: Service, upstream: FakeUpstream, own: Any, asked: Any, model: str, system: str | None
) -> None:
    session = (await service.call("POST", "/api/sessions", own)).body
    await (await service.chat(session_id=session["id"], **asked)).rest()
    body = upstream.exchanges[0].body
    assert body["model"] == model
    assert [message["content"] for message in body["messages"] if message["role"] == "system"] == (
        [system] if system else []
    )


async def test_history(service: Service, upstream: FakeUpstream) -> None:
    """Roles alternate: questions without an answer become one, a partial answer is one like any other."""
    session_id = (await service.call("POST", "/api/sessions", {"system": "S"})).body["id"]
    for question, script in (
        ("1", say("A")),
        ("2", status(400)),
        ("3", thinking_only),
        ("4", breaks("part")),
        ("5", say("B")),
    ):
        upstream.script = script
        await (await service.chat(question, session_id=session_id)).rest()
    assert [(message["role"], message["content"]) for message in upstream.exchanges[-1].body["messages"]] == [
        ("system", "S"),
        ("user", "1"),
        ("assistant", "A"),
        ("user", "2\n\n3\n\n4"),
        ("assistant", "part"),
        ("user", "5"),
    ]


@pytest.mark.parametrize(("failures", "end"), [(3, ("done", None)), (4, ("error", "internal_error"))])
async def test_a_database_that_goes_away_after_the_start(
    service: Service,
    upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    end: tuple[str, str | None],
) -> None:
    """The run is accepted: it waits for a while, and then says why it can't go on."""
    store = service.app[SERVICE].store
    history = AsyncMock(side_effect=[*[StoreError("away")] * failures, []])
    monkeypatch.setattr(store, "history", history)
    monkeypatch.setattr("odysseus.generation._PAUSES_S", (0.01,) * 3)
    stream = await service.chat()
    assert await stream.ended() == end
    codes = [event["code"] for event in stream.seen if isinstance(event, dict) and event["type"] == "error"]
    assert codes == ["store_unavailable"] * (failures - 3)
    assert (history.await_count, len(upstream.exchanges)) == (4, 4 - failures)


async def thinking_only(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm"))
    exchange.abort()


# What goes wrong behind


@pytest.mark.parametrize(
    ("script", "text", "code"),
    [
        (status(400), "", "upstream_status"),
        (status(200, b"<html>", "text/html"), "", "upstream_protocol"),
        (breaks("Hel", "lo"), "Hello", "upstream_protocol"),
        (breaks("Hello", how=Exchange.close), "Hello", "upstream_protocol"),
        (status(200, chunk("Hello") + b'data: {"error": {"code": 500}}\n\n', "text/event-stream"), "Hello",
         "upstream_status"),
        (say("Hello", done=False), "Hello", "upstream_timeout"),
        (silent, "", "upstream_timeout"),
    ],
)  # fmt: skip
async def test_the_model_server_fails(serve: Serve, upstream: FakeUpstream, script: Any, text: str, code: str) -> None:
    upstream.script = script
    service = await serve(upstream_silence_s=0.3)
    stream = await service.chat()
    assert await stream.text() == text
    *_, error, ended, _ = stream.seen
    assert (error["type"], error["code"], ended["status"]) == ("error", code, "error")
    assert ended["stop_reason"] == "upstream_error"
    assert str(upstream.port) not in error["message"] and "sesame" not in error["message"]
    answer = await service.answer(stream.session_id)
    assert (answer["content"], answer["status"], answer["stop_reason"]) == (text, "error", "upstream_error")
    upstream.script = say("Hello")
    assert await (await service.chat(session_id=stream.session_id)).text() == "Hello"


# The client's own id for its run


@pytest.mark.parametrize("with_session", [False, True])
async def test_a_retried_request_joins_its_run(service: Service, upstream: FakeUpstream, with_session: bool) -> None:
    upstream.script = say("Hello", done=False)
    first = await service.chat(run_id="my-run-1")
    await first.until("delta")
    own = {"session_id": first.session_id} if with_session else {}
    second = await service.chat("something else", run_id="my-run-1", **own)
    await second.until("delta")
    assert (second.run_id, second.session_id) == ("my-run-1", first.session_id)
    accepted = await service.accepted(run_id="my-run-1", **own)
    assert (accepted["run_id"], accepted["session_id"]) == ("my-run-1", first.session_id)
    await service.stop(first.session_id)
    late = await service.chat(run_id="my-run-1", **own)
    await asyncio.gather(first.rest(), second.rest(), late.rest())
    assert first.frames == second.frames == late.frames
    assert (len(upstream.exchanges), len(await service.messages(first.session_id))) == (1, 2)


async def test_a_retry_after_a_restart_joins_too(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve()
    first = await service.chat(run_id="my-run-1")
    await first.rest()
    await service.close()
    service = await serve()
    late = await service.chat(run_id="my-run-1")
    snapshot, ended, _ = await late.rest()
    assert (snapshot["type"], snapshot["content"], ended["status"]) == ("snapshot", "Hello world", "done")
    assert (late.run_id, late.session_id, len(upstream.exchanges)) == ("my-run-1", first.session_id, 1)
    accepted = await service.accepted(run_id="my-run-1")
    assert accepted["message_id"] == ended["message_id"]


async def test_two_requests_with_one_id_at_once(service: Service, upstream: FakeUpstream) -> None:
    for number in range(5):
        streams = await asyncio.gather(*(service.chat(run_id=f"my-run-{number}") for _ in range(4)))
        await asyncio.gather(*(stream.rest() for stream in streams))
        assert all(stream.frames == streams[0].frames for stream in streams)
        assert len({stream.session_id for stream in streams}) == 1
        assert len(upstream.exchanges) == number + 1
    assert len((await service.get("/api/sessions"))["sessions"]) == 5


async def test_an_id_of_another_session(serve: Serve) -> None:
    service = await serve()
    await (await service.chat(run_id="my-run-1")).rest()
    for _ in range(2):
        other = (await service.call("POST", "/api/sessions", {})).body["id"]
        body = {"message": "Hi", "run_id": "my-run-1", "session_id": other}
        answer = await service.call("POST", "/api/chat_stream", body)
        assert (answer.status, answer.error["field"]) == (422, "run_id")
        assert await service.messages(other) == []
        await service.close()
        service = await serve()


async def test_two_sessions_with_one_id_at_once(service: Service) -> None:
    ids = [(await service.call("POST", "/api/sessions", {})).body["id"] for _ in range(2)]
    start = service.app[SERVICE].start
    got = await asyncio.gather(
        *(start(Request(owner="", text="Hi", session_id=id_, run_id="my-run-1")) for id_ in ids), return_exceptions=True
    )
    assert [type(run) for run in got].count(InvalidField) == 1


async def test_a_stop_that_overtook_its_run(service: Service, upstream: FakeUpstream) -> None:
    session_id = (await service.call("POST", "/api/sessions", {})).body["id"]
    with at_once():
        assert await service.stop(session_id, "my-run-1") == {"stopped": False}
    for fields in ({"session_id": session_id}, {}, {"session_id": session_id, "compare_mode": True}):
        answer = await service.call("POST", "/api/chat_stream", {"message": "Hi", "run_id": "my-run-1", **fields})
        assert (answer.status, answer.error["code"]) == (409, "stopped_before_start")
    assert (await service.messages(session_id), upstream.exchanges) == ([], [])
    assert await (await service.chat(run_id="my-run-2", session_id=session_id)).text() == "Hello world"
