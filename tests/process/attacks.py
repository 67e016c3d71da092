"""Bytes that no client library would send, and every answer that comes back on their connection."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tests.process.raw_client import Client, Cut
from tests.process.service import Service

__all__ = ["LEFT_ALONE", "NEXT", "Reply", "error_of", "head", "replies"]

NEXT = b"GET /readyz HTTP/1.1\r\nHost: odysseus\r\nConnection: close\r\n\r\n"
"""The next user's request on a connection that a proxy shares among its users; it is the last one."""

LEFT_ALONE = {"requests_per_minute": 1_000_000}
"""Settings under which an answer is never that there were too many requests."""


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


async def replies(service: Service, data: bytes) -> list[Reply]:
    """Send *data* as it is; return all that is answered until the service closes the connection."""
    seen: list[Reply] = []
    async with await service.connect() as client:
        try:
            await client.send(data)
        except ConnectionError:
            pass  # refused before it had all been sent; the answer may still be there
        while (reply := await _reply(client)) is not None:
            seen.append(reply)
    return seen


async def _reply(client: Client) -> Reply | None:
    client.body.clear()
    try:
        await client.read_head()
    except (Cut, ConnectionError):
        return None
    await client.read_all()
    return Reply(client.status, client.headers, bytes(client.body))


def head(method: str, path: str | bytes, *lines: str | bytes, body: bytes = b"") -> bytes:
    """Return a request of exactly these *lines*, each ended by CR LF, and a Host."""
    start = b"%b %b HTTP/1.1" % (method.encode(), _raw(path))
    return b"\r\n".join((start, b"Host: odysseus", *map(_raw, lines), b"", body))


def error_of(body: bytes | Any) -> dict[str, str]:
    """Return the `error` of a JSON answer."""
    told = json.loads(body) if isinstance(body, bytes) else body
    assert set(told) == {"error"}
    error: dict[str, str] = told["error"]
    return error


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
