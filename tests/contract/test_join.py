"""A request that is sent again with its `run_id` joins its run: it pays nothing twice, and gets the same."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from tests.contract.client import Api, error
from tests.process.models import Cue, Models, words

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


def new_run_id() -> str:
    return f"run-{secrets.token_hex(8)}"


@pytest.mark.parametrize("new_session", [True, False], ids=["new session", "session"])
async def test_twice_at_once(api: Api, models: Models, new_session: bool) -> None:
    for _ in range(5):
        script, said = words(5, pause_s=0.002)
        prompt = models.plan(script)
        fields = {"run_id": new_run_id()} | ({} if new_session else {"session_id": await api.session()})
        one, other = await asyncio.gather(*(api.stream(prompt, **fields) for _ in range(2)))
        assert one.run_id == other.run_id == fields["run_id"]
        assert one.session_id == other.session_id
        assert await one.rest() == await other.rest()
        [answer] = await api.settled(one.session_id)
        assert (answer["content"], len(models.asked(prompt))) == (said, 1)


async def test_twice_at_once_as_json(api: Api, models: Models) -> None:
    for _ in range(5):
        prompt, run_id = models.plan(Cue()), new_run_id()
        one, other = await asyncio.gather(*(api.accepted(prompt, run_id=run_id) for _ in range(2)))
        assert one == other
        await api.stopped(one["session_id"])
        assert len(await api.messages(one["session_id"])) == 2


async def test_while_it_runs(api: Api, models: Models) -> None:
    """From its first frame on."""
    first = await api.stream(prompt := models.plan(cue := Cue("Hello")), run_id=(run_id := new_run_id()))
    await first.read_text("Hello")
    again = await api.stream(prompt, run_id=run_id, session_id=first.session_id)
    cue.say(" world")
    cue.end()
    assert await again.rest() == await first.rest()
    assert len(models.asked(prompt)) == 1


async def test_when_it_has_ended(api: Api, models: Models) -> None:
    first = await api.stream(prompt := models.plan(words(5)[0]), run_id=(run_id := new_run_id()))
    await first.rest()
    again = await api.stream(prompt, run_id=run_id)
    assert await again.rest() == first.frames
    run = await api.accepted(prompt, run_id=run_id)
    assert (run["run_id"], run["session_id"]) == (run_id, first.session_id)
    assert run["message_id"] == first.payloads[0]["message_id"]
    assert len(await api.messages(first.session_id)) == 2
    assert len(models.asked(prompt)) == 1


async def test_for_another_session(api: Api, models: Models) -> None:
    run = await api.accepted(prompt := models.plan(Cue()), run_id=(run_id := new_run_id()))
    answer = await api.ask(prompt, run_id=run_id, session_id=await api.session())
    assert error(answer) == (422, "invalid_field")
    assert answer.json["error"]["field"] == "run_id"
    await api.stopped(run["session_id"])
