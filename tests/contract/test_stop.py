"""Stopping: the model is let go at once, the answer so far is saved, and the receipt says so."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import Script, say
from tests.process.models import Cue, Models, before_headers, before_token
from tests.waiting import at_once

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

NOTHING = {"stopped": False}


async def test_the_receipt(api: Api, models: Models) -> None:
    stream = await api.stream(prompt := models.plan(Cue("Hello ", "\N{SHIP}")))
    await stream.read_text("Hello \N{SHIP}")
    with at_once():
        receipt = await api.stopped(stream.session_id)
    answer = await api.answer(stream.session_id)
    assert receipt == {
        "stopped": True,
        "run_id": stream.run_id,
        "status": "stopped",
        "message_id": answer["id"],
        "chars": 7,
        "upstream_closed_ms": receipt["upstream_closed_ms"],
    }
    assert 0 <= receipt["upstream_closed_ms"] < 3000
    assert (answer["content"], answer["status"], answer["stop_reason"]) == (stream.text, "stopped", "user_stop")
    await api.closed(prompt)
    assert await stream.ending() == ("stopped", "user_stop")


@pytest.mark.parametrize("script", [before_headers, before_token], ids=["before headers", "before a token"])
async def test_a_silent_model(api: Api, models: Models, script: Script) -> None:
    run = await api.accepted(prompt := models.plan(script))
    await models.exchange_of(prompt)
    with at_once():
        receipt = await api.stopped(run["session_id"])
    assert (receipt["stopped"], receipt["chars"], receipt["message_id"]) == (True, 0, run["message_id"])
    await api.closed(prompt)


async def test_every_watcher_is_told(api: Api, models: Models) -> None:
    streams = [await api.stream(models.plan(Cue("Hello")))]
    streams += [await api.back(streams[0].session_id) for _ in range(3)]
    for stream in streams:
        await stream.read_text("Hello")
    await api.stopped(streams[0].session_id)
    assert [await stream.ending() for stream in streams] == [("stopped", "user_stop")] * 4
    assert all(stream.frames == streams[0].frames for stream in streams)


async def test_nothing_to_stop(api: Api, models: Models) -> None:
    session_id = await api.session()
    assert await api.stopped(session_id) == NOTHING
    stream = await api.stream(models.plan(say("Hello")), session_id=session_id)
    await stream.rest()
    assert await api.stopped(session_id) == NOTHING
    assert await api.stopped(session_id, stream.run_id) == NOTHING
    assert (await api.answer(session_id))["status"] == "done"


async def test_a_session_that_is_none(api: Api) -> None:
    assert error(await api.stop("ses_0123456789")) == (404, "not_found")


async def test_two_at_once(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(Cue("Hello")))
    await stream.read_text("Hello")
    receipts = await asyncio.gather(*(api.stopped(stream.session_id) for _ in range(2)))
    told = [receipt for receipt in receipts if receipt["stopped"]]
    assert told
    assert all(receipt == told[0] for receipt in told)
    assert [receipt for receipt in receipts if receipt not in told] in ([], [NOTHING])
    assert len(await api.messages(stream.session_id)) == 2


async def test_one_run_of_several(api: Api, models: Models) -> None:
    first = await api.accepted(models.plan(Cue("A")))
    session_id = first["session_id"]
    second, third = [
        await api.accepted(models.plan(Cue(text)), session_id=session_id, if_busy="queue") for text in "BC"
    ]
    receipt = await api.stopped(session_id, second["run_id"])
    assert (receipt["stopped"], receipt["run_id"], receipt["message_id"]) == (
        True, second["run_id"], second["message_id"]
    )  # fmt: skip
    assert (await api.read(f"/api/sessions/{session_id}"))["active_run"] == first["run_id"]
    assert (await api.stopped(session_id, first["run_id"]))["run_id"] == first["run_id"]
    assert await api.stopped(session_id, first["run_id"]) == NOTHING  # a late stop hits nobody else
    last = await api.back(session_id, run_id=third["run_id"])
    await last.read_text("C")
    assert (await api.stopped(session_id))["run_id"] == third["run_id"]
    answers = await api.settled(session_id, turns=3)
    assert [answer["stop_reason"] for answer in answers] == ["user_stop"] * 3


async def test_a_run_of_another_session(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(Cue()))
    answer = await api.stop(await api.session(), X_Odysseus_Run_Id=run["run_id"])
    assert error(answer) == (404, "not_found")
    assert (await api.status(run["session_id"]))["status"] == "streaming"
    await api.stopped(run["session_id"])


async def test_a_stop_that_overtakes_its_run(api: Api, models: Models) -> None:
    session_id, run_id = await api.session(), f"run-{secrets.token_hex(8)}"
    assert await api.stopped(session_id, run_id) == NOTHING
    prompt = models.plan(say("Hello"))
    for _ in range(2):
        answer = await api.ask(prompt, session_id=session_id, run_id=run_id)
        assert error(answer) == (409, "stopped_before_start")
    assert await api.messages(session_id) == []
    stream = await api.stream(prompt, session_id=session_id)
    assert await stream.ending() == ("done", None)


async def test_the_session_goes_on(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(Cue()))
    await api.stopped(run["session_id"])
    stream = await api.stream(models.plan(say("Bye")), session_id=run["session_id"])
    assert await stream.ending() == ("done", None)
