"""Requests that are too large, broken or of the wrong kind: each has an answer, which is never a 5xx.

What holds for whole JSON bodies is told by `tests/web/test_errors`; here are those no client library would send.
"""

from __future__ import annotations

import json
import zlib
from typing import Any

import pytest

from tests.process.attacks import LEFT_ALONE, error_of, head, replies
from tests.process.models import Models, words
from tests.process.service import Process, Service

SETTINGS: dict[str, Any] = {"max_body_bytes": 100_000, **LEFT_ALONE}

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

CLOSE = "Connection: close"
JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"


def post(body: bytes, *lines: str | bytes, path: str = "/api/sessions") -> bytes:
    return head("POST", path, JSON, f"Content-Length: {len(body)}", *lines, CLOSE, body=body)


def get(*lines: str | bytes, path: str | bytes = "/api/sessions") -> bytes:
    return head("GET", path, *lines, CLOSE)


def title(value: str) -> bytes:
    return b'{"title": %b}' % value.encode()


HEADS: dict[str, tuple[bytes, int]] = {
    "a long path": (get(path="/" + "x" * 100_000), 400),
    "a long query": (get(path="/api/sessions?before=" + "x" * 100_000), 400),
    "a path up to its limit": (get(path="/api/sessions/" + "x" * 8000), 404),
    "a long header": (get("X-A: " + "x" * 100_000), 400),
    "a long name of a header": (get("x" * 100_000 + ": 1"), 400),
    "many headers": (get(*(f"X-{number}: 1" for number in range(10_000))), 400),
    "headers that never end": (b"GET /api/sessions HTTP/1.1\r\n" + b"X-A: b\r\n" * 200_000, 400),
    "a line that never ends": (b"G" * 1_000_000, 400),
    "a long cookie": (get("Cookie: " + "a=b; " * 1500), 200),
    "a broken cookie": (get('Cookie: odysseus_token="\\'), 200),
    "bytes in a header": (get(b"X-A: \x80\xff"), 200),
    "control characters in a header": (get(b"X-A: \x01\x1b[31m"), 400),
    "no host": (b"GET /healthz HTTP/1.1\r\nConnection: close\r\n\r\n", 400),
    "a broken host": (b"GET /healthz HTTP/1.1\r\nHost: [::1\r\nConnection: close\r\n\r\n", 200),
    "a method of its own": (head("BREW", "/api/sessions", CLOSE), 400),
    "a method in lower case": (head("get", "/api/sessions", CLOSE), 400),
    "a trace": (head("TRACE", "/api/sessions", "Cookie: a=sesame", CLOSE), 405),
    "a path without a slash": (head("GET", "api/sessions", CLOSE), 400),
    "any path": (head("OPTIONS", "*", CLOSE), 404),
    "no version, as in HTTP/0.9": (b"GET /api/sessions\r\n\r\n", 200),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 100, 400),
    "a limit past all": (get(path="/api/sessions?limit=" + "9" * 5000), 422),
    "a limit in other digits": (get(path="/api/sessions?limit=%D9%A3"), 422),
    "a limit twice": (get(path="/api/sessions?limit=1&limit=x"), 200),
    "an encoding nobody knows": (post(b"{}", "Content-Encoding: sesame"), 201),
    "an expectation nobody knows": (post(b"{}", "Expect: miracles"), 417),
    "a range": (get("Range: bytes=0-0"), 200),
    "a last event id of many lines": (get("Last-Event-ID: " + "\u2028x" * 100, path="/api/chat/resume/x"), 404),
}  # fmt: skip

BODIES: dict[str, tuple[bytes, int]] = {
    "deep lists": (post(b'{"title": ' + b"[" * 45_000 + b"]" * 45_000 + b"}"), 400),
    "deep objects": (post(b'{"title": ' * 9_000 + b"1" + b"}" * 9_000), 400),
    "lists as deep as is read": (post(b'{"title": ' + b"[" * 900 + b"]" * 900 + b"}"), 422),
    "a huge number": (post(title("1" * 90_000)), 400),
    "a huge exponent": (post(title("1e99999")), 400),
    "a number past 64 bits": (post(b'{"message": "Hi", "max_tokens": %d}' % 2**70, path="/api/chat_stream"), 422),
    "a float as a count": (post(b'{"message": "Hi", "max_tokens": 1.0}', path="/api/chat_stream"), 422),
    "minus zero": (post(b'{"message": "Hi", "max_tokens": -0}', path="/api/chat_stream"), 422),
    "infinity": (post(b'{"message": "Hi", "temperature": Infinity}', path="/api/chat_stream"), 400),
    "one field twice": (post(b'{"title": "a", "title": 1}'), 422),
    "many fields": (post(json.dumps({f"f{number}": number for number in range(5000)}).encode()), 422),
    "a field of the prototype": (post(b'{"__proto__": {"title": "x"}}'), 422),
    "a field of the class": (post(b'{"__class__": "x", "model_config": {}}'), 422),
    "bytes that aren't UTF-8": (post(b'{"title": "\xff\xfe"}'), 400),
    "an overlong character": (post(b'{"title": "\xc0\xaf"}'), 400),
    "a surrogate in UTF-8": (post(b'{"title": "\xed\xa0\x80"}'), 400),
    "a lone surrogate": (post(title('"\\udc00"')), 400),
    "a NUL": (post(title('"a\\u0000b"')), 422),
    "a line end in a string": (post(b'{"title": "a\r\nb"}'), 400),
    "escapes for a terminal": (post(title('"\\u001b[31m"')), 201),
    "two objects": (post(b"{}{}"), 400),
    "a comment": (post(b"{} // x"), 400),
    "nothing": (post(b""), 400),
    "a list of objects": (post(b"[{}]"), 422),
    "a body up to its limit": (post(b" " * 99_998 + b"{}"), 201),
    "a body past its limit": (post(b" " * 99_999 + b"{}"), 413),
    "a body far past its limit": (post(b" " * 5_000_000 + b"{}"), 413),
    "chunks past its limit": (
        head("POST", "/api/sessions", JSON, CHUNKED, CLOSE, body=b"186a1\r\n" + b" " * 100_001 + b"\r\n0\r\n\r\n"),
        413),
    "many small chunks past its limit": (
        head("POST", "/api/sessions", JSON, CHUNKED, CLOSE, body=b"1\r\n \r\n" * 100_001 + b"0\r\n\r\n"), 413),
    "a bomb": (post(zlib.compress(b" " * 90_000_000), "Content-Encoding: deflate"), 413),
    "a bomb in a bomb": (
        post(zlib.compress(zlib.compress(b" " * 90_000_000)), "Content-Encoding: deflate, deflate"), 400),
    "half of what is compressed": (post(zlib.compress(b'{"title": "x"}')[:-6], "Content-Encoding: deflate"), 400),
    "a form of parts": (
        head("POST", "/api/sessions", "Content-Type: multipart/form-data; boundary=x", "Content-Length: 2", CLOSE,
             body=b"{}"), 415),
    "two kinds": (post(b"{}", "Content-Type: text/plain"), 400),
    "a kind without an end": (
        head("POST", "/api/sessions", 'Content-Type: application/json; charset="', "Content-Length: 2", CLOSE,
             body=b"{}"), 201),
    "a charset nobody knows": (
        head("POST", "/api/sessions", "Content-Type: application/json; charset=sesame", "Content-Length: 2", CLOSE,
             body=b"{}"), 201),
}  # fmt: skip

ROWS = HEADS | BODIES


@pytest.mark.parametrize("row", ROWS)
async def test_a_bad_request(service: Process, row: str) -> None:
    data, status = ROWS[row]
    before = service.rss_bytes
    answers = await replies(service, data)
    assert [answer.status for answer in answers] == [status], answers
    [answer] = answers
    told = answer.body.lower()
    assert not any(word in told for word in (b"traceback", b"<html", b".py", b"sesame", b"pydantic"))
    if status >= 400 and answer.headers["content-type"].startswith("application/json"):
        assert set(error_of(answer.body)) <= {"code", "message", "field"}
    assert service.rss_bytes - before < 50e6
    assert not service.faults, "\n".join(service.faults)


async def test_a_length_past_its_limit_and_little_behind_it(service: Service) -> None:
    """It is refused as soon as too much has come; the rest of it isn't waited for."""
    async with await service.connect() as client:
        await client.send(head("POST", "/api/sessions", JSON, "Content-Length: 99999999999", body=b" " * 100_001))
        assert await client.read_head() == 413


async def test_a_field_twice_is_read_as_the_last(service: Service) -> None:
    """What a proxy checks and what we take may be two things; it is one of them, whole, and never a mixture."""
    [answer] = await replies(service, post(b'{"title": "first", "title": "last"}'))
    assert json.loads(answer.body)["title"] == "last"


async def test_letters_that_look_alike_stay_what_they_are(service: Service, models: Models) -> None:
    """Nothing is normalised: two titles, and two sessions' texts, that look alike are two."""
    composed, decomposed = "caf\u00e9 \u212b", "cafe\u0301 \u00c5"
    for text in (composed, decomposed):
        made = await service.post("/api/sessions", {"title": text, "system": text})
        assert (made.json["title"], made.json["system"]) == (text, text)
    script, said = words(2)
    client = await service.chat(models.plan(script), run_id="run-of-its-own")
    await client.read_all()
    assert client.text == said
    for other in ("RUN-OF-ITS-OWN", "run-of-its-own1"):
        stopped = await service.stop(client.session_id, X_Odysseus_Run_Id=other)
        assert stopped.json == {"stopped": False}
