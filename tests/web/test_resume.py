"""Coming back to a run: what was missed, byte for byte, then what comes; or why there is nothing to get."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from odysseus.errors import RunExists
from odysseus.messages import Message, Mode, Turn
from odysseus.run import Run
from odysseus.store import Database, Store, database_url
from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, chunk, say, silent
from tests.waiting import soon, until
from tests.web.conftest import Serve, Service, Stream


async def whole(service: Service, **fields: Any) -> Stream:
    """Make a run, and read it uncut."""
    stream = await service.chat(**fields)
    assert await stream.ended() == ("done", None)
    return stream


@pytest.fixture
def letters(upstream: FakeUpstream) -> asyncio.Event:
    """Let the model say "abc", and "def" once this is set, each letter as a frame of its own."""
    go_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for letter in "abcdef":
            if letter == "d":
                await go_on.wait()
            await exchange.send(chunk(letter))
            await asyncio.sleep(0.02)
        await exchange.send(chunk(finish_reason="stop") + b"data: [DONE]\n\n")
        await exchange.end()

    upstream.script = script
    return go_on


# Replay


async def test_cut_at_every_event(service: Service, letters: asyncio.Event) -> None:
    letters.set()
    stream = await whole(service)
    ids, frames = stream.ids[:-1], stream.frames
    assert len(ids) == len(set(ids)) == len(frames) - 1 >= 4
    for seen, last_event_id in enumerate(ids[:-1], 1):
        resumed = await service.resume(stream.session_id, last_event_id)
        assert (resumed.run_id, resumed.session_id) == (stream.run_id, stream.session_id)
        await resumed.rest()
        assert resumed.frames == frames[seen:]
        by_query = await service.open("GET", f"/api/chat/resume/{stream.session_id}?last_event_id={last_event_id}")
        await by_query.rest()
        assert by_query.frames == frames[seen:]
    assert await service.resume_status(stream.session_id, ids[-1]) == 204


async def test_the_header_goes_before_the_query(service: Service) -> None:
    """An EventSource keeps its URL; the header tells what it has seen since."""
    stream = await whole(service)
    path = f"/api/chat/resume/{stream.session_id}?last_event_id={stream.ids[0]}"
    answer = await service.call("GET", path, headers={"Last-Event-ID": stream.ids[-1]})
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize(
    "odd", ["", "0", "{run}", "{run}.", "{run}.99", "{run}.-1", "{run}.01", "{run}.\u0661", "other-run.1", "x" * 4000]
)
async def test_an_id_it_never_gave_out_replays_from_the_start(service: Service, odd: str) -> None:
    stream = await whole(service)
    resumed = await service.resume(stream.session_id, odd.format(run=stream.run_id))
    await resumed.rest()
    assert resumed.frames == stream.frames


async def test_an_id_of_an_older_run_never_skips_into_a_newer_one(service: Service) -> None:
    first = await whole(service)
    second = await whole(service, session_id=first.session_id)
    for last_event_id in first.ids[:-1]:
        resumed = await service.resume(first.session_id, last_event_id)
        await resumed.rest()
        assert resumed.frames == second.frames


async def test_in_the_middle_of_a_run(service: Service, letters: asyncio.Event) -> None:
    first = await service.chat()
    await first.said("abc")
    cuts = [None, *first.ids]
    resumed = [await service.resume(first.session_id, last_event_id) for last_event_id in cuts]
    assert (await service.status(first.session_id))["subscribers"] == len(cuts) + 1
    letters.set()
    assert await first.text() == "abcdef"
    for seen, stream in enumerate(resumed):
        await stream.rest()
        assert stream.frames == first.frames[seen:]


async def test_a_queued_run_by_its_own_path(service: Service, upstream: FakeUpstream, letters: asyncio.Event) -> None:
    """The session's path is that of the run before it until its turn comes."""
    first = await service.accepted("1")
    queued = await service.accepted("2", session_id=first["session_id"], if_busy="queue")
    assert queued["stream"] == f"/api/chat/resume/{first['session_id']}?run_id={queued['run_id']}"
    by_session, by_run = await service.open("GET", first["stream"]), await service.open("GET", queued["stream"])
    assert (by_session.run_id, by_run.run_id) == (first["run_id"], queued["run_id"])
    letters.set()
    assert [await by_session.ended(), await by_run.ended()] == [("done", None)] * 2
    assert [stream.seen[0]["run_id"] for stream in (by_session, by_run)] == [first["run_id"], queued["run_id"]]
    again = await service.open("GET", f"/api/chat/resume/{first['session_id']}?run_id={first['run_id']}")
    await again.rest()
    assert again.frames == by_session.frames
    assert await service.resume_status(first["session_id"], by_run.ids[-1]) == 204


async def test_an_end_that_was_not_numbered_yet(service: Service, upstream: FakeUpstream) -> None:
    """Whoever has all frames of a live run waits for the next one; it isn't told that there is none."""
    upstream.script = say("Hi", done=False)
    first = await service.chat()
    await first.until("delta")
    resumed = await service.resume(first.session_id, first.ids[-1])
    await service.stop(first.session_id)
    events = await resumed.rest()
    assert [event if event == "[DONE]" else event["type"] for event in events] == ["ended", "[DONE]"]


@pytest.mark.parametrize("call", ["join", "resume", "stream_status"])
async def test_a_run_that_begins_while_the_store_is_asked(
    service: Service, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Its row is there then, and still streams: it is the run that must be found."""
    store, asked, go_on = service.app[SERVICE].store, asyncio.Event(), asyncio.Event()
    verb = "answer_of" if call == "join" else "latest_answer"
    look_up = getattr(store, verb)

    async def slowly(*which: str) -> Message | None:
        if not asked.is_set():
            asked.set()
            await go_on.wait()
        found: Message | None = await look_up(*which)
        return found

    monkeypatch.setattr(store, verb, slowly)
    upstream.script = say("Hi", done=False)
    session_id = (await service.call("POST", "/api/sessions", {})).body["id"]
    fields = {"session_id": session_id, "run_id": "my-run-1"}
    late = asyncio.create_task(
        service.chat(**fields) if call == "join"
        else service.resume(session_id) if call == "resume"
        else service.status(session_id)
    )  # fmt: skip
    await soon(asked.wait())
    first = await service.chat(**fields)
    await first.said("Hi")
    go_on.set()
    if isinstance(found := await late, Stream):
        await found.said("Hi")
        assert found.frames == first.frames
    else:
        assert (found["run_id"], found["status"], found["subscribers"]) == ("my-run-1", "streaming", 1)
    await service.stop(session_id)


async def test_http_1_0(service: Service) -> None:
    """Without chunks the end of the connection is the end of the stream."""
    stream = await whole(service)
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(
        f"GET /api/chat/resume/{stream.session_id} HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n".encode()
    )
    head, _, body = (await soon(reader.read())).partition(b"\r\n\r\n")
    writer.close()
    assert b"connection: close" in head.lower() and b"chunked" not in head.lower()
    assert body.endswith(b"".join(stream.frames))


async def test_a_double_that_another_node_was_quicker_than(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands here for a moment: whoever comes for the run by its id gets the other node's."""
    stream = await service.chat(run_id="my-run-1")
    await stream.rest()
    inside = service.app[SERVICE]
    double: Run[bytes] = Run("my-run-1", stream.session_id, owner="", detached=True, about=None)
    double.refusal = RunExists("my-run-1")
    double.accepted.set()
    double.ended.set()
    monkeypatch.setattr(inside.runs, "get", lambda run_id: double)
    monkeypatch.setattr(inside.elsewhere, "exists", True)
    path = f"/api/chat/resume/{stream.session_id}?run_id=my-run-1"
    for again in (await service.chat(run_id="my-run-1"), await service.open("GET", path)):
        await again.rest()
        assert [event["type"] for event in again.seen[:-1]] == ["snapshot", "ended"]


# Where the frames are gone


def assert_snapshot(stream: Stream, run_id: str, snapshot: dict[str, Any], ended: dict[str, Any]) -> None:
    assert stream.seen == [{"type": "snapshot", **snapshot}, {"type": "ended", **ended}, "[DONE]"]
    snapshot_frame, ended_frame, done = stream.frames
    assert snapshot_frame.startswith(b'id: %b.snapshot\ndata: {"type":"snapshot"' % run_id.encode())
    assert ended_frame.startswith(b"id: %b.end\ndata: " % run_id.encode())
    assert done == b"data: [DONE]\n\n"


HELLO = {
    "content": "Hello world",
    "reasoning": "",
    "parts": [{"type": "text", "text": "Hello world"}],
    "status": "done",
}


@pytest.mark.parametrize("gone", ["restart", "grace"])
async def test_a_snapshot_stands_in(serve: Serve, gone: str) -> None:
    service = await serve(replay_grace_s=0.2 if gone == "grace" else 180)
    stream = await whole(service)
    ended = stream.seen[-2]
    if gone == "restart":
        await service.close()
        service = await serve()
    else:
        await until(lambda: service.app[SERVICE].runs.get(stream.run_id) is None)
    resumed = await service.resume(stream.session_id)
    assert (resumed.run_id, resumed.session_id) == (stream.run_id, stream.session_id)
    await resumed.rest()
    assert_snapshot(resumed, stream.run_id, HELLO, ended)
    for seen in (resumed.ids[1], stream.ids[-1]):
        assert await service.resume_status(stream.session_id, seen) == 204
    for not_the_end in (stream.ids[0], f"{stream.run_id}.99", "other-run.end"):
        again = await service.resume(stream.session_id, not_the_end)
        await again.rest()
        assert again.raw == resumed.raw
    by_run = await service.open("GET", f"/api/chat/resume/{stream.session_id}?run_id={stream.run_id}")
    assert (await by_run.rest()) == resumed.seen


async def test_the_grace_time_ends_when_the_last_reader_leaves(serve: Serve, upstream: FakeUpstream) -> None:
    """A reader is never cut off; until then the frames are there."""
    service = await serve(replay_grace_s=0.05)
    stream = await service.chat()
    await stream.rest()
    with service.app[SERVICE].runs.reader(service.app[SERVICE].runs.all()[0]):
        await asyncio.sleep(0.1)
        resumed = await service.resume(stream.session_id)
        await resumed.rest()
        assert resumed.frames == stream.frames
    await until(lambda: not service.app[SERVICE].runs.all())


async def test_what_a_dead_process_left(serve: Serve, tmp_path: Path) -> None:
    """Its answer ends with its last checkpoint, before the first request is taken."""
    database = Database(database_url(f"sqlite:///{tmp_path}/data/odysseus.db"))
    await database.open()
    store = Store(database)
    await store.begin(
        Turn(
            session_id="ses_1", message_id="msg_1", run_id="run_1", owner="", text="Hi", model="m", mode=Mode.CHAT,
            detached=True, new_session=True,
        )
    )  # fmt: skip
    await store.checkpoint("msg_1", "Hel", "Hm", [{"type": "reasoning", "text": "Hm"}, {"type": "text", "text": "Hel"}])
    await database.close()
    service = await serve()
    resumed = await service.resume("ses_1", "run_1.3")
    assert await resumed.ended() == ("interrupted", "node_lost")
    assert_snapshot(
        resumed,
        "run_1",
        {
            "content": "Hel",
            "reasoning": "Hm",
            "parts": [{"type": "reasoning", "text": "Hm"}, {"type": "text", "text": "Hel"}],
            "status": "interrupted",
        },
        {
            "status": "interrupted",
            "stop_reason": "node_lost",
            "message_id": "msg_1",
            "finish_reason": None,
            "usage": None,
            "timings": None,
        },
    )
    assert await service.resume_status("ses_1", "run_1.end") == 204
    status = await service.status("ses_1")
    assert (status["status"], status["events"], status["last_event_id"]) == ("interrupted", None, None)
    assert await (await service.chat(session_id="ses_1")).text() == "Hello world"


# Nothing to get


async def test_nothing_ever_streamed(service: Service) -> None:
    session_id = (await service.call("POST", "/api/sessions", {})).body["id"]
    for last_event_id in (None, "run_1.0"):
        assert await service.resume_status(session_id, last_event_id) == 204


async def test_what_does_not_exist(service: Service) -> None:
    stream, other = await whole(service), await whole(service)
    for path in (
        "ses_9",
        "ses_9?run_id=run_9",
        f"{stream.session_id}?run_id=run_9",
        f"{stream.session_id}?run_id={other.run_id}",
        "%00",
        "\u00e4",
        "x" * 2000,
    ):
        answer = await service.call("GET", f"/api/chat/resume/{path}")
        assert (answer.status, answer.error["code"]) == (404, "not_found")


async def test_a_deleted_session(service: Service) -> None:
    stream = await whole(service)
    assert (await service.call("DELETE", f"/api/sessions/{stream.session_id}")).status == 204
    for last_event_id in (None, stream.ids[0], stream.ids[-1]):
        assert await service.resume_status(stream.session_id, last_event_id) == 404


# What stream_status tells of it


async def test_stream_status(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve()
    session_id = (await service.call("POST", "/api/sessions", {})).body["id"]
    for missing in (session_id, "ses_9"):
        assert (await service.call("GET", f"/api/chat/stream_status/{missing}")).status == 404
    upstream.script = say("Hi", done=False)
    stream = await service.chat(session_id=session_id)
    await stream.until("delta")
    live = await service.status(session_id)
    assert live == {
        "run_id": stream.run_id,
        "status": "streaming",
        "stop_reason": None,
        "detached": True,
        "mode": "chat",
        "model": "m",
        "events": 2,
        "last_event_id": f"{stream.run_id}.1",
        "subscribers": 1,
        "approvals": [],
        "started_at": live["started_at"],
        "ended_at": None,
    }
    assert live["started_at"].endswith("Z")
    await service.stop(session_id)
    await stream.rest()
    await until(lambda: service.app[SERVICE].runs.subscribers == 0)
    ended = await service.status(session_id)
    assert ended["ended_at"] > ended["started_at"] == live["started_at"]
    told = {"status": "stopped", "stop_reason": "user_stop", "events": 3, "last_event_id": f"{stream.run_id}.2"}
    assert ended == {**live, **told, "subscribers": 0, "ended_at": ended["ended_at"]}
    await service.close()
    service = await serve()
    stored = await service.status(session_id)
    assert {**stored, "started_at": None, "ended_at": None} == {**ended, "started_at": None, "ended_at": None}
    assert stored["started_at"].endswith("Z") and stored["ended_at"].endswith("Z")


async def test_the_latest_run_is_the_one_admitted_last(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = silent
    first = await service.accepted()
    queued = await service.accepted(session_id=first["session_id"], if_busy="queue")
    status = await service.status(first["session_id"])
    assert (status["run_id"], status["events"], status["last_event_id"]) == (queued["run_id"], 0, None)
    await service.stop(first["session_id"])
    assert (await service.status(first["session_id"]))["run_id"] == queued["run_id"]
