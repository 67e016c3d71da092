"""The client of one OpenAI-compatible model server (vLLM, Ollama, llama.cpp, OpenAI, ..).

What goes wrong becomes an `UpstreamError` whose text a browser may see: no address, no key, no word of the provider's.
Those are in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import orjson

from odysseus.errors import UpstreamError
from odysseus.tasks import Tasks
from odysseus.upstream import Ask, Piece
from odysseus.upstream.chat_completions import AnswerDecoder, request_body

__all__ = ["Client"]

_log = logging.getLogger(__name__)

_PAUSES_S = (0.25, 1.0)  # before each retry, where the model server doesn't name its own
_MAX_PAUSE_S = 20.0  # a longer Retry-After is an answer, not something to wait for
_MODELS_S = 10.0
_LINGER_S = 1.0  # after `[DONE]`: how long the response may take to end, so that its connection can be used again
_MAX_AHEAD = 1024 * 1024  # bytes read ahead of a consumer that is slower than the model
_PROBLEM_BYTES = 2000  # of an error's body, for the log


class _Retry(Exception):
    """Worth another try: no byte of an answer has come. *after_s* is what the model server asked for."""

    def __init__(self, error: UpstreamError, after_s: float | None = None) -> None:
        super().__init__(error)
        self.error, self.after_s = error, after_s


class _Arrived:
    """What has arrived and wasn't taken yet.

    It is filled by a task of its own, because aiohttp raises a connection's error before it hands out the bytes that
    came before it: whoever reads late, say behind a slow client, would lose them.
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._ended = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Add *data*; wait while there is more than `_MAX_AHEAD` of it."""
        self._chunks.append(data)
        self._size += len(data)
        self._news.set()
        while self._size > _MAX_AHEAD:
            self._room.clear()
            await self._room.wait()

    def end(self, error: Exception | None) -> None:
        self._ended, self._error = True, error
        self._news.set()

    async def take(self) -> bytes:
        """Return all that has arrived since the last call; nothing at the end. Raises the error that ended it."""
        while not self._chunks and not self._ended:
            self._news.clear()
            await self._news.wait()
        if not self._chunks and self._error is not None:
            raise self._error
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        self._room.set()
        return data


class Client:
    """Speaks to the model server at *url* (the part before `/chat/completions`), with *key* as its bearer token."""

    def __init__(self, name: str, url: str, key: str | None, *, connect_s: float, silence_s: float) -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._key = key
        self._tasks = Tasks()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # how many run at once is for `runs` to say
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_s, sock_read=silence_s),
        )

    async def close(self) -> None:
        await self._tasks.drain(_LINGER_S)
        await self._session.close()

    async def models(self) -> list[str]:
        """Return the ids of the models it serves. Raises `UpstreamError`."""
        try:
            async with asyncio.timeout(_MODELS_S), self._session.get(f"{self._url}/models") as response:
                await self._check(response)
                return [str(model["id"]) for model in orjson.loads(await response.read())["data"]]
        except _Retry as retry:
            raise retry.error from retry
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UpstreamError("upstream_protocol", "the model server's list of models can't be read") from error

    async def ask(self, ask: Ask) -> AsyncGenerator[Sequence[Piece], None]:
        """See `odysseus.upstream.Upstream.ask`. Connection errors, 429 and 5xx are retried, before the first byte."""
        answer = AnswerDecoder()
        async with self._reading(request_body(ask), answer) as arrived:
            while not answer.done and (data := await arrived.take()):
                if pieces := answer.feed(data):
                    yield pieces
            answer.end()

    @asynccontextmanager
    async def _reading(self, body: bytes, answer: AnswerDecoder) -> AsyncIterator[_Arrived]:
        """Leaving the block closes the connection, before this returns, unless the answer was complete."""
        arrived = _Arrived()
        reader = self._tasks.spawn(self._read(body, arrived))
        try:
            yield arrived
        finally:
            if answer.done and not reader.done():
                asyncio.get_running_loop().call_later(_LINGER_S, reader.cancel)
            else:
                reader.cancel()
                await asyncio.wait({reader})

    async def _read(self, body: bytes, arrived: _Arrived) -> None:
        try:
            await self._with_retries(body, arrived)
        except Exception as error:
            arrived.end(error)
        else:
            arrived.end(None)

    async def _with_retries(self, body: bytes, arrived: _Arrived) -> None:
        for pause_s in (*_PAUSES_S, None):
            try:
                return await self._once(body, arrived)
            except _Retry as retry:
                wait_s = pause_s if retry.after_s is None else retry.after_s
                if pause_s is None or wait_s is None or wait_s > _MAX_PAUSE_S:
                    raise retry.error from retry
                _log.info("model server %s: %s; again in %.1f s", self.name, retry.error, wait_s)
            await asyncio.sleep(wait_s)

    async def _once(self, body: bytes, arrived: _Arrived) -> None:
        request = self._session.post(
            f"{self._url}/chat/completions",
            data=body,
            headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
            allow_redirects=False,
        )
        try:
            response = await request
        except aiohttp.ServerTimeoutError as error:
            raise self._unreachable(error) from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Retry(self._unreachable(error)) from error
        async with response:
            try:
                await self._check(response)
                with _woken_by_closing(response):
                    async for data in response.content.iter_any():
                        await arrived.put(data)
            except TimeoutError as error:
                raise UpstreamError("upstream_timeout", "the model server fell silent") from error
            except (aiohttp.ClientError, OSError) as error:
                _log.warning("model server %s: the answer broke off: %s", self.name, self._told(error))
                raise UpstreamError("upstream_protocol", "the connection to the model server broke") from error
            finally:
                if not response.content.at_eof() and response.connection is not None:
                    # A polite close of a TLS connection waits 30 s for a peer that doesn't answer it.
                    transport = response.connection.transport
                    if transport is not None:
                        transport.abort()

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise `_Retry` or `UpstreamError` unless *response* is an answer."""
        if response.status == 200 and response.content_type not in ("text/html", "application/problem+json"):
            return
        # So much more is read that a key which begins in what is logged is whole, and so is found.
        body = await response.content.read(_PROBLEM_BYTES + len(self._key or ""))
        text = self._without_key(body.decode("utf-8", "replace"))[:_PROBLEM_BYTES]
        _log.warning("model server %s answered %d %s: %s", self.name, response.status, response.content_type, text)
        if response.status == 200:
            raise UpstreamError("upstream_protocol", "the model server's answer isn't a stream of events")
        error = UpstreamError("upstream_status", f"the model server answered {response.status}")
        if response.status == 429 or response.status >= 500:
            raise _Retry(error, _retry_after_s(response.headers.get("Retry-After")))
        raise error

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _told(self, error: Exception) -> str:
        """Return what may be logged of *error*: some of aiohttp's hold the request's headers, and so the key."""
        return self._without_key(f"{type(error).__name__}: {error}")

    def _unreachable(self, error: Exception) -> UpstreamError:
        _log.warning("model server %s at %s: %s", self.name, self._url, self._told(error))
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            return UpstreamError("upstream_timeout", "the model server didn't answer in time")
        return UpstreamError("upstream_unreachable", "the model server can't be reached")


def _look_at(closed: asyncio.Future[None]) -> None:
    """Take notice of how a kept connection ended, or asyncio would complain that nobody did."""
    if not closed.cancelled():
        closed.exception()


@contextmanager
def _woken_by_closing(response: aiohttp.ClientResponse) -> Iterator[None]:
    """Whoever reads *response* in this block is woken when its connection is closed.

    aiohttp 3.14 closes a connection whose chunks it can't parse and tells nobody, nor does `sock_read` fire then.
    """
    content = response.content
    connection = response.connection
    closed = connection.protocol.closed if connection is not None and connection.protocol is not None else None

    def wake(_: asyncio.Future[None]) -> None:
        if not content.is_eof() and content.exception() is None:
            content.set_exception(aiohttp.ClientPayloadError("closed in the middle"))

    if closed is not None:
        closed.remove_done_callback(_look_at)  # one is enough, however often the connection is used
        closed.add_done_callback(_look_at)
        closed.add_done_callback(wake)
    try:
        yield
    finally:
        if closed is not None:
            closed.remove_done_callback(wake)


def _retry_after_s(header: str | None) -> float | None:
    """Return the seconds a `Retry-After` asks for; it may also hold a date. Source: RFC 9110, section 10.2.3."""
    if header is None:
        return None
    if header.isascii() and header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
