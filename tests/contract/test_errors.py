"""What is asked wrongly is answered the same everywhere: a status, a code, and never a traceback."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.client import Api, error

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="session")]

NONE = "ses_0123456789"
UNKNOWN: list[tuple[str, str, Any]] = [
    ("GET", f"/api/sessions/{NONE}", None),
    ("PATCH", f"/api/sessions/{NONE}", {"title": "Ships"}),
    ("DELETE", f"/api/sessions/{NONE}", None),
    ("GET", f"/api/sessions?before={NONE}", None),
    ("POST", "/api/chat_stream", {"message": "Hi", "session_id": NONE}),
    ("POST", "/api/chat_stream", {"message": "Hi", "session_id": NONE, "compare_mode": True}),
    ("POST", "/api/chat_stream", {"message": "Hi", "session_id": NONE, "if_busy": "queue", "run_id": "run-01234567"}),
    ("GET", f"/api/chat/resume/{NONE}", None),
    ("GET", f"/api/chat/stream_status/{NONE}", None),
    ("POST", f"/api/chat/stop/{NONE}", None),
    ("POST", f"/api/chat/approve/{NONE}", {"call_id": "c1", "decision": "allow"}),
    ("POST", f"/api/chat/share/{NONE}", {}),
]


@pytest.mark.parametrize(("method", "path", "body"), UNKNOWN)
async def test_a_session_that_is_none(api: Api, method: str, path: str, body: Any) -> None:
    assert error(await api.call(method, path, body)) == (404, "not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": 5}, "message"),
        ({"message": "Hi", "model": "o"}, "model"),
        ({"message": "Hi", "mode": "think"}, "mode"),
        ({"message": "Hi", "if_busy": "wait"}, "if_busy"),
        ({"message": "Hi", "run_id": "short"}, "run_id"),
        ({"message": "Hi", "temprature": 1}, "temprature"),
    ],
)
async def test_a_wrong_field(api: Api, body: Any, field: str) -> None:
    answer = await api.post("/api/chat_stream", body)
    assert error(answer) == (422, "invalid_field")
    assert answer.json["error"]["field"] == field


async def test_what_is_no_json(api: Api) -> None:
    assert error(await api.post("/api/chat_stream", b"{")) == (400, "bad_request")
    assert error(await api.call("PUT", "/api/chat_stream")) == (405, "method_not_allowed")
    assert error(await api.get("/api/nothing")) == (404, "not_found")


async def test_a_compare_as_json(api: Api) -> None:
    assert error(await api.ask("Hi", compare_mode=True)) == (406, "not_acceptable")
