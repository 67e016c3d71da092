"""How a session's latest run is, and what the sessions say of it: asked anywhere, while it runs and afterwards."""

from __future__ import annotations

import time

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models
from tests.process.raw_client import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_live(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(cue := Cue("Hello")), model="n")
    await stream.read_text("Hello")
    status = await until(lambda: api.status(stream.session_id), lambda seen: seen["last_event_id"] == stream.last_id)
    assert set(status) == {
        *("run_id", "status", "stop_reason", "detached", "mode", "model", "events", "last_event_id"),
        *("subscribers", "approvals", "started_at", "ended_at"),
    }
    assert (status["run_id"], status["status"], status["stop_reason"]) == (stream.run_id, "streaming", None)
    assert (status["detached"], status["mode"], status["model"]) == (True, "chat", "n")
    assert (status["events"], status["approvals"], status["ended_at"]) == (len(stream.ids), [], None)
    cue.end()
    await stream.rest()


async def test_ended(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(say("Hello")))
    await stream.rest()
    status = await api.status(stream.session_id)
    assert (status["run_id"], status["status"], status["stop_reason"]) == (stream.run_id, "done", None)
    assert (status["events"], status["last_event_id"]) == (len(stream.ids), stream.last_id)
    assert status["ended_at"] >= status["started_at"]


async def test_stopped(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(Cue()))
    await api.stopped(run["session_id"])
    status = await api.status(run["session_id"])
    assert (status["status"], status["stop_reason"]) == ("stopped", "user_stop")


async def test_subscribers_are_counted(api: Api, models: Models) -> None:
    """All of them, wherever they are."""
    first = await api.stream(models.plan(Cue("Hello")))
    watchers = [await api.back(first.session_id) for _ in range(3)]
    await until(lambda: api.status(first.session_id), lambda seen: seen["subscribers"] == 4)
    for watcher in watchers[:2]:
        watcher.close()
    await until(lambda: api.status(first.session_id), lambda seen: seen["subscribers"] == 2)
    await api.stopped(first.session_id)


async def test_a_session_that_never_streamed(api: Api) -> None:
    for session_id in (await api.session(), "ses_0123456789"):
        assert error(await api.get(f"/api/chat/stream_status/{session_id}")) == (404, "not_found")


# Sessions


async def test_a_streaming_message_as_it_is_now(api: Api, models: Models) -> None:
    """Not as it was at the last checkpoint, which is up to a second old."""
    stream = await api.stream(models.plan(cue := Cue("Hello")))
    begun = time.monotonic()
    for number in range(8):
        cue.say(f" {number}")
        await stream.read_text(cue.said)
        answer = await until(lambda: api.answer(stream.session_id), lambda seen: seen["content"] == cue.said)
        assert (answer["status"], answer["run_id"]) == ("streaming", stream.run_id)
        assert answer["parts"] == [{"type": "text", "text": cue.said}]
    assert time.monotonic() - begun < 6
    await api.stopped(stream.session_id)


async def test_the_active_run(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(cue := Cue("Hello")))

    async def active() -> tuple[str | None, str | None]:
        """As the session says it, and as the list of sessions does."""
        listed = (await api.read("/api/sessions?limit=5"))["sessions"]
        [among] = [session for session in listed if session["id"] == stream.session_id]
        return (await api.read(f"/api/sessions/{stream.session_id}"))["active_run"], among["active_run"]

    assert await active() == (stream.run_id, stream.run_id)
    cue.end()
    await stream.rest()
    assert await active() == (None, None)


async def test_a_session_that_changes_while_it_runs(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(Cue()))
    path = f"/api/sessions/{run['session_id']}"
    changed = await api.call("PATCH", path, {"title": "Ships", "model": "n"})
    assert (changed.status, changed.json["title"], changed.json["active_run"]) == (200, "Ships", run["run_id"])
    await api.stopped(run["session_id"])
    assert ((await api.read(path))["title"], (await api.read(path))["model"]) == ("Ships", "n")


async def test_the_last_used_comes_first(api: Api, models: Models) -> None:
    first, second = await api.session(), await api.session()

    async def order() -> list[str]:
        listed = (await api.read("/api/sessions?limit=500"))["sessions"]
        return [session["id"] for session in listed if session["id"] in (first, second)]

    assert await order() == [second, first]
    await (await api.stream(models.plan(say("Hello")), session_id=first)).rest()
    assert await order() == [first, second]
