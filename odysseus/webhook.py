"""The webhook: one URL is told of each run that has ended and was saved; how it ended, never what was said.

Telling is nobody's wait: what can't be delivered is tried again for five minutes, beside everything else, and then
dropped. Source of the headers and the signature: Standard Webhooks 1.0.0, "Webhook headers" and "Signature scheme"
(https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Mapping
from typing import Protocol

import aiohttp
import orjson
from aiohttp.http_exceptions import HttpProcessingError

from odysseus.told import Told

__all__ = ["HttpPost", "Post", "Webhook", "run_ended", "signed_headers"]

_log = logging.getLogger(__name__)

_TRIED_S = 300.0
_ATTEMPT_S = 10.0
_MAX_PAUSE_S = 60.0  # between two attempts; the first pause is about a second, each one after it twice as long
_MOST = 1000  # that wait, or are on their way
_AT_ONCE = 16
_CLOSE_S = 3.0
_CANCEL_S = 1.0
_GOING_DOWN = "the service is going down"

_BREAKS = (aiohttp.ClientError, HttpProcessingError, OSError)  # the second one raw, from aiohttp's parser in Python


class Post(Protocol):
    """How a body reaches the receiver."""

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the answer's status. Raises one of `_BREAKS` when there is none."""

    async def close(self) -> None: ...


class HttpPost:
    """Posts to *url*, nowhere else whatever the receiver answers, and over TLS only to whom its certificate names."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=_ATTEMPT_S)
        )

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> int:
        async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status

    async def close(self) -> None:
        await self._session.close()


class Webhook:
    def __init__(self, post: Post, key: bytes) -> None:
        self.delivered = 0
        """How many endings the receiver has taken, since the start."""
        self.failures = 0
        """How many attempts failed, since the start."""
        self.dropped = 0
        """How many endings were given up, since the start."""
        self._post = post
        self._key = key
        self._deliveries: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many endings wait for their delivery, or for another attempt."""
        return len(self._deliveries)

    def tell(self, told: Told) -> None:
        """Deliver, some time, that a run has ended. Doesn't wait."""
        if self._closing.is_set() or len(self._deliveries) >= _MOST:
            self._drop(told.run_id, _GOING_DOWN if self._closing.is_set() else f"{len(self._deliveries)} others wait")
            return
        work = self._deliver(told.run_id, told.message_id, run_ended(told))
        delivery = asyncio.get_running_loop().create_task(work)
        self._deliveries.add(delivery)
        delivery.add_done_callback(self._deliveries.discard)

    async def close(self) -> None:
        """Give what waits one last attempt, for three seconds together, then drop it."""
        self._closing.set()
        if self._deliveries:
            await asyncio.wait(set(self._deliveries), timeout=_CLOSE_S)
        for delivery in (late := set(self._deliveries)):
            delivery.cancel()
        if late:
            await asyncio.wait(late, timeout=_CANCEL_S)
        await self._post.close()

    async def _deliver(self, run_id: str, message_id: str, body: bytes) -> None:
        try:
            async with asyncio.timeout(_TRIED_S):
                await self._repeat(run_id, message_id, body)
        except TimeoutError:
            self._drop(run_id, f"not taken within {_TRIED_S:g} s")
        except asyncio.CancelledError:
            self._drop(run_id, _GOING_DOWN)
            raise
        except Exception:
            _log.exception("webhook: run %s failed", run_id)
            self._drop(run_id, "a failure of ours")

    async def _repeat(self, run_id: str, message_id: str, body: bytes) -> None:
        pause_s = 1.0
        while True:
            last = self._closing.is_set()
            async with self._turn:
                problem = await self._attempt(message_id, body)
            if problem is None:
                self.delivered += 1
                return
            self.failures += 1
            _log.info("webhook: run %s wasn't taken: %s", run_id, problem)
            if last:
                self._drop(run_id, _GOING_DOWN)
                return
            await self._pause(pause_s * random.uniform(0.5, 1))  # so that many don't come back at one moment
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def _attempt(self, message_id: str, body: bytes) -> str | None:
        """Return why the receiver didn't take it; None if it did."""
        try:
            status = await self._post(body, signed_headers(message_id, int(time.time()), body, self._key))
        except _BREAKS as error:
            return type(error).__name__  # its text may have the address in it, which can be a secret
        return None if 200 <= status < 300 else f"status {status}"

    async def _pause(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._closing.wait()
        except TimeoutError:
            pass

    def _drop(self, run_id: str, why: str) -> None:
        self.dropped += 1
        _log.warning("webhook: run %s is dropped: %s", run_id, why)


def run_ended(told: Told) -> bytes:
    """Return what is said of a run, as JSON. Without the text: the receiver may ask for it, if it is allowed to."""
    return orjson.dumps(
        {
            "type": "run.ended",
            "run_id": told.run_id,
            "session_id": told.session_id,
            "owner": told.owner,
            "status": told.status,
            "stop_reason": told.stop_reason,
            "message_id": told.message_id,
            "model": told.model,
            "usage": told.usage,
            "timings": told.timings,
            "ended_at": told.ended_at,
        },
        option=orjson.OPT_UTC_Z,
    )


def signed_headers(message_id: str, time_s: int, body: bytes, key: bytes) -> Mapping[str, str]:
    """Return the headers of one attempt. *message_id* is the same in each, so that a receiver can tell repeats."""
    mac = hmac.digest(key, f"{message_id}.{time_s}.".encode() + body, hashlib.sha256)
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(time_s),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }
