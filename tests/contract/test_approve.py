"""A tool call that waits for approval is decided once, by whoever comes first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.contract.client import Api, Stream, error
from tests.fake_upstream import in_turn, say, wants
from tests.process.models import Models
from tests.process.raw_client import until
from tests.process.service import Answer

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

WAITING = {"call_id": "c1", "name": "current_time", "arguments": {}}


async def waiting(api: Api, models: Models) -> Stream:
    """Return the stream of a run whose call waits."""
    script = in_turn(wants(("c1", "current_time", "{}")), say("Well"))
    stream = await api.stream(models.plan(script), mode="agent")
    assert await stream.until("approval_request") == {"type": "approval_request", **WAITING}
    return stream


async def decide(api: Api, session_id: str, decision: str, call_id: str = "c1", **fields: Any) -> Answer:
    return await api.post(f"/api/chat/approve/{session_id}", {"call_id": call_id, "decision": decision, **fields})


def result(stream: Stream) -> dict[str, Any]:
    [result] = [payload for payload in stream.payloads if payload["type"] == "tool_result"]
    return result


async def test_allow(api: Api, models: Models) -> None:
    stream = await waiting(api, models)
    answer = await decide(api, stream.session_id, "allow")
    assert (answer.status, answer.json) == (200, {"call_id": "c1", "decision": "allow"})
    assert await stream.ending() == ("done", None)
    assert (result(stream)["is_error"], stream.text) == (False, "Well")


@pytest.mark.parametrize(("fields", "told"), [({}, "denied by the user"), ({"reason": "no"}, "denied: no")])
async def test_deny(api: Api, models: Models, fields: dict[str, str], told: str) -> None:
    stream = await waiting(api, models)
    assert (await decide(api, stream.session_id, "deny", **fields)).status == 200
    assert await stream.ending() == ("done", None)
    assert (result(stream)["is_error"], result(stream)["output"]) == (True, told)


async def test_it_waits_whoever_watches(api: Api, models: Models) -> None:
    stream = await waiting(api, models)
    stream.close()
    status = await until(lambda: api.status(stream.session_id), lambda seen: seen["approvals"])
    assert status["approvals"] == [WAITING]
    again = await api.back(stream.session_id)
    await again.until("approval_request")
    await decide(api, stream.session_id, "allow")
    assert await again.ending() == ("done", None)
    assert (await api.status(stream.session_id))["approvals"] == []


async def test_decided_once(api: Api, models: Models) -> None:
    stream = await waiting(api, models)
    answers = await asyncio.gather(*(decide(api, stream.session_id, which) for which in ("allow", "deny", "allow")))
    assert sorted(answer.status for answer in answers) == [200, 409, 409]
    [decision] = [answer.json["decision"] for answer in answers if answer.status == 200]
    await stream.rest()
    assert result(stream)["is_error"] == (decision == "deny")
    assert error(await decide(api, stream.session_id, "allow")) == (409, "already_decided")


async def test_a_call_that_is_none(api: Api, models: Models) -> None:
    stream = await waiting(api, models)
    for session_id, call_id in ((stream.session_id, "c2"), ("ses_0123456789", "c1"), (await api.session(), "c1")):
        assert error(await decide(api, session_id, "allow", call_id)) == (404, "not_found")
    assert error(await decide(api, stream.session_id, "maybe")) == (422, "invalid_field")
    assert (await api.status(stream.session_id))["approvals"] == [WAITING]
    await api.stopped(stream.session_id)


async def test_a_stop_ends_the_wait(api: Api, models: Models) -> None:
    stream = await waiting(api, models)
    assert (await api.stopped(stream.session_id))["status"] == "stopped"
    assert await stream.ending() == ("stopped", "user_stop")
    assert result(stream)["output"] == "stopped"
    assert error(await decide(api, stream.session_id, "allow")) == (409, "already_decided")
