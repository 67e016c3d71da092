"""A connection to an MCP server over streamable HTTP, as the SDK's `Client` takes one: the SDK's, with limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from odysseus.server_settings import McpServerSettings

__all__ = ["HttpTransport"]

_CONNECT_S = 10.0
_GOODBYE_S = 2.0  # for the server to answer that a session is over
_MAX_ANSWER_BYTES = 16 * 1024 * 1024


class HttpTransport:
    def __init__(self, settings: McpServerSettings) -> None:
        self.problem: str | None = None
        """What the server answered last, if that was an error of HTTP: the SDK doesn't tell which."""
        self._settings = settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                httpx2.AsyncClient(
                    headers={name: value.get_secret_value() for name, value in self._settings.headers.items()},
                    timeout=httpx2.Timeout(_CONNECT_S, read=None),  # whoever waits for an answer has a limit
                    event_hooks={"request": [_limit_goodbye], "response": [self._look_at]},
                )
            )
            streams = await stack.enter_async_context(
                streamable_http_client(
                    str(self._settings.url), http_client=client, max_sse_event_size=_MAX_ANSWER_BYTES
                )
            )
            self._stack = stack.pop_all()
        return streams

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.__aexit__(*exception)  # type: ignore[arg-type]

    async def _look_at(self, response: httpx2.Response) -> None:
        if response.request.method == "POST":
            failed = response.status_code >= 400
            self.problem = f"answered {response.status_code} {response.reason_phrase}" if failed else None
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            assert isinstance(response.stream, httpx2.AsyncByteStream)
            response.stream = _Limited(response.stream)


class _Limited(httpx2.AsyncByteStream):
    """The body of an answer; the SDK limits only an event stream's."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > _MAX_ANSWER_BYTES:
                raise httpx2.StreamError(f"it is longer than {_MAX_ANSWER_BYTES // 1024**2} MB")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _limit_goodbye(request: httpx2.Request) -> None:
    if request.method == "DELETE":
        request.extensions["timeout"]["read"] = _GOODBYE_S
