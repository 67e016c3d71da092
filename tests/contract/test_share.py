"""A watch link shows one run to whoever has it, wherever they come in, and nothing else."""

from __future__ import annotations

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def link(api: Api, session_id: str, **fields: object) -> str:
    answer = await api.post(f"/api/chat/share/{session_id}", fields)
    assert answer.status == 201, answer
    path: str = answer.json["stream"]
    return path


async def test_live(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(cue := Cue("Hello")))
    await first.read_text("Hello")
    path = await link(api, first.session_id)
    watchers = [await api.watch(path), await api.watch(path, Last_Event_ID=first.ids[0])]
    await watchers[0].read_text("Hello")
    cue.say(" world")
    cue.end()
    frames = await first.rest()
    assert [await watcher.rest() for watcher in watchers] == [frames, frames[1:]]


async def test_when_it_has_ended(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    path = await link(api, first.session_id, run_id=first.run_id, expires_in_s=60)
    assert await (await api.watch(path)).rest() == first.frames
    assert (await api.get(path, Last_Event_ID=first.last_id)).status == 204


async def test_it_is_for_one_run(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    path = await link(api, first.session_id)
    await (await api.stream(models.plan(say("Bye")), session_id=first.session_id)).rest()
    assert await (await api.watch(path)).rest() == first.frames


async def test_nothing_to_share(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(say("Hello")), compare_mode=True)
    await stream.rest()
    for session_id in (await api.session(), stream.session_id, "ses_0123456789"):
        assert error(await api.post(f"/api/chat/share/{session_id}", {})) == (404, "not_found")


async def test_a_link_that_is_not_ours(api: Api, models: Models) -> None:
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    path = await link(api, first.session_id)
    for wrong in (f"{path[:-1]}{'A' if path[-1] != 'A' else 'B'}", "/api/watch/whatever"):
        assert error(await api.get(wrong)) == (401, "unauthorized")
