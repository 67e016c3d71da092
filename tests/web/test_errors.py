"""What is answered to what can't be done: always JSON, never the inside, and never a 500 for bad input."""

from __future__ import annotations

import asyncio
import gzip
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from odysseus.web.routes import SERVICE
from tests.fake_upstream import FakeUpstream, say, silent
from tests.waiting import soon, until
from tests.web.conftest import Answer, Serve, Service

JSON = {"Content-Type": "application/json"}
POSTS = ["/api/chat_stream", "/api/compare", "/api/sessions"]


def check(answer: Answer, status: int, code: str, field: str | None = None) -> None:
    """What holds for every error."""
    assert (answer.status, answer.error["code"]) == (status, code), answer.body
    assert answer.error.get("field") == field
    assert set(answer.error) - {"field", "run_id"} == {"code", "message"}
    assert answer.error["message"] and "\n" not in answer.error["message"]
    told = orjson.dumps(answer.body).lower()
    assert not any(word in told for word in (b"traceback", b"<html", b".py", b"sqlalchemy", b"pydantic", b"sqlite"))
    assert ("Retry-After" in answer.headers) == (status in (429, 503))
    assert answer.headers["Cache-Control"] == "no-store"


async def untouched(service: Service, upstream: FakeUpstream) -> None:
    assert await service.get("/api/sessions") == {"sessions": []}
    assert (upstream.exchanges, service.app[SERVICE].runs.all()) == ([], ())


# Paths and methods


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/", "/api/nothing", "/nothing", "/api/chat_stream/", "/api/sessions/a/b", "/api/chat/resume/", "/%00",
     "/api/sessions/", "/api/../api/sessions2", "/\u00e4"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS"])
async def test_no_such_path(service: Service, method: str, path: str) -> None:
    answer = await service.call(method, path, headers={"Accept": "text/html"})
    assert answer.status == 404
    if method != "HEAD":
        check(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/chat_stream", "POST"),
        ("HEAD", "/api/chat_stream", "POST"),
        ("POST", "/api/chat/resume/{id}", "GET"),
        ("GET", "/api/chat/stop/{id}", "POST"),
        ("DELETE", "/api/chat/stream_status/{id}", "GET, HEAD"),
        ("PUT", "/api/compare", "GET, HEAD, POST"),
        ("GET", "/api/compare/cmp_1/vote", "POST"),
        ("POST", "/api/compare/cmp_1", "GET, HEAD"),
        ("POST", "/api/compare/cmp_1/0", "GET"),
        ("PUT", "/api/sessions", "GET, HEAD, POST"),
        ("POST", "/api/sessions/{id}", "DELETE, GET, HEAD, PATCH"),
        ("OPTIONS", "/api/sessions", "GET, HEAD, POST"),
        ("POST", "/api/models", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PUT", "/metrics", "GET, HEAD"),
    ],
)
async def test_another_method(service: Service, method: str, path: str, allowed: str) -> None:
    answer = await service.call(method, path.format(id="ses_1"))
    assert (answer.status, answer.headers["Allow"]) == (405, allowed)
    if method != "HEAD":
        check(answer, 405, "method_not_allowed")


async def test_head_never_starts_a_stream(service: Service, upstream: FakeUpstream) -> None:
    made = await service.compare("m", "n")
    session_id = made["panes"][0]["session_id"]
    for path in (made["panes"][0]["stream"], f"/api/chat/resume/{session_id}", "/api/chat_stream"):
        assert (await service.call("HEAD", path)).status == 405
    await untouched(service, upstream)
    assert await (await service.open("GET", made["panes"][0]["stream"])).text() == "Hello world"
    for path in ("/api/sessions", "/api/models", "/healthz", "/openapi.json", f"/api/sessions/{session_id}"):
        head, get = await service.call("HEAD", path), await service.call("GET", path)
        assert (head.status, head.body, head.headers["Content-Type"]) == (200, b"", get.headers["Content-Type"])


# Bodies


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
@pytest.mark.parametrize("path", POSTS)
async def test_not_json_by_its_type(service: Service, upstream: FakeUpstream, path: str, content_type: str) -> None:
    answer = await service.call("POST", path, data=b'{"message": "Hi"}', headers={"Content-Type": content_type})
    check(answer, 415, "not_json")
    await untouched(service, upstream)


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"])
async def test_json_by_its_type(service: Service, content_type: str) -> None:
    answer = await service.call("POST", "/api/sessions", data=b"{}", headers={"Content-Type": content_type})
    assert answer.status == 201


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{'message': 'Hi'}", b'{"message": "Hi"} x', b'{"message": NaN}', b"\xff", b'{"message": "\xff"}',
     b'{"message": "a\nb"}', b"\xef\xbb\xbf{}", '{"message": "Hi"}'.encode("utf-16"), b"[" * 100_000,
     b'{"message": "\\ud800"}', b'{"message": "\\udc00\\ud800"}'],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
@pytest.mark.parametrize("path", POSTS)
async def test_not_json(service: Service, upstream: FakeUpstream, path: str, body: bytes) -> None:
    check(await service.call("POST", path, data=body, headers=JSON), 400, "bad_request")
    await untouched(service, upstream)


@pytest.mark.parametrize("body", [b"[]", b"null", b'"message"', b"1", b"true", b'[{"message": "Hi"}]'])
@pytest.mark.parametrize("path", POSTS)
async def test_not_an_object(service: Service, upstream: FakeUpstream, path: str, body: bytes) -> None:
    check(await service.call("POST", path, data=body, headers=JSON), 422, "invalid_field")
    await untouched(service, upstream)


WRONG: list[tuple[str, Any]] = [
    *(("message", value) for value in ("", None, 1, [], {"text": "Hi"}, "x" * 200_001, "\0", "a\0b")),
    *(("session_id", value) for value in ("", 1, [], "a\0", "x" * 101)),
    *(("model", value) for value in ("", "x", "M", 1, "m\0", "x" * 201)),
    *(("mode", value) for value in ("", "CHAT", None, 1, "compare")),
    *(("compare_mode", value) for value in ("true", 1, None)),
    *(("system", value) for value in (1, "a\0b", "x" * 200_001)),
    *(("temperature", value) for value in ("1", -0.1, 2.1, True)),
    *(("max_tokens", value) for value in ("1", 0, -1, 1.5, True)),
    *(("if_busy", value) for value in ("", "wait", None, 1)),
    *(("run_id", value) for value in ("", "short-1", "x" * 65, "a space", "dots.dots", "\u00e4" * 8, "run-1234\n", 1)),
    *((name, 1) for name in ("Message", "stream", "messages", "user", "")),
]  # fmt: skip


@pytest.mark.parametrize(("field", "value"), WRONG, ids=lambda value: repr(value)[:24])
async def test_a_bad_field_is_named(service: Service, upstream: FakeUpstream, field: str, value: Any) -> None:
    answer = await service.call("POST", "/api/chat_stream", {"message": "Hi"} | {field: value})
    check(answer, 422, "invalid_field", field)
    await untouched(service, upstream)


async def test_a_message_is_required(service: Service) -> None:
    check(await service.call("POST", "/api/chat_stream", {}), 422, "invalid_field", "message")


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "x" * 200_000},
        {"message": "\U0001f6a2" * 200_000},
        {"message": " "},
        {"temperature": 0},
        {"temperature": 2.0, "max_tokens": 1},
        {"run_id": "A-_4567z"},
        {"run_id": "x" * 64},
        dict.fromkeys(("session_id", "model", "system", "temperature", "max_tokens", "run_id")),
    ],
    ids=lambda fields: repr(fields)[:24],
)
async def test_fields_at_their_limits(service: Service, fields: dict[str, Any]) -> None:
    assert await (await service.chat(**{"message": "Hi"} | fields)).text() == "Hello world"


@pytest.mark.parametrize(
    ("method", "field", "value"),
    [
        (method, field, value)
        for method in ("POST", "PATCH")
        for field, value in (
            ("title", 1), ("title", "x" * 201), ("title", "a\0"), ("model", "x"), ("model", ""), ("system", []),
            ("id", "ses_1"), ("messages", []),
        )
    ],
)  # fmt: skip
async def test_a_bad_field_of_a_session(service: Service, method: str, field: str, value: Any) -> None:
    session = (await service.call("POST", "/api/sessions", {"title": "T"})).body
    path = "/api/sessions" if method == "POST" else f"/api/sessions/{session['id']}"
    check(await service.call(method, path, {field: value}), 422, "invalid_field", field)
    assert (await service.get("/api/sessions"))["sessions"] == [session]


@pytest.mark.parametrize(("size", "fits"), [(1000, True), (1001, False), (200_000, False)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large(serve: Serve, size: int, fits: bool, chunked: bool) -> None:
    service = await serve(max_body_bytes=1000)
    body = orjson.dumps({"message": ""})[:-2]
    body += b"x" * (size - len(body) - 2) + b'"}'

    async def parts() -> Any:
        for at in range(0, len(body), 999):
            yield body[at : at + 999]

    answer = await service.call("POST", "/api/chat_stream", data=parts() if chunked else body, headers=JSON)
    if fits:
        assert answer.status == 200
    else:
        check(answer, 413, "too_large")
    assert len((await service.get("/api/sessions"))["sessions"]) == fits


async def test_compressed_bodies(service: Service) -> None:
    headers = JSON | {"Content-Encoding": "gzip"}
    good = await service.call("POST", "/api/sessions", data=gzip.compress(b'{"title": "T"}'), headers=headers)
    assert (good.status, good.body["title"]) == (201, "T")
    bomb = gzip.compress(b" " * 100 * 1024 * 1024)
    check(await service.call("POST", "/api/sessions", data=bomb, headers=headers), 413, "too_large")


async def test_a_body_that_only_says_it_is_compressed(service: Service) -> None:
    headers = JSON | {"Content-Encoding": "gzip"}
    check(await service.call("POST", "/api/sessions", data=b'{"title": "T"}', headers=headers), 400, "bad_request")


@pytest.mark.parametrize("rest", [b"", b"1", b"x\r\n"], ids=["nothing", "half a size", "a bad size"])
async def test_a_body_that_doesnt_come(service: Service, monkeypatch: pytest.MonkeyPatch, rest: bytes) -> None:
    monkeypatch.setattr("odysseus.web.errors._BODY_S", 0.3)
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(b"POST /api/sessions HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    await asyncio.sleep(0.05)  # its handler waits for the body by then
    writer.write(rest)
    answer = await soon(reader.readuntil(b"}}"))
    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ") and b'"code":"body_too_slow"' in answer


# Limits of the service


async def test_too_many_runs(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = silent
    service = await serve(max_runs=2)
    made = await service.compare("m", "n")
    runs = [await service.accepted() for _ in range(2)]
    for method, path, body in (
        ("POST", "/api/chat_stream", {"message": "Hi"}),
        ("POST", "/api/chat_stream", {"message": "Hi", "compare_mode": True}),
        ("GET", made["panes"][0]["stream"], None),
    ):
        check(await service.call(method, path, body), 503, "too_many_runs")
    assert len((await service.get("/api/sessions"))["sessions"]) == 2
    await service.stop(runs[0]["session_id"])
    upstream.script = say("Hi")
    assert await (await service.open("GET", made["panes"][0]["stream"])).text() == "Hi", "it wasn't claimed"


async def test_too_many_subscribers(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    service = await serve(max_subscribers=2)
    streams = [await service.chat(), await service.chat()]
    check(await service.call("GET", f"/api/chat/resume/{streams[0].session_id}"), 503, "too_many_subscribers")
    streams[1].leave()
    await until(lambda: service.app[SERVICE].runs.subscribers == 1)
    again = await service.resume(streams[1].session_id)
    await again.said("Hi")


async def test_a_run_that_nobody_can_watch_is_accepted_all_the_same(serve: Serve, upstream: FakeUpstream) -> None:
    """The message is stored and the run goes on; a retry with its id joins it as soon as there is room."""
    upstream.script = say("Hi", done=False)
    service = await serve(max_subscribers=1)
    stream = await service.chat()
    body = {"message": "2", "run_id": "my-run-1"}
    check(await service.call("POST", "/api/chat_stream", body), 503, "too_many_subscribers")
    stream.leave()
    await until(lambda: service.app[SERVICE].runs.subscribers == 0)
    joined = await service.chat("2", run_id="my-run-1")
    await joined.said("Hi")
    assert len(upstream.exchanges) == 2


async def test_the_store_fails(service: Service, tmp_path: Path, upstream: FakeUpstream) -> None:
    """Nothing is accepted then, and nothing of the database's words is told."""
    session = (await service.call("POST", "/api/sessions", {})).body["id"]
    with closing(sqlite3.connect(tmp_path / "data" / "odysseus.db")) as database:
        database.execute("ALTER TABLE messages RENAME TO elsewhere")
        for method, path, body in (
            ("POST", "/api/chat_stream", {"message": "Hi"}),
            ("POST", "/api/chat_stream", {"message": "Hi", "compare_mode": True}),
            ("POST", "/api/chat_stream", {"message": "Hi", "run_id": "my-run-1"}),
            ("GET", f"/api/sessions/{session}", None),
            ("GET", f"/api/chat/resume/{session}", None),
        ):
            check(await service.call(method, path, body), 503, "store_unavailable")
        assert (upstream.exchanges, service.app[SERVICE].runs.all()) == ([], ())
        database.execute("ALTER TABLE elsewhere RENAME TO messages")
    assert await (await service.chat(run_id="my-run-1")).text() == "Hello world"
    assert len((await service.get("/api/sessions"))["sessions"]) == 2


@pytest.mark.parametrize(
    "request_text",
    [
        b"nonsense\r\n\r\n",
        b"GET /api/sessions HTTP/9.9\r\n\r\n",
        b"GET /api/sessions HTTP/1.1\r\nHost: h\r\nBad header\r\n\r\n",
        b"POST /api/sessions HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    ],
    ids=lambda text: repr(text[:40]),
)
async def test_what_is_not_http(service: Service, request_text: bytes) -> None:
    reader, writer = await asyncio.open_connection(service.client.host, service.client.port)
    writer.write(request_text)
    answer = (await soon(reader.read())).lower()
    writer.close()
    assert answer.startswith(b"http/1.") and b" 4" in answer[:12]
    assert b"<html" not in answer and b"traceback" not in answer and b".py" not in answer
