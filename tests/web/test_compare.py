"""Compare: each pane is one client's, and ends with it, at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, Script, breaks, chunk, say, silent
from tests.waiting import at_once, soon, until
from tests.web.conftest import Serve, Service, Stream


async def panes(service: Service, *models: str) -> tuple[str, list[Stream]]:
    """Make a compare and start all its panes; return its path and their streams."""
    made = await service.compare(*models)
    streams = await asyncio.gather(*(service.open("GET", pane["stream"]) for pane in made["panes"]))
    return f"/api/compare/{made['compare_id']}", list(streams)


async def exchange_of(upstream: FakeUpstream, model: str) -> Exchange:
    await until(lambda: any(exchange.body["model"] == model for exchange in upstream.exchanges))
    return next(exchange for exchange in upstream.exchanges if exchange.body["model"] == model)


async def reasons(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm"))
    await silent(exchange)


# Panes


async def test_a_compare(service: Service, upstream: FakeUpstream) -> None:
    upstream.scripts = {"m": say("Hello"), "n": say("Good", " day")}
    made = await service.compare("m", "n", message="Hi\nthere", system="S")
    compare_id = made["compare_id"]
    assert [(pane["model"], pane["label"], pane["stream"]) for pane in made["panes"]] == [
        ("m", "A", f"/api/compare/{compare_id}/0"),
        ("n", "B", f"/api/compare/{compare_id}/1"),
    ]
    fresh = await service.get(f"/api/compare/{compare_id}")
    assert fresh == {
        "compare_id": compare_id,
        "prompt": "Hi\nthere",
        "blind": False,
        "revealed": True,
        "winner": None,
        "panes": [
            {
                "session_id": pane["session_id"],
                "run_id": None,
                "model": pane["model"],
                "label": label,
                "status": None,
                "stop_reason": None,
                "text": "",
                "html": None,
                "usage": None,
                "timings": None,
                "kept": False,
            }
            for pane, label in zip(made["panes"], "AB", strict=True)
        ],
    }
    assert (upstream.exchanges, (await service.get("/api/sessions"))["sessions"]) == ([], [])
    runs = []
    for pane, text in zip(made["panes"], ("Hello", "Good day"), strict=True):
        stream = await service.open("GET", pane["stream"])
        assert stream.headers["Cache-Control"] == "no-store"
        assert await stream.text() == text
        assert await stream.ended() == ("done", None)
        runs.append(stream.run_id)
        started = stream.seen[0]
        assert (started["detached"], started["session_id"], started["model"]) == (
            False, pane["session_id"], pane["model"]
        )  # fmt: skip
        assert stream.ids[:-1] == [f"{stream.run_id}.{seq}" for seq in range(len(stream.seen) - 1)]
        for _ in range(2):
            again = await service.call("GET", pane["stream"], headers={"Last-Event-ID": stream.ids[0]})
            assert (again.status, again.body) == (204, b"")
    results = (await service.get(f"/api/compare/{compare_id}"))["panes"]
    assert [(pane["text"], pane["html"], pane["status"], pane["stop_reason"]) for pane in results] == [
        ("Hello", "<p>Hello</p>\n", "done", None), ("Good day", "<p>Good day</p>\n", "done", None)
    ]  # fmt: skip
    assert [pane["run_id"] for pane in results] == runs
    assert all(pane["usage"]["total_tokens"] >= 4 and pane["timings"]["duration_ms"] >= 0 for pane in results)
    assert [exchange.body["messages"] for exchange in upstream.exchanges] == [
        [{"role": "system", "content": "S"}, {"role": "user", "content": "Hi\nthere"}]
    ] * 2


async def test_one_model_twice(service: Service) -> None:
    _, streams = await panes(service, "m", "m")
    assert [await stream.text() for stream in streams] == ["Hello world"] * 2
    assert streams[0].session_id != streams[1].session_id


async def test_a_pane_is_started_once(service: Service, upstream: FakeUpstream) -> None:
    """However many ask at the same time."""
    upstream.script = say("Hi", done=False)
    made = await service.compare("m", "n")
    path = made["panes"][0]["stream"]
    responses = await asyncio.gather(*(service.client.get(path) for _ in range(6)))
    assert sorted(response.status for response in responses) == [200, 204, 204, 204, 204, 204]
    await soon(upstream.exchange())
    await service.stop(made["panes"][0]["session_id"])
    assert len(upstream.exchanges) == 1


async def test_a_pane_expires(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve(pane_expiry_s=0.3)
    made = await service.compare("m", "n")
    stream = await service.open("GET", made["panes"][0]["stream"])
    await stream.rest()
    await asyncio.sleep(0.35)
    late = await service.call("GET", made["panes"][1]["stream"])
    assert (late.status, late.error["code"]) == (404, "not_found")
    assert (await service.call("GET", made["panes"][0]["stream"])).status == 204
    assert len(upstream.exchanges) == 1


async def test_after_a_restart(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve()
    made = await service.compare("m", "n")
    await (await service.open("GET", made["panes"][0]["stream"])).rest()
    before = await service.get(f"/api/compare/{made['compare_id']}")
    await service.close()
    service = await serve()
    assert await service.get(f"/api/compare/{made['compare_id']}") == before
    assert (await service.call("GET", made["panes"][0]["stream"])).status == 204
    assert await (await service.open("GET", made["panes"][1]["stream"])).text() == "Hello world"


@pytest.mark.parametrize("pane", ["2", "-1", "+1", "01x", "x", "9999", "99999999999999999999", "%00", "\u0661", "1.0"])
async def test_panes_that_are_none(service: Service, pane: str) -> None:
    made = await service.compare("m", "n")
    answer = await service.call("GET", f"/api/compare/{made['compare_id']}/{pane}")
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    for path in ("/api/compare/cmp_9", "/api/compare/cmp_9/0", "/api/compare/%00/0"):
        assert (await service.call("GET", path)).status == 404


async def test_a_pane_whose_session_is_deleted(service: Service, upstream: FakeUpstream) -> None:
    made = await service.compare("m", "n")
    assert (await service.call("DELETE", f"/api/sessions/{made['panes'][0]['session_id']}")).status == 204
    for _ in range(2):
        assert (await service.call("GET", made["panes"][0]["stream"])).status == 404
    assert (await service.get(f"/api/compare/{made['compare_id']}"))["panes"][0]["status"] is None
    assert upstream.exchanges == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"models": ["m"]}, "models"),
        ({"models": ["m"] * 9}, "models"),
        ({"models": []}, "models"),
        ({"models": "mn"}, "models"),
        ({"models": ["m", "x"]}, "models.1"),
        ({"models": ["m", ""]}, "models.1"),
        ({"models": ["m", 1]}, "models.1"),
        ({"models": None}, "models"),
        ({"message": ""}, "message"),
        ({"message": "a\0"}, "message"),
        ({"message": "x" * 200_001}, "message"),
        ({"mode": "x"}, "mode"),
        ({"system": 1}, "system"),
        ({"temperature": 1}, "temperature"),
    ],
)
async def test_compares_that_cannot_be(service: Service, fields: dict[str, Any], field: str) -> None:
    answer = await service.call("POST", "/api/compare", {"message": "Hi", "models": ["m", "n"]} | fields)
    assert (answer.status, answer.error["field"]) == (422, field)


# Leaving


@pytest.mark.parametrize(
    ("script", "text", "reasoning"),
    [
        (say("Hel", "lo", done=False), "Hello", ""),
        (say(done=False), "", ""),
        (silent, "", ""),
        (reasons, "", "Hm"),
    ],
    ids=["text", "headers only", "nothing", "reasoning only"],
)
async def test_leaving_a_pane_stops_its_model(
    service: Service, upstream: FakeUpstream, script: Script, text: str, reasoning: str
) -> None:
    """In the middle of a silence that would never end by itself; the other pane goes on."""
    upstream.scripts = {"m": script, "n": say("Hi", done=False)}
    path, [left, other] = await panes(service, "m", "n")
    await left.said(text)
    await left.said(reasoning, "reasoning")
    await other.said("Hi")
    exchange = await exchange_of(upstream, "m")
    with at_once():
        left.leave()
        await exchange.closed.wait()
    await until(lambda: not service.app[SERVICE].runs.live(left.session_id))
    answer = await service.answer(left.session_id)
    assert (answer["content"], answer["reasoning"]) == (text, reasoning)
    assert (answer["status"], answer["stop_reason"]) == ("stopped", "client_disconnect")
    assert len(await service.messages(left.session_id)) == 2
    told = [(pane["text"], pane["status"], pane["stop_reason"]) for pane in (await service.get(path))["panes"]]
    assert told == [(text, "stopped", "client_disconnect"), ("Hi", "streaming", None)]
    assert not (await exchange_of(upstream, "n")).closed.is_set()
    assert (await service.call("GET", f"{path}/0")).status == 204
    other.leave()
    await soon((await exchange_of(upstream, "n")).closed.wait())


async def test_leaving_while_the_pane_is_claimed(service: Service, upstream: FakeUpstream) -> None:
    """It wasn't started, or it is stopped and saved; never something between."""
    upstream.script = say("Hi", done=False)
    made = [await service.compare("m", "n") for _ in range(30)]
    for steps, compare in enumerate(made):
        _, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(f"GET {compare['panes'][0]['stream']} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        for _ in range(steps * 10):
            await asyncio.sleep(0)
        writer.transport.abort()
    await until(lambda: all(run.ended.is_set() for run in service.app[SERVICE].runs.all()))
    for compare in made:
        messages = await service.messages(compare["panes"][0]["session_id"])
        assert [(message["role"], message["status"]) for message in messages] in (
            [], [("user", "done"), ("assistant", "stopped")]
        )  # fmt: skip
    await until(lambda: not upstream.connections)


async def test_a_stopped_pane_is_told(service: Service, upstream: FakeUpstream) -> None:
    """Some proxies never pass a close on: the stop endpoint works, too."""
    upstream.script = say("Hi", done=False)
    path, [stream, other] = await panes(service, "m", "n")
    await stream.said("Hi")
    exchange = await exchange_of(upstream, "m")
    with at_once():
        receipt = await service.stop(stream.session_id)
        await exchange.closed.wait()
    assert (receipt["run_id"], receipt["status"], receipt["chars"]) == (stream.run_id, "stopped", 2)
    assert (await service.answer(stream.session_id))["stop_reason"] == "user_stop"
    assert await stream.ended() == ("stopped", "user_stop")
    assert (await service.get(path))["panes"][1]["status"] == "streaming"
    other.leave()


async def test_nothing_to_resume(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    _, [stream, other] = await panes(service, "m", "n")
    await stream.said("Hi")
    for last_event_id in (None, stream.ids[0]):
        assert await service.resume_status(stream.session_id, last_event_id) == 204
    status = await service.status(stream.session_id)
    assert (status["detached"], status["status"], status["subscribers"]) == (False, "streaming", 0)
    stream.leave()
    other.leave()
    await until(lambda: not service.app[SERVICE].runs.live(stream.session_id))
    assert await service.resume_status(stream.session_id) == 204


async def test_a_pane_whose_model_server_fails(service: Service, upstream: FakeUpstream) -> None:
    upstream.scripts = {"m": breaks("Hel")}
    path, [stream, other] = await panes(service, "m", "n")
    assert await stream.ended() == ("error", "upstream_error")
    assert [event["type"] for event in stream.seen[:-1]] == ["started", "delta", "error", "ended"]
    assert await other.ended() == ("done", None)
    assert [pane["text"] for pane in (await service.get(path))["panes"]] == ["Hel", "Hello world"]


async def test_the_conversation_goes_on_as_a_normal_chat(service: Service, upstream: FakeUpstream) -> None:
    _, streams = await panes(service, "m", "n")
    await asyncio.gather(*(stream.rest() for stream in streams))
    stream = await service.chat("And now?", session_id=streams[1].session_id)
    await stream.rest()
    assert (stream.seen[0]["detached"], stream.seen[0]["model"]) == (True, "n")
    assert contents(upstream.exchanges[-1].body["messages"]) == ["Hi", "Hello world", "And now?"]


def contents(messages: Sequence[dict[str, str]]) -> list[str]:
    return [message["content"] for message in messages]


# compare_mode of a chat


async def test_compare_mode(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    stream = await service.chat(compare_mode=True, run_id="my-run-1")
    await stream.said("Hi")
    assert (stream.run_id, stream.seen[0]["detached"]) == ("my-run-1", False)
    joined = await service.chat(compare_mode=True, run_id="my-run-1")
    await joined.said("Hi")
    joined.leave()
    with at_once():
        stream.leave()
        await upstream.exchanges[0].closed.wait()
    await until(lambda: not service.app[SERVICE].runs.live(stream.session_id))
    answer = await service.answer(stream.session_id)
    assert (answer["content"], answer["stop_reason"]) == ("Hi", "client_disconnect")
    late = await service.chat(compare_mode=True, run_id="my-run-1")
    assert await late.ended() == ("stopped", "client_disconnect")
    assert len(upstream.exchanges) == 1


async def test_compare_mode_waits_in_line_too(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    first = await service.accepted()
    queued = await service.chat("2", session_id=first["session_id"], compare_mode=True, if_busy="queue")
    queued.leave()
    await until(lambda: len(service.app[SERVICE].runs.live(first["session_id"])) == 1)
    answer = await service.answer(first["session_id"])
    assert (answer["content"], answer["status"], answer["stop_reason"]) == ("", "stopped", "client_disconnect")
    assert (await service.get(f"/api/sessions/{first['session_id']}"))["active_run"] == first["run_id"]
    await service.stop(first["session_id"])
    assert len(upstream.exchanges) == 1


async def test_compare_mode_as_json(service: Service) -> None:
    """There is nobody to stream to."""
    body = {"message": "Hi", "compare_mode": True}
    answer = await service.call("POST", "/api/chat_stream", body, headers={"Accept": "application/json"})
    assert (answer.status, answer.error["code"]) == (406, "not_acceptable")
    assert (await service.get("/api/sessions"))["sessions"] == []
