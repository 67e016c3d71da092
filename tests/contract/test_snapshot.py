"""What stands in for frames that are gone: the whole message, and its end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.client import Api, Stream
from tests.fake_upstream import say
from tests.process.models import Models
from tests.process.raw_client import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

SETTINGS = {"replay_grace_s": 0.2}


async def forgotten(api: Api, models: Models) -> Stream:
    """Return the stream of a run whose frames have been freed everywhere."""
    first = await api.stream(models.plan(say("Hello")))
    await first.rest()
    await api.models.all_closed()
    for _ in range(6):  # so that every node is asked

        async def kinds() -> list[str]:
            again = await api.back(first.session_id)
            await again.rest()
            return again.kinds

        await until(kinds, lambda seen: seen == ["snapshot", "ended"])
    return first


async def test_a_snapshot(api: Api, models: Models) -> None:
    first = await forgotten(api, models)
    again = await api.back(first.session_id)
    snapshot, ended, done = await again.rest()
    assert (again.run_id, again.session_id) == (first.run_id, first.session_id)
    answer = await api.answer(first.session_id)
    assert json.loads(snapshot.removeprefix(b"id: %b.snapshot\ndata: " % first.run_id.encode())) == {
        "type": "snapshot",
        **{name: answer[name] for name in ("content", "reasoning", "parts", "status")},
    }
    assert ended.startswith(b"id: %b.end\n" % first.run_id.encode())
    assert without_times(again.payloads[-1]) == without_times(first.payloads[-1])
    assert done == b"data: [DONE]\n\n"


def without_times(ended: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in ended.items() if name != "timings"}


async def test_who_has_seen_it_gets_nothing_more(api: Api, models: Models) -> None:
    first = await forgotten(api, models)
    for last_event_id in (first.last_id, f"{first.run_id}.end"):
        assert await api.back_status(first.session_id, last_event_id) == 204
    for last_event_id in (first.ids[0], f"{first.run_id}.snapshot"):
        again = await api.back(first.session_id, last_event_id)
        await again.rest()
        assert again.kinds == ["snapshot", "ended"]


async def test_a_retried_request_gets_it_too(api: Api, models: Models) -> None:
    first = await forgotten(api, models)
    again = await api.stream("whatever", run_id=first.run_id)
    await again.rest()
    assert (again.kinds, again.payloads[0]["content"]) == (["snapshot", "ended"], "Hello")


async def test_its_status_is_still_told(api: Api, models: Models) -> None:
    first = await forgotten(api, models)
    status = await api.status(first.session_id)
    assert (status["run_id"], status["status"], status["events"]) == (first.run_id, "done", len(first.ids))
    assert status["last_event_id"] == first.last_id
