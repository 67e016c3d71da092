"""One run a session at a time: who comes while it runs is refused, replaces it, or waits."""

from __future__ import annotations

import asyncio

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def test_reject(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(Cue()))
    for fields in ({}, {"if_busy": "reject"}):
        refused = await api.ask("Hi", session_id=run["session_id"], **fields)
        assert error(refused) == (409, "busy")
        assert refused.json["error"]["run_id"] == run["run_id"]
    direct = await api.post(
        "/api/chat_stream", {"message": "Hi", "session_id": run["session_id"], "compare_mode": True}
    )
    assert error(direct) == (409, "busy")
    assert len(await api.messages(run["session_id"])) == 2
    await api.stopped(run["session_id"])


async def test_two_at_once(api: Api, models: Models) -> None:
    for _ in range(5):
        session_id, prompts = await api.session(), [models.plan(Cue()) for _ in range(3)]
        answers = await asyncio.gather(*(api.ask(prompt, session_id=session_id) for prompt in prompts))
        winner, *losers = sorted(answers, key=lambda answer: answer.status)
        assert winner.status == 202
        for loser in losers:
            assert error(loser) == (409, "busy")
            assert loser.json["error"]["run_id"] == winner.json["run_id"]
        assert len(await api.messages(session_id)) == 2
        await api.stopped(session_id)
        assert len([prompt for prompt in prompts if models.asked(prompt)]) <= 1


async def test_replace(api: Api, models: Models) -> None:
    old = await api.stream(first := models.plan(Cue("Hello")))
    await old.read_text("Hello")
    new = await api.stream(second := models.plan(say("Bye")), session_id=old.session_id, if_busy="replace")
    assert await new.ending() == ("done", None)
    assert await old.ending() == ("stopped", "replaced")
    await api.closed(first)
    sent = [(message["role"], message["content"]) for message in models.asked(second)[0].body["messages"]]
    assert sent == [("user", first), ("assistant", "Hello"), ("user", second)]
    contents = [message["content"] for message in await api.messages(old.session_id)]
    assert contents == [first, "Hello", second, "Bye"]


async def test_queue(api: Api, models: Models) -> None:
    """They are answered in the order in which they came; each knows all before it."""
    prompts = [models.plan(cue := Cue("A")), models.plan(say("B")), models.plan(say("C"))]
    runs = [await api.accepted(prompts[0])]
    session_id = runs[0]["session_id"]
    for prompt in prompts[1:]:
        runs.append(await api.accepted(prompt, session_id=session_id, if_busy="queue"))
    assert runs[2]["stream"] == f"/api/chat/resume/{session_id}?run_id={runs[2]['run_id']}"
    streams = [await api.watch(run["stream"]) for run in runs]
    assert [stream.run_id for stream in streams] == [run["run_id"] for run in runs]
    await streams[0].read_text("A")
    assert not models.asked(prompts[1])
    cue.end()
    assert [await stream.ending() for stream in streams] == [("done", None)] * 3
    assert [stream.text for stream in streams] == ["A", "B", "C"]
    sent = [message["content"] for message in models.asked(prompts[2])[0].body["messages"]]
    assert sent == [prompts[0], "A", prompts[1], "B", prompts[2]]


async def test_a_stop_withdraws_what_waits(api: Api, models: Models) -> None:
    first = await api.accepted(models.plan(Cue("A")))
    session_id = first["session_id"]
    prompts = [models.plan(say("B")), models.plan(say("C"))]
    waiting = [await api.accepted(prompt, session_id=session_id, if_busy="queue") for prompt in prompts]
    streams = [await api.watch(run["stream"]) for run in (first, *waiting)]
    await streams[0].read_text("A")
    receipt = await api.stopped(session_id)
    assert (receipt["stopped"], receipt["run_id"], receipt["chars"]) == (True, first["run_id"], 1)
    assert [await stream.ending() for stream in streams] == [("stopped", "user_stop")] * 3
    assert [answer["content"] for answer in await api.settled(session_id, turns=3)] == ["A", "", ""]
    assert not any(models.asked(prompt) for prompt in prompts)


async def test_replacing_withdraws_what_waits(api: Api, models: Models) -> None:
    first = await api.accepted(models.plan(Cue("A")))
    waiting = await api.accepted(models.plan(say("B")), session_id=first["session_id"], if_busy="queue")
    new = await api.stream(models.plan(say("C")), session_id=first["session_id"], if_busy="replace")
    assert await new.ending() == ("done", None)
    withdrawn = await api.back(first["session_id"], run_id=waiting["run_id"])
    assert await withdrawn.ending() == ("stopped", "replaced")
    answers = await api.settled(first["session_id"], turns=3)
    assert [answer["stop_reason"] for answer in answers] == ["replaced", "replaced", None]
