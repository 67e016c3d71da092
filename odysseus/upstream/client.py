"""The client of one OpenAI-compatible model server (vLLM, Ollama, llama.cpp, OpenAI, ..).

What goes wrong becomes an `UpstreamError` whose text a browser may see: no address, no key, no word of the provider's.
Those are in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial

import aiohttp
import orjson
from aiohttp.http_exceptions import HttpProcessingError

from odysseus.errors import UpstreamError
from odysseus.tasks import Tasks
from odysseus.upstream import Ask, Piece, Take
from odysseus.upstream.arrived import Arrived
from odysseus.upstream.chat_completions import AnswerDecoder, request_body

__all__ = ["Client"]

_log = logging.getLogger(__name__)

_BREAKS = (aiohttp.ClientError, HttpProcessingError, OSError)  # the second one raw, from aiohttp's parser in Python
_PAUSES_S = (0.25, 1.0)  # before each retry, where the model server doesn't name its own
_MAX_PAUSE_S = 20.0  # a longer Retry-After is an answer, not something to wait for
_MODELS_S = 10.0
_LINGER_S = 1.0  # after `[DONE]`: how long the response may take to end, so that its connection can be used again
_PROBLEM_BYTES = 2000  # of an error's body, for the log


class _Retry(Exception):
    """Worth another try: no byte of an answer has come. *after_s* is what the model server asked for."""

    def __init__(self, error: UpstreamError, after_s: float | None = None) -> None:
        super().__init__(error)
        self.error, self.after_s = error, after_s


class Client:
    """Speaks to the model server at *url* (the part before `/chat/completions`), with *key* as its bearer token."""

    def __init__(self, name: str, url: str, key: str | None, *, connect_s: float, silence_s: float) -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._key = key
        self._silence_s = silence_s
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

    async def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[Piece], None]:
        """See `odysseus.upstream.Upstream.ask`. Connection errors, 429 and 5xx are retried, before the first byte."""
        answer = AnswerDecoder()
        response = await self._answered(request_body(ask))
        arrived = Arrived(response, self._silence_s, None if take is None else partial(answer.offer, take))
        try:
            while not answer.done and (data := await self._next(arrived)):
                if pieces := answer.feed(data):
                    yield pieces
            answer.end()
        finally:
            if answer.done:
                self._tasks.spawn(arrived.linger(_LINGER_S))
            else:
                arrived.close()

    async def _next(self, arrived: Arrived) -> bytes:
        try:
            return await arrived.take()
        except _BREAKS as error:
            raise self._broken_off(error) from error

    async def _answered(self, body: bytes) -> aiohttp.ClientResponse:
        """Ask, again where that is worth it; return the response, of which the headers have come."""
        for pause_s in (*_PAUSES_S, None):
            try:
                return await self._once(body)
            except _Retry as retry:
                wait_s = pause_s if retry.after_s is None else retry.after_s
                if pause_s is None or wait_s is None or wait_s > _MAX_PAUSE_S:
                    raise retry.error from retry
                _log.info("model server %s: %s; again in %.1f s", self.name, retry.error, wait_s)
            await asyncio.sleep(wait_s)
        raise AssertionError  # the last attempt has returned or raised

    async def _once(self, body: bytes) -> aiohttp.ClientResponse:
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
        try:
            await self._check(response)
        except BaseException as error:
            response.close()
            if isinstance(error, _BREAKS):
                raise self._broken_off(error) from error
            raise
        return response

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise `_Retry` or `UpstreamError` unless *response* is an answer."""
        if response.status == 200 and response.content_type not in ("text/html", "application/problem+json"):
            return
        # So much more is read that a key which begins in what is logged is whole, and so is found.
        body = await response.content.read(_PROBLEM_BYTES + len(self._key or ""))
        text = self._without_key(body.decode("utf-8", "replace"))[:_PROBLEM_BYTES]
        _log.warning(
            "model server %s answered %d %s",
            self.name,
            response.status,
            response.content_type,
            extra={"texts": {"body": text}},  # some tell the user's message back
        )
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

    def _broken_off(self, error: Exception) -> UpstreamError:
        if isinstance(error, TimeoutError):
            return UpstreamError("upstream_timeout", "the model server fell silent")
        _log.warning("model server %s: the answer broke off: %s", self.name, self._told(error))
        return UpstreamError("upstream_protocol", "the connection to the model server broke")

    def _unreachable(self, error: Exception) -> UpstreamError:
        _log.warning("model server %s at %s: %s", self.name, self._url, self._told(error))
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError):
            return UpstreamError("upstream_timeout", "the model server didn't answer in time")
        return UpstreamError("upstream_unreachable", "the model server can't be reached")


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
