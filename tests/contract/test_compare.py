"""Compare: each pane is one client's, is started once, and ends with its client or by a stop."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models, before_headers, before_token
from tests.process.raw_client import LEAVINGS

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_a_compare(api: Api, models: Models) -> None:
    made = await api.compare(prompt := models.plan(say("Hello")), "m", "n")
    path = f"/api/compare/{made['compare_id']}"
    assert [(pane["model"], pane["stream"]) for pane in made["panes"]] == [("m", f"{path}/0"), ("n", f"{path}/1")]
    assert not models.asked(prompt)
    for pane in made["panes"]:
        stream = await api.watch(pane["stream"])
        assert await stream.ending() == ("done", None)
        assert (stream.text, stream.session_id, stream.payloads[0]["detached"]) == ("Hello", pane["session_id"], False)
    told = await api.read(path)
    assert (told["compare_id"], told["prompt"]) == (made["compare_id"], prompt)
    assert [(pane["model"], pane["status"], pane["text"]) for pane in told["panes"]] == [
        ("m", "done", "Hello"),
        ("n", "done", "Hello"),
    ]


async def test_a_pane_is_claimed_once(api: Api, models: Models) -> None:
    """However many ask, at the same time and later."""
    made = await api.compare(prompt := models.plan(Cue("Hello")), "m", "n")
    path = made["panes"][0]["stream"]
    streams = await asyncio.gather(*(api.open("GET", path) for _ in range(6)))
    assert sorted(stream.status for stream in streams) == [200, 204, 204, 204, 204, 204]
    [stream] = [stream for stream in streams if stream.status == 200]
    await stream.read_text("Hello")
    assert (await api.get(path, Last_Event_ID=stream.last_id)).status == 204
    await api.stopped(stream.session_id)
    assert (await api.get(path)).status == 204
    assert len(models.asked(prompt)) == 1


async def test_a_pane_that_is_stopped(api: Api, models: Models) -> None:
    made = await api.compare(prompt := models.plan(Cue("Hello")), "m", "n")
    stream = await api.watch(made["panes"][1]["stream"])
    await stream.read_text("Hello")
    receipt = await api.stopped(stream.session_id)
    assert (receipt["stopped"], receipt["run_id"], receipt["chars"]) == (True, stream.run_id, 5)
    await api.closed(prompt)
    assert await stream.ending() == ("stopped", "user_stop")
    assert (await api.answer(stream.session_id))["stop_reason"] == "user_stop"


@pytest.mark.parametrize("script", [before_headers, before_token, Cue], ids=["asked", "silent", "speaking"])
@pytest.mark.parametrize("how", LEAVINGS)
async def test_a_pane_whose_client_leaves(api: Api, models: Models, script: object, how: str) -> None:
    text = "Hello" if script is Cue else ""
    prompt = models.plan(Cue("Hello") if script is Cue else script)  # type: ignore[arg-type]
    made = await api.compare(prompt, "m", "n")
    stream = await api.watch(made["panes"][0]["stream"])
    await models.exchange_of(prompt)
    await stream.read_text(text)
    await models.closes(prompt, stream.leave(how), 3)
    assert await api.abandoned(stream) == text


async def test_a_direct_run_is_its_sessions(api: Api, models: Models) -> None:
    """While it runs the session is busy, and shows it."""
    stream = await api.stream(models.plan(Cue("Hello")), compare_mode=True)
    await stream.read_text("Hello")
    status = await api.status(stream.session_id)
    assert (status["run_id"], status["status"], status["detached"]) == (stream.run_id, "streaming", False)
    assert (await api.read(f"/api/sessions/{stream.session_id}"))["active_run"] == stream.run_id
    assert error(await api.ask("Hi", session_id=stream.session_id)) == (409, "busy")
    await api.stopped(stream.session_id)


async def test_what_is_none(api: Api, models: Models) -> None:
    made = await api.compare(models.plan(say("Hello")), "m", "n")
    for path in (
        "/api/compare/cmp_0123456789",
        "/api/compare/cmp_0123456789/0",
        f"/api/compare/{made['compare_id']}/2",
    ):
        assert error(await api.get(path)) == (404, "not_found")
