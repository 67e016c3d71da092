"""What happened to a run, told by whichever node is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.client import Api, error
from tests.fake_upstream import say
from tests.process.models import Cue, Models

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]


async def entries(api: Api, run_id: str) -> list[dict[str, Any]]:
    """Return the entries without their times, which must be in order, and without subscribers, who come and go."""
    found = (await api.read(f"/api/runs/{run_id}/audit"))["entries"]
    times = [entry.pop("at") for entry in found]
    assert times == sorted(times)
    return [entry for entry in found if "subscriber" not in entry["event"]]


async def test_a_run_that_is_done(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(say("Hello")))
    await stream.rest()
    for _ in range(6):  # so that every node is asked
        assert await entries(api, stream.run_id) == [
            *({"event": event} for event in ("accepted", "started", "first_token", "upstream_closed")),
            {"event": "saved", "to": "store", "attempts": 1},
            {"event": "ended", "status": "done", "stop_reason": None},
        ]


async def test_a_run_that_is_stopped(api: Api, models: Models) -> None:
    stream = await api.stream(models.plan(Cue("Hello")))
    await stream.read_text("Hello")
    live = await api.read(f"/api/runs/{stream.run_id}/audit")
    assert (live["run_id"], live["session_id"]) == (stream.run_id, stream.session_id)
    assert (live["status"], live["stop_reason"], live["detached"], live["model"]) == ("streaming", None, True, "m")
    await api.stopped(stream.session_id)
    ended = await api.read(f"/api/runs/{stream.run_id}/audit")
    assert (ended["status"], ended["stop_reason"]) == ("stopped", "user_stop")
    told = await entries(api, stream.run_id)
    assert [entry["event"] for entry in told] == [
        *("accepted", "started", "first_token", "stop_asked", "upstream_closed", "saved", "ended")
    ]
    assert told[3]["by"] == "user"


async def test_a_run_that_is_none(api: Api) -> None:
    assert error(await api.get("/api/runs/run_0123456789/audit")) == (404, "not_found")
