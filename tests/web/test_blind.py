"""Blind compares: until the vote nothing on the wire tells which model is which, whatever is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, Script, chunk, in_turn, say, status, wants
from tests.waiting import soon
from tests.web.conftest import Serve, Service, Stream

ZEBRA, QUAGGA, OKAPI = NAMES = ("zebra-7b", "quagga-70b", "okapi-405b")


class Tap:
    """Between a client and the service: what the service sends, to the byte."""

    def __init__(self, port: int) -> None:
        self.sent = b""
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        from_service, to_service = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            await asyncio.gather(self._carry(reader, to_service), self._carry(from_service, writer, note=True))
        except ConnectionError:
            pass
        finally:
            self._tasks.discard(task)
            for end in (to_service, writer):
                end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, note: bool = False) -> None:
        while data := await reader.read(65536):
            if note:
                self.sent += data
            writer.write(data)
            await writer.drain()
        writer.close()

    async def close(self) -> None:
        for task in (tasks := set(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def told(self) -> set[str]:
        """Return the names that were told, since the last look."""
        said, self.sent = self.sent.lower(), b""
        return {name for name in NAMES if name.encode() in said or name.split("-")[0].encode() in said}


class Client:
    """As much of a test client as `Service` uses."""

    def __init__(self, session: aiohttp.ClientSession, app: Any) -> None:
        self.app, self.request = app, session.request


@asynccontextmanager
async def tapped(service: Service) -> AsyncIterator[tuple[Service, Tap]]:
    """Yield the service as it is reached through a tap."""
    assert service.client.port is not None
    tap = Tap(service.client.port)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield Service(Client(session, service.app)), tap  # type: ignore[arg-type]
    finally:
        server.close()
        await tap.close()


def signs(name: str, *texts: str, done: bool = True) -> Script:
    """Return a script that puts the model's name wherever a model server can."""

    async def script(exchange: Exchange) -> None:
        assert exchange.body["model"] == name
        await exchange.head(X_Model=name, Server=name)
        head = b'{"id": "%b-1", "model": "%b", "system_fingerprint": "%b", "choices": []}'
        await exchange.send(b": %b\n\nevent: %b\nid: %b\ndata: " % ((name.encode(),) * 3))
        await exchange.send(head % ((name.encode(),) * 3) + b"\n\n")
        for text in texts:
            await exchange.send(chunk(text))
        if not done:
            await asyncio.Event().wait()
        await exchange.send(chunk(finish_reason=f"{name}-stop"))
        await exchange.send(b"data: [DONE]\n\n")
        await exchange.end()

    return script


def refuses(name: str, number: int = 400) -> Script:
    body = b'{"error": {"message": "the model %b is overloaded"}}' % name.encode()
    return status(number, body, X_Model=name)


async def look(service: Service, compare: dict[str, Any]) -> None:
    """Ask for everything that is told of a compare and its panes."""
    id_ = compare["compare_id"]
    for path in (f"/api/compare/{id_}", "/api/compare", "/api/sessions", "/api/leaderboard", "/metrics", "/api/tools"):
        await service.call("GET", path)
        await service.call("HEAD", path)
    for number, pane in enumerate((await service.get(f"/api/compare/{id_}"))["panes"]):
        session_id, run_id = pane["session_id"], pane["run_id"]
        for message in await service.messages(session_id):
            await service.get(f"/api/sessions/{session_id}/messages/{message['id']}")
        await service.call("GET", f"/api/chat/stream_status/{session_id}")
        await service.call("GET", f"/api/chat/resume/{session_id}")
        await service.call("POST", f"/api/chat/share/{session_id}", {})
        await service.call("PATCH", f"/api/sessions/{session_id}", {"title": "T"})
        await service.call("POST", f"/api/compare/{id_}/vote", {"winner": 9})
        if run_id is not None:
            await service.call("GET", f"/api/runs/{run_id}/audit")
            await service.call("GET", f"/api/compare/{id_}/{number}")
            await service.call("GET", f"/api/chat/resume/{session_id}?run_id={run_id}")
        for more in ({}, {"if_busy": "queue"}, {"compare_mode": True}, {"mode": "agent"}):
            answer = await service.call("POST", "/api/chat_stream", {"message": "Hi", "session_id": session_id, **more})
            assert (answer.status, answer.error["code"]) == (409, "concealed")


def names_of(compare: dict[str, Any]) -> list[str]:
    return [pane["model"] for pane in compare["panes"]]


@pytest.mark.parametrize("mode", ["chat", "agent"])
async def test_no_byte_tells_before_the_vote(serve: Serve, upstream: FakeUpstream, mode: str) -> None:
    """One pane ends well, one fails, one is stopped; then the service is started anew. Only the vote tells."""
    upstream.scripts = {
        ZEBRA: signs(ZEBRA, "Hello"),
        QUAGGA: refuses(QUAGGA),
        OKAPI: signs(OKAPI, "Good", done=False),
    }
    if mode == "agent":
        called = wants((f"call-{ZEBRA}", "calculator", '{"expression": "1"}'))
        upstream.scripts[ZEBRA] = in_turn(called, signs(ZEBRA, "Hello"))
    plain = await serve(upstream_models=NAMES)
    async with tapped(plain) as (service, tap):
        compare = await service.compare(*NAMES, blind=True, mode=mode)
        assert [(pane["label"], pane["model"]) for pane in compare["panes"]] == [("A", None), ("B", None), ("C", None)]
        await look(service, compare)
        streams = await asyncio.gather(*(service.open("GET", pane["stream"]) for pane in compare["panes"]))
        [stopped] = [stream for stream in streams if not await soon(ends(stream))]
        await look(service, compare)
        early = await service.call("POST", f"/api/compare/{compare['compare_id']}/vote", {"winner": 0})
        assert (early.status, early.error["code"]) == (409, "not_ended")
        await service.stop(stopped.session_id)
        await stopped.rest()
        assert {stream.seen[0]["model"] for stream in streams} == {"A", "B", "C"}
        await look(service, compare)
        joined = {"message": "Hi", "session_id": stopped.session_id, "run_id": stopped.run_id}
        await (await service.open("POST", "/api/chat_stream", joined)).rest()
        statuses = [(await service.status(stream.session_id))["model"] for stream in streams]
        assert statuses == ["A", "B", "C"]
        assert tap.told() == set()
    await plain.close()
    async with tapped(await serve(upstream_models=NAMES)) as (service, tap):
        await look(service, compare)
        before = await service.get(f"/api/compare/{compare['compare_id']}")
        assert (before["blind"], before["revealed"], before["winner"]) == (True, False, None)
        assert tap.told() == set()
        vote = await service.call("POST", f"/api/compare/{compare['compare_id']}/vote", {"winner": 1})
        assert vote.status == 200
        assert tap.told() == set(NAMES)
        await check_told(service, compare, names_of(vote.body))
    said = {exchange.body["model"]: exchange for exchange in upstream.exchanges}
    assert set(said) == set(NAMES)


async def ends(stream: Stream) -> bool:
    """Read to the end, or to the text of the one that doesn't end; return which."""
    while (event := await stream.next()) is not None:
        if event != "[DONE]" and event.get("text") == "Good":
            return False
    return True


async def check_told(service: Service, compare: dict[str, Any], names: list[str]) -> None:
    """Every place that had a label has the model's name."""
    after = await service.get(f"/api/compare/{compare['compare_id']}")
    assert after["revealed"]
    assert names_of(after) == names
    for pane, name in zip(after["panes"], names, strict=True):
        session = await service.get(f"/api/sessions/{pane['session_id']}")
        assert (session["model"], session["messages"][-1]["model"]) == (name, name)
        assert (await service.status(pane["session_id"]))["model"] == name
        assert (await service.get(f"/api/runs/{pane['run_id']}/audit"))["model"] == name


async def test_the_runs_have_names_after_the_vote(serve: Serve, upstream: FakeUpstream) -> None:
    """Also while they are still here, for whoever comes back."""
    service = await serve(upstream_models=NAMES)
    compare = await service.compare(*NAMES, blind=True)
    for pane in compare["panes"]:
        await (await service.open("GET", pane["stream"])).rest()
    vote = await service.call("POST", f"/api/compare/{compare['compare_id']}/vote", {"winner": "tie"})
    assert names_of(vote.body) == [exchange.body["model"] for exchange in upstream.exchanges]
    await check_told(service, compare, names_of(vote.body))
    session_id = compare["panes"][0]["session_id"]
    stream = await service.chat(session_id=session_id)
    await stream.rest()
    assert stream.seen[0]["model"] == names_of(vote.body)[0]


async def test_a_chat_into_a_pane_stops_nothing(serve: Serve, upstream: FakeUpstream) -> None:
    """A refused request with `replace` must not have stopped the pane's run."""
    upstream.script = say("Hi", done=False)
    service = await serve(upstream_models=NAMES)
    compare = await service.compare(*NAMES, blind=True)
    stream = await service.open("GET", compare["panes"][0]["stream"])
    await stream.said("Hi")
    body = {"message": "Hi", "session_id": stream.session_id, "if_busy": "replace", "model": OKAPI}
    answer = await service.call("POST", "/api/chat_stream", body)
    assert (answer.status, answer.error["code"]) == (409, "concealed")
    assert service.app[SERVICE].runs.live(stream.session_id)
    await service.stop(stream.session_id)


async def test_a_changed_session_is_asked_the_same(serve: Serve, upstream: FakeUpstream) -> None:
    """A pane's model is that of the compare, whatever its session is given; after the vote the session has its name."""
    service = await serve(upstream_models=NAMES)
    compare = await service.compare(ZEBRA, ZEBRA, blind=True)
    for pane in compare["panes"]:
        await service.call("PATCH", f"/api/sessions/{pane['session_id']}", {"model": OKAPI})
        stream = await service.open("GET", pane["stream"])
        await stream.rest()
        assert stream.seen[0]["model"] == pane["label"]
    assert [exchange.body["model"] for exchange in upstream.exchanges] == [ZEBRA, ZEBRA]
    await service.call("POST", f"/api/compare/{compare['compare_id']}/vote", {"winner": 0})
    assert (await service.get(f"/api/sessions/{compare['panes'][0]['session_id']}"))["model"] == ZEBRA


async def test_a_model_that_has_gone_is_not_told(serve: Serve) -> None:
    service = await serve(upstream_models=NAMES)
    compare = await service.compare(*NAMES, blind=True)
    await service.close()
    async with tapped(await serve(upstream_models=("m",))) as (service, tap):
        for pane in compare["panes"]:
            answer = await service.call("GET", pane["stream"])
            assert (answer.status, answer.error["code"]) == (422, "invalid_field")
        assert tap.told() == set()


async def test_the_server_shuffles(serve: Serve) -> None:
    """Of 16 times eight models, one at least stands elsewhere."""
    models = tuple(f"model-{number}" for number in range(8))
    service = await serve(upstream_models=models)
    orders = []
    for _ in range(16):
        compare = await service.compare(*models, blind=True)
        assert [pane["label"] for pane in compare["panes"]] == list("ABCDEFGH")
        stored = await service.app[SERVICE].store.compare(compare["compare_id"], "")
        orders.append(tuple(pane.model for pane in stored.panes))
    assert all(sorted(order) == list(models) for order in orders)
    assert len(set(orders)) > 1
    open_ = await service.compare(*models)
    assert names_of(open_) == list(models)


async def test_the_log_has_the_name(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever runs the service sees what it does."""
    caplog.set_level("INFO")
    service = await serve(upstream_models=NAMES)
    compare = await service.compare(ZEBRA, ZEBRA, blind=True)
    await (await service.open("GET", compare["panes"][0]["stream"])).rest()
    [record] = [record for record in caplog.records if record.message == "run ended"]
    assert record.fields["model"] == ZEBRA  # type: ignore[attr-defined]
