"""Deleting a session stops what it runs, and leaves nothing."""

from __future__ import annotations

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models
from tests.waiting import at_once

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def is_gone(api: Api, session_id: str) -> None:
    """Ask so often that every node is asked."""
    for path in ("/api/sessions/{}", "/api/chat/stream_status/{}", "/api/chat/resume/{}"):
        for _ in range(6):
            assert error(await api.get(path.format(session_id))) == (404, "not_found")


async def test_while_it_runs(api: Api, models: Models) -> None:
    stream = await api.stream(prompt := models.plan(Cue("Hello")))
    other = await api.back(stream.session_id)
    await other.read_text("Hello")
    with at_once():
        deleted = await api.call("DELETE", f"/api/sessions/{stream.session_id}")
    assert (deleted.status, deleted.json) == (204, b"")
    await api.closed(prompt)
    assert await stream.ending() == await other.ending() == ("stopped", "user_stop")
    await is_gone(api, stream.session_id)


async def test_with_what_waits(api: Api, models: Models) -> None:
    run = await api.accepted(models.plan(Cue("Hello")))
    waiting = models.plan(say("Bye"))
    await api.accepted(waiting, session_id=run["session_id"], if_busy="queue")
    assert (await api.call("DELETE", f"/api/sessions/{run['session_id']}")).status == 204
    await is_gone(api, run["session_id"])
    assert not models.asked(waiting)


async def test_when_it_has_ended(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(say("Hello")))
    await stream.rest()
    assert (await api.call("DELETE", f"/api/sessions/{stream.session_id}")).status == 204
    await is_gone(api, stream.session_id)
    assert error(await api.get(f"/api/runs/{stream.run_id}/audit")) == (404, "not_found")
    again = await api.call("DELETE", f"/api/sessions/{stream.session_id}")
    assert error(again) == (404, "not_found")
