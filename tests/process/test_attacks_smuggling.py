"""Requests that a proxy in front may cut elsewhere than we do: what is hidden in one never becomes the next's answer.

Each row is sent in one piece with the next user's request behind it, as a proxy does that keeps its connections. What
is smuggled asks for `/smuggled`, which is 404; the next user asks for `/readyz`, which is 200. A refused request is
the last one of its connection: nobody knows where it ends.
"""

from __future__ import annotations

import pytest

from tests.process.attacks import LEFT_ALONE, NEXT, head, replies
from tests.process.models import Models
from tests.process.raw_client import until
from tests.process.service import Process, Service

SETTINGS = LEFT_ALONE

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("service", ["app.py", "gunicorn"], indirect=True, scope="module"),
]

JSON = "Content-Type: application/json"
CHUNKED = "Transfer-Encoding: chunked"
EMPTY = b"2\r\n{}\r\n0\r\n\r\n"  # a body in chunks: `{}`, which makes a session
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: odysseus\r\n\r\n"
LENGTH = f"Content-Length: {len(EMPTY + SMUGGLED)}"

REFUSED = [400]
MADE = [201, 200]


def post(*lines: str | bytes, body: bytes = EMPTY + SMUGGLED) -> bytes:
    return head("POST", "/api/sessions", JSON, *lines, body=body)


ROWS: dict[str, tuple[bytes, list[int]]] = {
    "good: a length": (post("Content-Length: 2", body=b"{}"), MADE),
    "good: chunks": (post(CHUNKED, body=EMPTY), MADE),
    "good: chunks, by any case": (post("transfer-ENCODING: Chunked", body=EMPTY), MADE),
    # Two lengths
    "a length, then chunks": (post(LENGTH, CHUNKED), REFUSED),
    "chunks, then a length": (post(CHUNKED, LENGTH), REFUSED),
    "chunks and a length of nothing": (post(CHUNKED, "Content-Length: 0"), REFUSED),
    "two lengths": (post("Content-Length: 0", LENGTH), REFUSED),
    "two lengths that agree": (post(LENGTH, LENGTH), REFUSED),
    "two lengths in a list": (post("Content-Length: 0, 44"), REFUSED),
    "a length with a sign": (post("Content-Length: +2"), REFUSED),
    "a negative length": (post("Content-Length: -1"), REFUSED),
    "a length in hexadecimal": (post("Content-Length: 0x2"), REFUSED),
    "a length with an underscore": (post("Content-Length: 1_0"), REFUSED),
    "a length in other digits": (post("Content-Length: \u0662"), REFUSED),
    "a length past 64 bits": (post(f"Content-Length: {2**64 + 2}"), REFUSED),
    "an empty length": (post("Content-Length:"), REFUSED),
    "a length before a space": (post("Content-Length : 2"), REFUSED),
    # Encodings
    "chunks, twice": (post(CHUNKED, CHUNKED), REFUSED),
    "chunks, twice in a list": (post("Transfer-Encoding: chunked, chunked"), REFUSED),
    "chunks, then the body as it is": (post("Transfer-Encoding: chunked, identity"), REFUSED),
    "the body as it is": (post("Transfer-Encoding: identity"), REFUSED),
    "almost chunks": (post("Transfer-Encoding: xchunked"), REFUSED),
    "chunks with a parameter": (post("Transfer-Encoding: chunked;q=1"), REFUSED),
    "chunks in quotes": (post('Transfer-Encoding: "chunked"'), REFUSED),
    "chunks behind a vertical tab": (post(b"Transfer-Encoding: \x0bchunked"), REFUSED),
    "chunks before a space": (post("Transfer-Encoding : chunked"), REFUSED),
    "chunks behind a NUL": (post(b"Transfer-Encoding: \0chunked"), REFUSED),
    "chunks by an underscore": (post("Transfer_Encoding: chunked", "Content-Length: 2", body=b"{}"), MADE),
    "chunks in HTTP/1.0": (post(CHUNKED).replace(b"HTTP/1.1", b"HTTP/1.0", 1), REFUSED),
    # Line ends
    "a folded header": (post("X-A: b", " Transfer-Encoding: chunked"), REFUSED),
    "a folded encoding": (post("Transfer-Encoding:", " chunked"), REFUSED),
    "a header that begins with a tab": (post("\tTransfer-Encoding: chunked"), REFUSED),
    "a bare CR in a header": (post(b"X-A: b\rTransfer-Encoding: chunked"), REFUSED),
    "a bare LF in a header": (post(b"X-A: b\nTransfer-Encoding: chunked"), REFUSED),
    "bare LFs all over": (post(CHUNKED).replace(b"\r\n", b"\n"), REFUSED),
    "a header without a colon": (post("Transfer-Encoding chunked"), REFUSED),
    "a header without a name": (post(": chunked"), REFUSED),
    "a NUL in a header": (post(b"X-A: b\0c"), REFUSED),
    "two hosts": (post("Host: elsewhere", "Content-Length: 2", body=b"{}"), REFUSED),
    # Chunks
    "an extension": (post(CHUNKED, body=b"2;a=b\r\n{}\r\n0\r\n\r\n"), MADE),
    "an extension with a bare LF": (post(CHUNKED, body=b"2;\nx\r\n{}\r\n0\r\n\r\n" + SMUGGLED), REFUSED),
    "an extension without an end": (post(CHUNKED, body=b"2;" + b"x" * 1000), REFUSED),
    "a chunk's size with a sign": (post(CHUNKED, body=b"+2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "a negative size": (post(CHUNKED, body=b"-2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "a size with 0x": (post(CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "a size with a space before": (post(CHUNKED, body=b" 2\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "a size past 64 bits": (post(CHUNKED, body=b"10000000000000002\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "no size": (post(CHUNKED, body=b"\r\n{}\r\n0\r\n\r\n"), REFUSED),
    "a size with a bare LF": (post(CHUNKED, body=b"2\n{}\r\n0\r\n\r\n" + SMUGGLED), REFUSED),
    "a chunk longer than its size": (post(CHUNKED, body=b"2\r\n{}  \r\n0\r\n\r\n" + SMUGGLED), REFUSED),
    "the last chunk with a bare LF": (post(CHUNKED, body=b"2\r\n{}\r\n0\n\n" + SMUGGLED), REFUSED),
    "a length among the trailers": (post(CHUNKED, body=b"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\n"), REFUSED),
    # Bodies where none belong
    "a GET with a body": (head("GET", "/api/sessions", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), [200, 200]),
    "a body for what isn't there": (head("POST", "/no", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), [404, 200]),
    "a body that nobody is let read": (
        head("POST", "/healthz", f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED), [405, 200]),
    "a preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", REFUSED),
    "a tunnel": (b"CONNECT elsewhere:80 HTTP/1.1\r\nHost: elsewhere:80\r\n\r\n" + SMUGGLED, [404, 404, 200]),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
async def test_what_is_smuggled_is_nobodys_answer(service: Service, row: str) -> None:
    data, expected = ROWS[row]
    answers = await replies(service, data + NEXT)
    assert [answer.status for answer in answers] == expected, answers
    for answer in answers:
        told = answer.body.lower()
        assert not any(word in told for word in (b"traceback", b"<html", b".py"))


@pytest.mark.parametrize("to", ["h2c", "websocket", "TLS/1.0", "tcp"])
async def test_an_upgrade_is_not_made(service: Service, to: str) -> None:
    async with await service.connect() as client:
        await client.send(head("GET", "/readyz", "Connection: Upgrade", f"Upgrade: {to}"))
        assert await client.read_head() == 200
        await client.read_all()
        await client.send(NEXT)
        assert await client.read_head() == 200
        await client.read_all()


async def test_and_nothing_of_it_is_in_the_way(service: Process, models: Models) -> None:
    """After all of it the service has no more open than before, has logged no fault, and answers."""
    files = service.open_files
    for data, _ in ROWS.values():
        await replies(service, data + NEXT)

    async def left() -> int:
        return service.open_files

    await until(left, lambda seen: seen <= files)
    assert not service.faults, "\n".join(service.faults)
