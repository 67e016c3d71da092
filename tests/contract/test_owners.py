"""With accounts: what belongs to somebody else isn't there, whichever node is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.client import Api, error
from tests.process.models import Cue, Models

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {"auth": "token"}

RUN = "{run}"
FOREIGN: dict[str, tuple[str, str, Any]] = {
    "read": ("GET", "/api/sessions/{session}", None),
    "rename": ("PATCH", "/api/sessions/{session}", {"title": "mine"}),
    "delete": ("DELETE", "/api/sessions/{session}", None),
    "go on": ("POST", "/api/chat_stream", {"message": "Hi", "session_id": "{session}"}),
    "replace": ("POST", "/api/chat_stream", {"message": "Hi", "session_id": "{session}", "if_busy": "replace"}),
    "join its run": ("POST", "/api/chat_stream", {"message": "Hi", "run_id": RUN}),
    "resume": ("GET", "/api/chat/resume/{session}", None),
    "resume its run": ("GET", "/api/chat/resume/{session}?run_id={run}", None),
    "status": ("GET", "/api/chat/stream_status/{session}", None),
    "stop": ("POST", "/api/chat/stop/{session}", None),
    "approve": ("POST", "/api/chat/approve/{session}", {"call_id": "c1", "decision": "allow"}),
    "share": ("POST", "/api/chat/share/{session}", {}),
    "audit": ("GET", "/api/runs/{run}/audit", None),
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_another_owners(api: Api, models: Models, what: str) -> None:
    ann, bob = api.of("ann"), api.of("bob")
    stream = await ann.stream(models.plan(Cue("Hello")))
    await stream.read_text("Hello")
    names = {"session": stream.session_id, "run": stream.run_id}
    method, path, body = FOREIGN[what]
    if body is not None:
        body = {name: value.format(**names) for name, value in body.items()}
    for _ in range(6):  # so that every node is asked
        assert error(await bob.call(method, path.format(**names), body)) == (404, "not_found")
    assert (await ann.status(stream.session_id))["status"] == "streaming"
    assert (await ann.answer(stream.session_id))["content"] == "Hello"
    assert (await ann.stopped(stream.session_id))["stopped"]


async def test_a_stop_of_anothers_run(api: Api, models: Models) -> None:
    """By its id: neither the run that is there, nor one that has yet to come."""
    ann, bob = api.of("ann"), api.of("bob")
    run = await ann.accepted(models.plan(Cue("Hello")))
    answer = await bob.stop(run["session_id"], X_Odysseus_Run_Id=run["run_id"])
    assert error(answer) == (404, "not_found")
    assert (await ann.stopped(run["session_id"]))["stopped"]


async def test_nobody_gets_in_without_a_token(api: Api) -> None:
    for method, path, body in FOREIGN.values():
        assert error(await api.call(method, path.format(session="ses_1", run="run_1"), body)) == (401, "unauthorized")


async def test_a_link_needs_no_token(api: Api, models: Models) -> None:
    ann = api.of("ann")
    stream = await ann.stream(models.plan(cue := Cue("Hello")))
    shared = await ann.post(f"/api/chat/share/{stream.session_id}", {})
    watcher = await api.watch(shared.json["stream"])
    cue.end()
    assert await watcher.rest() == await stream.rest()


async def test_each_sees_their_own(api: Api, models: Models) -> None:
    ann, bob = api.of("ann"), api.of("bob")
    mine = await bob.session()
    run = await ann.accepted(models.plan(Cue()))
    ids = [session["id"] for session in (await bob.read("/api/sessions?limit=500"))["sessions"]]
    assert mine in ids
    assert run["session_id"] not in ids
    await ann.stopped(run["session_id"])
