"""Stopping a run, and what ends one by itself: the model's connection closes first, the answer comes after the save."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, Script, chunk, say, silent, status
from tests.waiting import at_once, soon, until
from tests.web.conftest import Serve, Service, Stream


async def reasons(exchange: Exchange) -> None:
    """Think, then fall silent."""
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm"))
    await silent(exchange)


async def new_session(service: Service) -> str:
    session_id: str = (await service.call("POST", "/api/sessions", {})).body["id"]
    return session_id


@pytest.mark.parametrize(
    ("script", "text", "reasoning"),
    [
        (say("Hel", "lo \U0001f6a2", done=False), "Hello \U0001f6a2", ""),
        (say(done=False), "", ""),
        (silent, "", ""),
        (reasons, "", "Hm"),
    ],
    ids=["text", "headers only", "nothing", "reasoning only"],
)
async def test_a_stop(service: Service, upstream: FakeUpstream, script: Script, text: str, reasoning: str) -> None:
    upstream.script = script
    stream = await service.chat()
    exchange = await soon(upstream.exchange())
    await stream.said(text)
    await stream.said(reasoning, "reasoning")
    other = await service.resume(stream.session_id)
    with at_once():
        receipt = await service.stop(stream.session_id)
        await exchange.closed.wait()
    answer = await service.answer(stream.session_id)
    assert receipt == {
        "stopped": True,
        "run_id": stream.run_id,
        "status": "stopped",
        "message_id": answer["id"],
        "chars": len(text),
        "upstream_closed_ms": receipt["upstream_closed_ms"],
    }
    assert 0 <= receipt["upstream_closed_ms"] < 3000
    assert (answer["content"], answer["reasoning"], answer["status"], answer["stop_reason"]) == (
        text, reasoning, "stopped", "user_stop"
    )  # fmt: skip
    assert await stream.ended() == await other.ended() == ("stopped", "user_stop")
    assert stream.frames == other.frames
    assert stream.seen[-2]["message_id"] == answer["id"]
    assert await service.stop(stream.session_id) == {"stopped": False}
    upstream.script = say("Bye")
    assert await (await service.chat(session_id=stream.session_id)).text() == "Bye"


@pytest.mark.parametrize("by_run", [False, True])
async def test_a_run_that_another_node_has_ended(
    service: Service, upstream: FakeUpstream, tmp_path: Path, by_run: bool
) -> None:
    """The receipt is of the answer as it is saved, whatever this node had of it."""
    upstream.script = say("Hello", done=False)
    service.app[SERVICE].turns.saves.shared = True
    stream = await service.chat()
    await stream.said("Hello")
    with closing(sqlite3.connect(tmp_path / "data" / "odysseus.db")) as database, database:
        database.execute("UPDATE messages SET status = 'interrupted', stop_reason = 'node_lost', content = 'He'")
    receipt = await service.stop(stream.session_id, stream.run_id if by_run else None)
    assert (receipt["status"], receipt["chars"]) == ("interrupted", 2)
    answer = await service.answer(stream.session_id)
    assert (answer["content"], answer["id"]) == ("He", receipt["message_id"])


async def test_nothing_to_stop(service: Service) -> None:
    session_id = await new_session(service)
    assert await service.stop(session_id) == {"stopped": False}
    stream = await service.chat(session_id=session_id)
    await stream.rest()
    assert await service.stop(session_id) == {"stopped": False}
    assert await service.stop(session_id, stream.run_id) == {"stopped": False}
    assert (await service.answer(session_id))["status"] == "done"
    answer = await service.call("POST", "/api/chat/stop/ses_9")
    assert (answer.status, answer.error["code"]) == (404, "not_found")


async def test_two_stops_at_once(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    stream = await service.chat()
    await stream.until("delta")
    first, second = await asyncio.gather(*(service.stop(stream.session_id) for _ in range(2)))
    assert first["stopped"] is True
    assert second in (first, {"stopped": False})
    assert len(await service.messages(stream.session_id)) == 2


async def test_a_stop_while_the_model_server_is_asked_again(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = status(503, Retry_After="15")
    stream = await service.chat()
    await soon((await upstream.exchange()).closed.wait())
    with at_once():
        assert (await service.stop(stream.session_id))["status"] == "stopped"
    assert await stream.ended() == ("stopped", "user_stop")
    assert len(upstream.exchanges) == 1


# Runs that wait in line


async def line(service: Service, count: int = 3) -> list[dict[str, str]]:
    """Start a run, and let others wait for it."""
    runs = [await service.accepted("1")]
    for number in range(2, count + 1):
        runs.append(await service.accepted(str(number), session_id=runs[0]["session_id"], if_busy="queue"))
    return runs


async def test_a_stop_withdraws_what_waits(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    runs = await line(service)
    streams = [await service.open("GET", run["stream"]) for run in runs]
    await streams[0].until("delta")
    receipt = await service.stop(runs[0]["session_id"])
    assert (receipt["run_id"], receipt["chars"]) == (runs[0]["run_id"], 2)
    assert [await stream.ended() for stream in streams] == [("stopped", "user_stop")] * 3
    messages = await service.messages(runs[0]["session_id"])
    assert [(message["content"], message["status"], message["stop_reason"]) for message in messages] == [
        ("1", "done", None), ("Hi", "stopped", "user_stop"),
        ("2", "done", None), ("", "stopped", "user_stop"),
        ("3", "done", None), ("", "stopped", "user_stop"),
    ]  # fmt: skip
    assert len(upstream.exchanges) == 1
    assert streams[1].ids[0] == f"{runs[1]['run_id']}.0"


async def test_a_stop_of_one_run_leaves_the_others(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    first, second, third = await line(service)
    session_id = first["session_id"]
    with at_once():
        receipt = await service.stop(session_id, second["run_id"])
    assert (receipt["stopped"], receipt["run_id"], receipt["message_id"], receipt["chars"]) == (
        True, second["run_id"], second["message_id"], 0
    )  # fmt: skip
    assert (await service.get(f"/api/sessions/{session_id}"))["active_run"] == first["run_id"]
    assert (await service.stop(session_id, first["run_id"]))["run_id"] == first["run_id"]
    await soon(upstream.exchange(1))
    assert [message["content"] for message in upstream.exchanges[1].body["messages"] if message["role"] == "user"] == [
        "1", "2\n\n3"
    ]  # fmt: skip
    assert (await service.get(f"/api/sessions/{session_id}"))["active_run"] == third["run_id"]
    assert await service.stop(session_id, first["run_id"]) == {"stopped": False}, "a late stop hits nobody else"
    assert (await service.stop(session_id))["run_id"] == third["run_id"]


async def test_a_stop_of_a_run_of_another_session(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    run = await service.accepted()
    headers = {"X-Odysseus-Run-Id": run["run_id"]}
    answer = await service.call("POST", f"/api/chat/stop/{await new_session(service)}", headers=headers)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    assert (await service.status(run["session_id"]))["status"] == "streaming"


# A session that is busy


async def test_reject(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    run = await service.accepted()
    for fields in ({}, {"if_busy": "reject"}, {"compare_mode": True}):
        body = {"message": "2", "session_id": run["session_id"], **fields}
        answer = await service.call("POST", "/api/chat_stream", body)
        assert (answer.status, answer.error["code"], answer.error["run_id"]) == (409, "busy", run["run_id"])
    assert len(await service.messages(run["session_id"])) == 2


async def test_replace(service: Service, upstream: FakeUpstream) -> None:
    """The old run is stopped and saved before the new one begins."""
    upstream.script = say("Hi", done=False)
    old = await service.chat("1")
    await old.until("delta")
    waiting = await service.accepted("2", session_id=old.session_id, if_busy="queue")
    upstream.script = say("Bye")
    with at_once():
        new = await service.chat("3", session_id=old.session_id, if_busy="replace")
        await new.until("started")
        await upstream.exchanges[0].closed.wait()
    withdrawn = await service.open("GET", f"/api/chat/resume/{old.session_id}?run_id={waiting['run_id']}")
    assert await old.ended() == await withdrawn.ended() == ("stopped", "replaced")
    assert await new.text() == "Bye"
    sent = [(message["role"], message["content"]) for message in upstream.exchanges[1].body["messages"]]
    assert sent == [("user", "1"), ("assistant", "Hi"), ("user", "2\n\n3")]
    contents = [message["content"] for message in await service.messages(old.session_id)]
    assert contents == ["1", "Hi", "2", "", "3", "Bye"]


async def test_queue(service: Service, upstream: FakeUpstream) -> None:
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await go_on.wait()
        await say("A")(exchange)

    upstream.script = script
    runs = await line(service)
    streams = [await service.open("GET", run["stream"]) for run in runs]
    await soon(upstream.exchange())
    assert [stream.seen for stream in streams[1:]] == [[], []]
    go_on.set()
    assert [await stream.text() for stream in streams] == ["A", "A", "A"]
    sent = [[message["content"] for message in exchange.body["messages"]] for exchange in upstream.exchanges]
    assert sent == [["1"], ["1", "A", "2"], ["1", "A", "2", "A", "3"]]


# What ends a run by itself


async def babbles(exchange: Exchange) -> None:
    await exchange.head()
    while True:
        await exchange.send(chunk("x" * 50))
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("settings", "script", "reason"),
    [
        ({"idle_timeout_s": 0.2}, say("Hi", done=False), "idle_timeout"),
        ({"idle_timeout_s": 0.2}, silent, "idle_timeout"),
        ({"wall_clock_timeout_s": 0.3}, babbles, "wall_clock_timeout"),
        ({"max_log_bytes": 2000}, babbles, "log_limit"),
    ],
)
async def test_limits(serve: Serve, upstream: FakeUpstream, settings: Any, script: Script, reason: str) -> None:
    upstream.script = script
    service = await serve(**settings)
    stream = await service.chat()
    text = await stream.text()
    assert await stream.ended() == ("stopped", reason)
    await soon(upstream.exchanges[0].closed.wait())
    answer = await service.answer(stream.session_id)
    assert (answer["content"], answer["status"], answer["stop_reason"]) == (text, "stopped", reason)
    assert reason != "log_limit" or 2000 < len(b"".join(stream.frames)) < 4000


async def test_an_unattended_run(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    service = await serve(unattended_limit_s=0.3)
    watched, alone = await service.chat(), await service.accepted()
    await soon(service.app[SERVICE].runs.get(alone["run_id"]).task)
    answer = await service.answer(alone["session_id"])
    assert (answer["content"], answer["status"], answer["stop_reason"]) == ("Hi", "stopped", "unattended")
    await watched.said("Hi")
    assert (await service.status(watched.session_id))["status"] == "streaming"
    watched.leave()
    await soon(service.app[SERVICE].runs.get(watched.run_id).task)
    assert (await service.status(watched.session_id))["stop_reason"] == "unattended"
    for exchange in upstream.exchanges:
        await soon(exchange.closed.wait())


async def test_a_subscriber_that_never_reads_costs_the_run_nothing(serve: Serve, upstream: FakeUpstream) -> None:
    """Its connection is cut after SEND_TIMEOUT_S; everybody else has got everything long before."""
    texts = [str(number).ljust(100_000, "x") for number in range(120)]
    upstream.script = say(*texts)
    service = await serve(send_timeout_s=1.5)
    run = await service.accepted()
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port, limit=1024)
    writer.write(f"GET {run['stream']} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    await soon(reader.readexactly(1))
    stream: Stream = await service.open("GET", run["stream"])
    assert await stream.text() == "".join(texts)
    assert (await service.status(run["session_id"]))["status"] == "done"
    await until(lambda: service.app[SERVICE].runs.subscribers == 0)
    writer.transport.abort()
