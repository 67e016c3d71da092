"""Sessions: made, listed, read, changed, deleted."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from odysseus.web.routes import SERVICE
from tests.fake_upstream import FakeUpstream, say, silent
from tests.waiting import at_once, soon
from tests.web.conftest import Answer, Service

FIELDS = {"id", "title", "model", "system", "created_at", "updated_at", "active_run"}


async def made(service: Service, **fields: Any) -> dict[str, Any]:
    answer = await service.call("POST", "/api/sessions", fields)
    assert answer.status == 201, answer.body
    assert answer.headers["Cache-Control"] == "no-store"
    body: dict[str, Any] = answer.body
    return body


async def changed(service: Service, session_id: str, **fields: Any) -> Answer:
    return await service.call("PATCH", f"/api/sessions/{session_id}", fields)


async def listed(service: Service, query: str = "") -> list[str]:
    return [session["id"] for session in (await service.get(f"/api/sessions{query}"))["sessions"]]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"title": "T\u00e4", "model": "n", "system": "S\n\U0001f6a2"},
        {"title": None, "model": None, "system": None},
        {"title": "", "system": ""},
        {"title": "x" * 200, "system": "x" * 200_000},
    ],
    ids=["nothing", "everything", "nulls", "empty", "long"],
)
async def test_making_one(service: Service, fields: dict[str, Any]) -> None:
    session = await made(service, **fields)
    assert set(session) == FIELDS
    assert session == session | {"title": None, "model": None, "system": None, "active_run": None} | fields
    assert session["created_at"] == session["updated_at"]
    assert datetime.fromisoformat(session["created_at"]).utcoffset() is not None
    assert await service.get(f"/api/sessions/{session['id']}") == session | {"messages": []}


async def test_changing_one(service: Service) -> None:
    session = await made(service, title="T", model="m", system="S")
    other = await made(service, title="O")
    for fields in ({"title": "U"}, {"model": "n", "system": None}, {"model": None}, {"title": None}, {}):
        answer = await changed(service, session["id"], **fields)
        assert answer.status == 200
        assert answer.body["updated_at"] > session["updated_at"]
        assert answer.body == session | fields | {"updated_at": answer.body["updated_at"]}
        session = answer.body
        assert await service.get(f"/api/sessions/{session['id']}") == session | {"messages": []}
    assert await service.get(f"/api/sessions/{other['id']}") == other | {"messages": []}


async def test_a_change_holds_for_the_next_turn(service: Service, upstream: FakeUpstream) -> None:
    stream = await service.chat("1", system="S", model="m")
    await stream.rest()
    session = await service.get(f"/api/sessions/{stream.session_id}")
    assert (session["model"], session["system"], session["title"]) == ("m", "S", "1")
    await changed(service, stream.session_id, model="n", system=None, title="Mine")
    await (await service.chat("2", session_id=stream.session_id)).rest()
    body = upstream.exchanges[1].body
    assert (body["model"], [message["role"] for message in body["messages"]]) == ("n", ["user", "assistant", "user"])
    assert (await service.get(f"/api/sessions/{stream.session_id}"))["title"] == "Mine"


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ("Hi", "Hi"),
        ("\n \n  Hi  \nthere", "Hi"),
        ("x" * 61, "x" * 59 + "\u2026"),
        ("\U0001f6a2" * 60, "\U0001f6a2" * 60),
    ],
)
async def test_the_first_message_is_the_title(service: Service, message: str, title: str) -> None:
    stream = await service.chat(message)
    await stream.rest()
    assert (await service.get(f"/api/sessions/{stream.session_id}"))["title"] == title
    bare = (await made(service))["id"]
    await (await service.chat(message, session_id=bare)).rest()
    await (await service.chat("Something else", session_id=bare)).rest()
    assert (await service.get(f"/api/sessions/{bare}"))["title"] == title


async def test_the_list(service: Service) -> None:
    assert await service.get("/api/sessions") == {"sessions": []}
    ids = [(await made(service, title=str(number)))["id"] for number in range(7)]
    newest_first = ids[::-1]
    assert await listed(service) == newest_first
    for limit in (1, 2, 3, 7, 500):
        got: list[str] = []
        while page := await listed(service, f"?limit={limit}" + (f"&before={got[-1]}" if got else "")):
            assert len(page) <= limit
            got += page
        assert got == newest_first
    await (await service.chat(session_id=ids[2])).rest()
    assert await listed(service, "?limit=1") == [ids[2]]
    [first, *_] = (await service.get("/api/sessions"))["sessions"]
    assert set(first) == FIELDS


async def test_fifty_are_listed_unless_told(service: Service) -> None:
    await asyncio.gather(*(made(service) for _ in range(51)))
    assert len(await listed(service)) == 50
    assert len(await listed(service, "?limit=51")) == 51


@pytest.mark.parametrize("limit", ["0", "-1", "501", "many", "1.0", "1e2", "\u0661", "99999999999999999999", ""])
async def test_limits_that_cannot_be(service: Service, limit: str) -> None:
    answer = await service.call("GET", "/api/sessions", params={"limit": limit})
    assert (answer.status, answer.error["field"]) == (422, "limit")


@pytest.mark.parametrize("session_id", ["ses_9", "%00", "\u00e4", "'", "x" * 3000])
async def test_sessions_that_do_not_exist(service: Service, session_id: str) -> None:
    for answer in (
        await service.call("GET", f"/api/sessions/{session_id}"),
        await changed(service, session_id, title="T"),
        await service.call("DELETE", f"/api/sessions/{session_id}"),
        await service.call("GET", f"/api/sessions?before={session_id}"),
        await service.call("POST", f"/api/chat/stop/{session_id}"),
    ):
        assert (answer.status, answer.error["code"]) == (404, "not_found")


# While it runs


async def test_a_live_session(service: Service, upstream: FakeUpstream) -> None:
    """What is read is the answer as it is this moment, not as of the last checkpoint."""
    upstream.script = say("Hello", done=False)
    stream = await service.chat()
    await stream.said("Hello")
    session = await service.get(f"/api/sessions/{stream.session_id}")
    assert session["active_run"] == stream.run_id
    user, answer = session["messages"]
    assert (answer["content"], answer["status"], answer["parts"]) == (
        "Hello", "streaming", [{"type": "text", "text": "Hello"}]
    )  # fmt: skip
    [listed] = (await service.get("/api/sessions"))["sessions"]
    assert listed["active_run"] == stream.run_id
    assert (await changed(service, stream.session_id, title="T")).body["active_run"] == stream.run_id
    await service.stop(stream.session_id)
    session = await service.get(f"/api/sessions/{stream.session_id}")
    assert session["active_run"] is None
    assert session["messages"] == [
        user, answer | {key: session["messages"][1][key] for key in ("status", "stop_reason", "timings", "html")}
    ]  # fmt: skip


# Deleting


async def test_deleting_one(service: Service) -> None:
    stream, other = await service.chat(), await service.chat()
    await stream.rest()
    await other.rest()
    path = f"/api/sessions/{stream.session_id}"
    answer = await service.call("DELETE", path)
    assert (answer.status, answer.body) == (204, b"")
    for method, gone in (
        ("GET", path),
        ("DELETE", path),
        ("GET", f"/api/chat/resume/{stream.session_id}"),
        ("GET", f"/api/chat/stream_status/{stream.session_id}"),
        ("POST", f"/api/chat/stop/{stream.session_id}"),
    ):
        assert (await service.call(method, gone)).status == 404
    body = {"message": "Hi", "session_id": stream.session_id}
    assert (await service.call("POST", "/api/chat_stream", body)).status == 404
    assert await listed(service) == [other.session_id]


async def test_deleting_one_stops_its_runs_first(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    stream = await service.chat()
    await stream.said("Hi")
    await service.accepted("2", session_id=stream.session_id, if_busy="queue")
    with at_once():
        assert (await service.call("DELETE", f"/api/sessions/{stream.session_id}")).status == 204
        await upstream.exchanges[0].closed.wait()
    assert await stream.ended() == ("stopped", "user_stop")
    assert service.app[SERVICE].runs.live(stream.session_id) == ()
    assert await listed(service) == []
    assert len(upstream.exchanges) == 1


async def test_deleting_a_pane_stops_it(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = silent
    made = await service.compare("m", "n")
    stream = await service.open("GET", made["panes"][0]["stream"])
    await soon(upstream.exchange())
    with at_once():
        assert (await service.call("DELETE", f"/api/sessions/{stream.session_id}")).status == 204
        await upstream.exchanges[0].closed.wait()
    assert await stream.ended() == ("stopped", "user_stop")


async def test_a_deletion_is_carried_through_without_its_client(
    service: Service, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """What isn't a stream isn't cut in two: here the client leaves while the stopped run is being saved."""
    upstream.script = say("Hi", done=False)
    stream = await service.chat()
    await stream.said("Hi")
    with closing(sqlite3.connect(tmp_path / "data" / "odysseus.db", isolation_level=None)) as lock:
        lock.execute("BEGIN IMMEDIATE")
        _, writer = await asyncio.open_connection(service.client.host, service.client.port)
        writer.write(f"DELETE /api/sessions/{stream.session_id} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        await soon(upstream.exchanges[0].closed.wait())
        writer.transport.abort()
        await service.get("/healthz")  # so much later the server has seen it
    assert await stream.ended() == ("stopped", "user_stop")
    async with asyncio.timeout(30):
        while await listed(service):  # noqa: ASYNC110  # nobody is told any more
            await asyncio.sleep(0.01)
    assert service.app[SERVICE].runs.all() == ()


# Searching


async def test_searching(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("On **islands**.")
    stream = await service.chat("Where do pelicans nest?")
    await stream.rest()
    other = (await made(service, title="Caf\u00e9s & bars"))["id"]
    for query, expected in (
        ("?q=PELICAN", [stream.session_id]),
        ("?q=**islands", [stream.session_id]),
        ("?q=caf%C3%A9s%20%26", [other]),
        ("?q=CAF%C3%89", [other]),
        ("?q=s&limit=1", [other]),
        (f"?q=s&before={other}", [stream.session_id]),
        ("?q=%00", []),
        ("?q=%FF", []),
        ("?q=%ED%A0%80", []),
        (f"?q={'x' * 200}", []),
        ("?q=", [other, stream.session_id]),
    ):
        assert await listed(service, query) == expected, query
    answer = await service.call("GET", f"/api/sessions?q={'x' * 201}")
    assert (answer.status, answer.error["field"]) == (422, "q")
