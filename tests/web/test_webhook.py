"""The service and its webhook: each run is told of once, when it is saved; and nothing waits for the receiver."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.fake_upstream import FakeUpstream, say
from tests.waiting import at_once, soon, until
from tests.web.conftest import Serve, Service
from tests.web.test_ops import metrics

SECRET = "a webhook's secret, long enough.."
DIRECT = {"compare_mode": True}


class Receiver:
    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        """What came, each verified; once for each attempt."""
        self.raw: list[bytes] = []
        self.url = ""
        self.answer: Callable[[], Awaitable[int]] = self.takes
        self.before: Callable[[dict[str, Any]], Awaitable[None]] | None = None

    async def takes(self) -> int:
        return 204

    async def hook(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + body
        mac = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
        assert request.headers["webhook-signature"] == f"v1,{mac}"
        assert abs(time.time() - int(request.headers["webhook-timestamp"])) < 60
        said = orjson.loads(body)
        assert said["message_id"] == request.headers["webhook-id"]
        if self.before is not None:
            await self.before(said)
        self.raw.append(body)
        self.said.append(said)
        return web.Response(status=await self.answer())


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.hook)
    async with TestServer(app) as server:
        receiver.url = str(server.make_url("/hook"))
        yield receiver


@pytest.fixture
async def service(serve: Serve, receiver: Receiver) -> Service:
    return await serve(webhook_url=receiver.url, webhook_secret=SECRET)


@pytest.mark.parametrize("fields", [{}, DIRECT], ids=["detached", "direct"])
async def test_a_run_is_told_of_when_it_is_saved(service: Service, receiver: Receiver, fields: dict[str, Any]) -> None:
    stored: list[dict[str, Any]] = []

    async def look(said: dict[str, Any]) -> None:
        stored.append(await service.answer(said["session_id"]))

    receiver.before = look
    stream = await service.chat("A secret question", **fields)
    assert await stream.text() == "Hello world"
    await until(lambda: receiver.said)
    [said], [answer] = receiver.said, stored
    assert answer["content"] == "Hello world"
    assert said == {
        "type": "run.ended",
        "run_id": stream.run_id,
        "session_id": stream.session_id,
        "owner": "",
        "status": "done",
        "stop_reason": None,
        "message_id": answer["id"],
        "model": "m",
        "usage": answer["usage"],
        "timings": answer["timings"],
        "ended_at": said["ended_at"],
    }
    assert (await metrics(service))["odysseus_webhook_total", "delivered"] == 1
    assert said["timings"]["duration_ms"] > 0 and said["ended_at"].endswith("Z")
    assert b"Hello" not in receiver.raw[0] and b"secret" not in receiver.raw[0]


async def test_a_stopped_run_and_one_that_failed(service: Service, receiver: Receiver, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    stream = await service.chat()
    await stream.said("Hi")
    await service.stop(stream.session_id)
    await until(lambda: receiver.said)
    assert (receiver.said[0]["status"], receiver.said[0]["stop_reason"]) == ("stopped", "user_stop")
    upstream.script = say("Hi", done=False)
    pane = await service.chat(**DIRECT)
    await pane.said("Hi")
    pane.leave()
    await until(lambda: len(receiver.said) == 2)
    assert (receiver.said[1]["status"], receiver.said[1]["stop_reason"]) == ("stopped", "client_disconnect")


async def test_a_refused_run_never_was(service: Service, receiver: Receiver) -> None:
    refused = await service.call("POST", "/api/chat_stream", {"message": "Hi", "session_id": "ses_nothing"})
    assert refused.status == 404
    await (await service.chat()).rest()
    await until(lambda: receiver.said)
    assert len(receiver.said) == 1


async def test_a_receiver_that_hangs_holds_nobody_up(serve: Serve, receiver: Receiver) -> None:
    """Neither the next run nor, for longer than three seconds, the end of the service."""
    hangs = asyncio.Event()

    async def hang() -> int:
        await hangs.wait()
        return 204

    receiver.answer = hang
    service = await serve(webhook_url=receiver.url, webhook_secret=SECRET)
    with at_once():
        for _ in range(3):
            assert await (await service.chat()).text() == "Hello world"
    await until(lambda: len(receiver.said) == 3)
    begun = time.monotonic()
    await service.close()
    took_s = time.monotonic() - begun
    hangs.set()
    assert 2.5 < took_s < 15


async def test_what_runs_at_the_stop_is_told_of(serve: Serve, receiver: Receiver, upstream: FakeUpstream) -> None:
    upstream.script = say("Hi", done=False)
    service = await serve(webhook_url=receiver.url, webhook_secret=SECRET)
    runs = [await service.accepted() for _ in range(3)]
    await soon(service.close())
    assert {said["run_id"] for said in receiver.said} == {run["run_id"] for run in runs}
    assert {(said["status"], said["stop_reason"]) for said in receiver.said} == {("interrupted", "shutdown")}


async def test_an_attempt_that_failed_comes_again(service: Service, receiver: Receiver) -> None:
    answers = iter([500, 204])

    async def fail_first() -> int:
        return next(answers)

    receiver.answer = fail_first
    await (await service.chat()).rest()
    await until(lambda: len(receiver.said) == 2)
    assert receiver.said[0] == receiver.said[1]
