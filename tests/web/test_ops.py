"""What operators and programs ask for, and how the service goes down."""

from __future__ import annotations

import asyncio
import warnings
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from odysseus.application import drain
from odysseus.errors import StoreError
from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, chunk, say, status
from tests.waiting import at_once, soon, until
from tests.web.conftest import MODELS, Serve, Service

READY = {"ready": True, "store": True, "engine": True, "redis": None, "draining": False}


async def test_health(service: Service) -> None:
    answer = await service.call("GET", "/healthz")
    assert (answer.status, answer.body, answer.headers["Cache-Control"]) == (200, {"status": "ok"}, "no-store")


async def readiness(service: Service) -> tuple[int, Any]:
    answer = await service.call("GET", "/readyz")
    return answer.status, answer.body


async def test_ready(service: Service) -> None:
    assert await readiness(service) == (200, READY)


async def test_not_ready_while_full(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    service = await serve(max_runs=1)
    run = await service.accepted()
    assert await readiness(service) == (503, READY | {"ready": False, "engine": False})
    await service.stop(run["session_id"])
    assert await readiness(service) == (200, READY)


@pytest.mark.parametrize("hangs", [False, True])
async def test_not_ready_without_its_database(service: Service, monkeypatch: pytest.MonkeyPatch, hangs: bool) -> None:
    async def ping() -> None:
        if hangs:
            await asyncio.Event().wait()
        raise StoreError("gone")

    monkeypatch.setattr(service.app[SERVICE].store, "ping", ping)
    assert await readiness(service) == (503, READY | {"ready": False, "store": False})
    assert (await service.call("GET", "/healthz")).status == 200


# Models


async def test_models_of_the_settings(service: Service) -> None:
    assert await service.get("/api/models") == {
        "models": [
            {"id": "m", "upstream": "default", "default": True},
            {"id": "n", "upstream": "default", "default": False},
        ]
    }


async def test_models_of_several_servers(serve: Serve, upstream: FakeUpstream) -> None:
    async with FakeUpstream(say("B"), ("n", "o")) as other:
        service = await serve(upstream_models=(), upstreams=({"name": "b", "url": other.url},))
        models = (await service.get("/api/models"))["models"]
        assert [(model["id"], model["upstream"], model["default"]) for model in models] == [
            ("m", "default", True), ("n", "default", False), ("o", "b", False)
        ]  # fmt: skip
        for model, text in (("m", "Hello world"), ("n", "Hello world"), ("o", "B")):
            assert await (await service.chat(model=model)).text() == text


async def test_no_model_server_answers(serve: Serve, upstream: FakeUpstream) -> None:
    """A generation can't be accepted; everything else goes on."""
    upstream.listing = status(500)
    service = await serve(upstream_models=())
    assert await service.get("/api/models") == {"models": []}
    for path, body in (
        ("/api/chat_stream", {"message": "Hi"}),
        ("/api/compare", {"message": "Hi", "models": ["m", "n"]}),
        ("/api/sessions", {"model": "m"}),
    ):
        answer = await service.call("POST", path, body)
        assert (answer.status, answer.error["code"]) == (503, "upstream_unreachable")
        assert int(answer.headers["Retry-After"]) > 0
    assert (await service.get("/api/sessions"))["sessions"] == []


# Metrics


async def metrics(service: Service) -> dict[tuple[str, ...], float]:
    answer = await service.call("GET", "/metrics")
    assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


LIVE = [("odysseus_runs", "detached"), ("odysseus_runs", "direct"), ("odysseus_subscribers",)]


async def test_metrics(service: Service, upstream: FakeUpstream) -> None:
    idle = await metrics(service)
    assert (idle["odysseus_runs", "detached"], idle["odysseus_runs", "direct"], idle["odysseus_subscribers",]) == (
        0,
        0,
        0,
    )
    await (await service.chat()).rest()
    upstream.script = say("Hi", done=False)
    stream = await service.chat()
    pane = await service.open("GET", (await service.compare("m", "n"))["panes"][0]["stream"])
    await stream.said("Hi")
    await pane.said("Hi")
    live = await metrics(service)
    assert (live["odysseus_runs", "detached"], live["odysseus_runs", "direct"], live["odysseus_subscribers",]) == (
        1,
        1,
        1,
    )
    assert live["odysseus_log_bytes",] >= len(b"".join(stream.frames))
    assert live["odysseus_runs_ended_total", "done", ""] == 1
    await service.stop(stream.session_id)
    pane.leave()
    await until(lambda: not service.app[SERVICE].runs.live(pane.session_id))
    after = await metrics(service)
    assert after["odysseus_runs_ended_total", "stopped", "user_stop"] == 1
    assert after["odysseus_runs_ended_total", "stopped", "client_disconnect"] == 1
    assert (after["odysseus_save_failures_total",], after["odysseus_saves_spooled_total",]) == (0, 0)
    assert [after[name] for name in LIVE[:2]] == [0, 0]


# Going down


async def test_draining(serve: Serve, upstream: FakeUpstream) -> None:
    """Live runs may go on, and be watched and stopped; new ones are refused. What is left is saved as interrupted."""
    upstream.script = say("Hello", done=False)
    service = await serve(drain_s=60)
    stopped, stuck = [await service.chat() for _ in range(2)]
    for stream in (stopped, stuck):
        await stream.said("Hello")
    made = await service.compare("m", "n")
    pane = await service.open("GET", made["panes"][0]["stream"])
    await pane.said("Hello")
    draining = asyncio.create_task(drain(service.app))
    await until(lambda: service.app[SERVICE].runs.draining)
    assert await readiness(service) == (503, READY | {"ready": False, "draining": True})
    for method, path, body in (
        ("POST", "/api/chat_stream", {"message": "Hi"}),
        ("POST", "/api/chat_stream", {"message": "Hi", "session_id": stuck.session_id, "if_busy": "queue"}),
        ("POST", "/api/chat_stream", {"message": "Hi", "compare_mode": True}),
        ("GET", made["panes"][1]["stream"], None),
    ):
        answer = await service.call(method, path, body)
        assert (answer.status, answer.error["code"]) == (503, "draining")
        assert int(answer.headers["Retry-After"]) > 0
    assert (await service.stop(stopped.session_id))["stopped"]
    resumed = await service.resume(stuck.session_id, stuck.ids[0])
    assert not upstream.exchanges[1].closed.is_set()
    with at_once():
        service.app[SERVICE].runs.hurry()
        await draining
    for stream in (stuck, resumed, pane):
        assert await stream.ended() == ("interrupted", "shutdown")
    assert await stopped.ended() == ("stopped", "user_stop")
    for stream in (stuck, pane):
        answer = await service.answer(stream.session_id)
        assert (answer["content"], answer["status"], answer["stop_reason"]) == ("Hello", "interrupted", "shutdown")
    assert resumed.frames == stuck.frames[1:]
    assert (await service.call("GET", made["panes"][1]["stream"])).status == 503


async def test_a_run_that_ends_in_time(serve: Serve, upstream: FakeUpstream) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk("Hello"))
        await go_on.wait()
        await exchange.send(chunk(" world") + b"data: [DONE]\n\n")
        await exchange.end()

    upstream.script = script
    service = await serve(drain_s=60)
    stream = await service.chat()
    await stream.said("Hello")
    draining = asyncio.create_task(drain(service.app))
    await until(lambda: service.app[SERVICE].runs.draining)
    go_on.set()
    await soon(draining)
    assert await stream.ended() == ("done", None)
    assert (await service.answer(stream.session_id))["content"] == "Hello world"


async def test_closing_saves_what_runs(serve: Serve, upstream: FakeUpstream) -> None:
    """Also what waits in line, and a pane; the next start finds all of it ended."""
    upstream.script = say("Hello", done=False)
    service = await serve()
    stream = await service.chat()
    await stream.said("Hello")
    await service.accepted("2", session_id=stream.session_id, if_busy="queue")
    pane = await service.open("GET", (await service.compare(*MODELS))["panes"][0]["stream"])
    await pane.said("Hello")
    await service.close()
    await until(lambda: not upstream.connections)
    service = await serve()
    for session_id, contents in ((stream.session_id, ["Hello", ""]), (pane.session_id, ["Hello"])):
        answers = (await service.messages(session_id))[1::2]
        assert [(answer["content"], answer["stop_reason"]) for answer in answers] == [
            (content, "shutdown") for content in contents
        ]


# The house's own rules


async def test_nothing_is_warned_of(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web.BaseRequest, "_seen_str_keys", set())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        await (await service.chat()).rest()
        await (await service.open("GET", (await service.compare(*MODELS))["panes"][0]["stream"])).rest()
    assert [str(warning.message) for warning in warned] == []
