"""Limits that are hit, over HTTP: each answers with its status and code, and says in words which one it is."""

from __future__ import annotations

import pytest

from tests.fake_upstream import FakeUpstream, say
from tests.web.conftest import Answer, Serve
from tests.web.test_accounts import SECRET, bearer
from tests.web.test_ops import metrics


def refusal(answer: Answer) -> tuple[int, str, str]:
    assert int(answer.headers["Retry-After"]) > 0
    return answer.status, answer.error["code"], answer.error["message"]


async def test_requests_per_minute(serve: Serve) -> None:
    service = await serve(auth="jwt", auth_jwt_secret=SECRET, requests_per_minute=2)
    for _ in range(2):
        assert (await service.call("GET", "/api/sessions", headers=bearer("ann"))).status == 200
    for method, path in (("GET", "/api/sessions"), ("POST", "/api/chat_stream"), ("GET", "/api/chat/resume/ses_1")):
        answer = await service.call(method, path, headers=bearer("ann"))
        words = "your account may send 2 requests a minute; try again when Retry-After says"
        assert refusal(answer) == (429, "too_many_requests", words)
        assert answer.headers["Retry-After"] in ("29", "30")  # one in half a minute, and it was just now
    assert (await service.call("GET", "/api/sessions", headers=bearer("bob"))).status == 200


async def test_what_is_not_counted(serve: Serve) -> None:
    """Whatever asks nobody who they are, and requests that nobody is let in with."""
    service = await serve(auth="jwt", auth_jwt_secret=SECRET, requests_per_minute=1)
    for _ in range(3):
        assert (await service.call("GET", "/healthz", headers=bearer("ann"))).status == 200
        assert (await service.call("GET", "/api/sessions")).status == 401
    assert (await service.call("GET", "/api/sessions", headers=bearer("ann"))).status == 200
    assert (await service.call("GET", "/api/sessions", headers=bearer("ann"))).status == 429
    assert (await service.call("GET", "/healthz", headers=bearer("ann"))).status == 200


async def test_without_accounts_nobody_is_counted(serve: Serve) -> None:
    service = await serve(requests_per_minute=1)
    for _ in range(5):
        assert (await service.call("GET", "/api/sessions")).status == 200


async def test_runs_in_line(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = say("Hello", done=False)
    service = await serve(max_queued=2)
    session = (await service.accepted())["session_id"]
    again = {"message": "Hi", "session_id": session, "if_busy": "queue"}
    for _ in range(2):
        await service.accepted(**again)
    full = await service.call("POST", "/api/chat_stream", again)
    assert refusal(full) == (429, "too_many_queued_runs", "the session already has 2 queued runs; try again soon")
    await service.accepted()  # in a session of its own
    await service.stop(session)
    await service.accepted(**again)


@pytest.mark.parametrize("way", ["resume", "join"])
async def test_subscribers_of_a_run(serve: Serve, upstream: FakeUpstream, way: str) -> None:
    upstream.script = say("Hello", done=False)
    service = await serve(max_subscribers_per_run=2)
    first = await service.chat(run_id="the-run-1")
    second = await service.resume(first.session_id)
    for stream in (first, second):
        await stream.said("Hello")
    if way == "resume":
        full = await service.call("GET", f"/api/chat/resume/{first.session_id}")
    else:
        again = {"message": "Hi", "session_id": first.session_id, "run_id": "the-run-1"}
        full = await service.call("POST", "/api/chat_stream", again)
    assert refusal(full) == (429, "too_many_subscribers", "the run already has 2 subscribers; try again soon")
    other = await service.chat()  # of another run
    await other.said("Hello")
    for stream in (first, other):
        await service.stop(stream.session_id)
        assert await stream.ended() == ("stopped", "user_stop")
    assert await second.ended() == ("stopped", "user_stop")


async def test_refusals_are_counted(serve: Serve, upstream: FakeUpstream) -> None:
    """By their codes, and nothing else is."""
    upstream.script = say("Hello", done=False)
    service = await serve(max_runs=1, max_body_bytes=1000)
    session = (await service.accepted())["session_id"]
    for status, body in ((503, {"message": "Hi"}), (503, {"message": "Hi"}), (413, {"message": "x" * 1000})):
        assert (await service.call("POST", "/api/chat_stream", body)).status == status
    assert (await service.call("POST", "/api/chat_stream", {"message": "Hi", "session_id": session})).status == 409
    refused = {key[1]: value for key, value in (await metrics(service)).items() if key[0] == "odysseus_refused_total"}
    refused = {code: count for code, count in refused.items() if count}
    assert refused == {"too_many_runs": 2, "too_large": 1}
