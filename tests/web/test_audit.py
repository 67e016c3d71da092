"""`GET /api/runs/{run_id}/audit`: what happened to a run, told by itself and by what is stored; to its owner only."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from odysseus.errors import StoreError
from odysseus.messages import Final
from odysseus.web.routes import SERVICE
from tests.fake_upstream import FakeUpstream, say, silent, status
from tests.waiting import soon, until
from tests.web.conftest import MODELS, Serve, Service
from tests.web.test_accounts import SECRET, bearer

BY_USER = {"event": "stop_asked", "by": "user"}
SAVED = {"event": "saved", "to": "store", "attempts": 1}


def ended(status: str, reason: str | None = None) -> dict[str, Any]:
    return {"event": "ended", "status": status, "stop_reason": reason}


async def entries(service: Service, run_id: str) -> list[dict[str, Any]]:
    """Return the entries without their times, which must be in order; events without more as their names."""
    audit = await service.get(f"/api/runs/{run_id}/audit")
    assert audit["run_id"] == run_id
    found = audit["entries"]
    times = [entry.pop("at") for entry in found]
    assert times == sorted(times) and all(time.endswith("Z") for time in times)
    return [entry if len(entry) > 1 else entry["event"] for entry in found]


async def test_a_run_that_is_stopped(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = say("Hello", done=False)
    service = await serve()
    stream = await service.chat()
    await stream.said("Hello")
    live = ["accepted", {"event": "subscriber_joined", "subscriber": 1}, "started", "first_token"]
    assert await entries(service, stream.run_id) == live
    audit = await service.get(f"/api/runs/{stream.run_id}/audit")
    assert (audit["session_id"], audit["model"], audit["detached"]) == (stream.session_id, "m", True)
    assert (audit["status"], audit["stop_reason"]) == ("streaming", None)
    stream.leave()
    await until(lambda: not service.app[SERVICE].runs.subscribers)
    resumed = await service.resume(stream.session_id)
    await resumed.said("Hello")
    await service.stop(stream.session_id)
    await resumed.rest()
    runs = service.app[SERVICE].runs
    await until(lambda: not runs.subscribers)
    visits = [{"event": "subscriber_left", "subscriber": 1}, {"event": "subscriber_joined", "subscriber": 2}]
    known = [*live, *visits, BY_USER, "upstream_closed", SAVED]
    here = await entries(service, stream.run_id)
    last = {"event": "subscriber_left", "subscriber": 2}
    assert here == [*known, ended("stopped", "user_stop"), last]
    runs.forget_session(stream.session_id)
    assert await entries(service, stream.run_id) == here[:-1]
    await service.close()
    service = await serve()
    assert await entries(service, stream.run_id) == here[:-1]
    audit = await service.get(f"/api/runs/{stream.run_id}/audit")
    assert (audit["status"], audit["stop_reason"], audit["model"]) == ("stopped", "user_stop", "m")


@pytest.mark.parametrize("said", [("Hello",), ()])
async def test_a_closed_compare_stream(service: Service, upstream: FakeUpstream, said: tuple[str, ...]) -> None:
    upstream.script = say(*said, done=False) if said else silent
    pane = await service.open("GET", (await service.compare(*MODELS))["panes"][0]["stream"])
    await pane.said("".join(said))
    await until(lambda: upstream.exchanges)
    pane.leave()
    await until(lambda: not service.app[SERVICE].runs.live(pane.session_id))
    token = ["first_token"] if said else []
    assert await entries(service, pane.run_id) == [
        *("accepted", "started", *token, {"event": "stop_asked", "by": "client_disconnect"}, "upstream_closed"),
        *(SAVED, ended("stopped", "client_disconnect")),
    ]


async def test_other_endings(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    service = await serve(idle_timeout_s=0.3)
    upstream.script = status(404)
    run = await service.accepted()
    await (await service.resume(run["session_id"])).rest()
    found = [entry for entry in await entries(service, run["run_id"]) if "subscriber" not in entry]
    assert found == ["accepted", "started", "upstream_closed", SAVED, ended("error", "upstream_error")]
    upstream.script = silent
    stream = await service.chat()
    await stream.rest()
    assert {"event": "stop_asked", "by": "idle_timeout"} in await entries(service, stream.run_id)
    service = await serve(data_dir=tmp_path / "other")
    first = await service.accepted()
    second = await service.accepted(session_id=first["session_id"], if_busy="replace")
    assert {"event": "stop_asked", "by": "replaced"} in await entries(service, first["run_id"])
    assert (await entries(service, second["run_id"]))[0] == "accepted"


async def test_a_run_that_waits_has_not_started(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = silent
    first = await service.accepted()
    second = await service.accepted(session_id=first["session_id"], if_busy="queue")
    assert await entries(service, second["run_id"]) == ["accepted"]
    await service.stop(first["session_id"])
    assert await entries(service, second["run_id"]) == ["accepted", BY_USER, SAVED, ended("stopped", "user_stop")]


@pytest.mark.parametrize(("failures", "saved"), [(1, SAVED | {"attempts": 2}), (3, {**SAVED, "attempts": 3})])
async def test_saves_that_fail(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, failures: int, saved: dict[str, Any]
) -> None:
    """What the next start takes from the spool says that it was there."""
    service = await serve()
    finish, left = service.app[SERVICE].store.finish, [failures]

    async def fails(final: Final) -> bool:
        if left[0]:
            left[0] -= 1
            raise StoreError("away")
        return await finish(final)

    monkeypatch.setattr(service.app[SERVICE].turns.saves, "_finish", fails)
    stream = await service.chat()
    await stream.rest()
    expected = saved | {"to": "spool"} if failures == 3 else saved
    assert expected in await entries(service, stream.run_id)
    await service.close()
    service = await serve()
    assert [one for one in await entries(service, stream.run_id) if one in (saved, expected)] == [expected]


async def test_a_run_whose_process_died(serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream.script = silent
    service = await serve()
    run = await service.accepted()
    await until(lambda: upstream.exchanges)
    store = service.app[SERVICE].store
    assert await store.interrupt_streaming() == 1  # as the next start would
    service.app[SERVICE].runs.stop(run["session_id"])
    await until(lambda: not service.app[SERVICE].runs.live(run["session_id"]))
    service.app[SERVICE].runs.forget_session(run["session_id"])
    assert await entries(service, run["run_id"]) == ["accepted", ended("interrupted", "node_lost")]


async def test_it_is_its_owners(serve: Serve, upstream: FakeUpstream) -> None:
    """To anybody else there is no such run, live, kept or stored: to the letter."""
    upstream.script = say("Hello", done=False)
    service = await serve(auth="jwt", auth_jwt_secret=SECRET)
    headers = {"Accept": "application/json", **bearer("ann")}
    run = (await service.call("POST", "/api/chat_stream", {"message": "Hi"}, headers=headers)).body
    path = f"/api/runs/{run['run_id']}/audit"
    nothing = await service.call("GET", "/api/runs/run_9/audit", headers=bearer("bob"))
    assert nothing.status == 404

    async def check() -> dict[str, Any]:
        foreign = await service.call("GET", path, headers=bearer("bob"))
        assert (foreign.status, foreign.body) == (404, nothing.body)
        assert (await service.call("GET", path)).status == 401
        own = await service.call("GET", path, headers=bearer("ann"))
        assert own.status == 200
        return own.body

    await check()
    await service.call("POST", f"/api/chat/stop/{run['session_id']}", headers=bearer("ann"))
    for forgotten in (False, True):
        if forgotten:
            service.app[SERVICE].runs.forget_session(run["session_id"])
        asked = [entry for entry in (await check())["entries"] if entry["event"] == "stop_asked"]
        assert [(entry["by"], entry["owner"]) for entry in asked] == [("user", "ann")]
    await service.call("DELETE", f"/api/sessions/{run['session_id']}", headers=bearer("ann"))
    gone = await service.call("GET", path, headers=bearer("ann"))
    assert (gone.status, gone.body) == (404, nothing.body)


async def test_a_run_that_is_not_accepted_is_not_there(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may still be refused, and then nothing has happened."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    begin = service.app[SERVICE].store.begin

    async def slow(turn: Any, admit: Any) -> None:
        reached.set()
        await go_on.wait()
        await begin(turn, admit)

    monkeypatch.setattr(service.app[SERVICE].store, "begin", slow)
    starting = asyncio.create_task(service.accepted(run_id="my-run-1"))
    await soon(reached.wait())
    assert (await service.call("GET", "/api/runs/my-run-1/audit")).status == 404
    go_on.set()
    await soon(starting)
    assert (await entries(service, "my-run-1"))[0] == "accepted"
