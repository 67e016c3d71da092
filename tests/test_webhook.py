"""The webhook: signed as the standard says, repeated, bounded, and nobody's wait."""

from __future__ import annotations

import asyncio
import base64
import datetime
import hashlib
import hmac
import itertools
import ssl
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from odysseus import webhook as module
from odysseus.events import UsageCount
from odysseus.generation import Generation
from odysseus.messages import Mode, Turn
from odysseus.run import Run
from odysseus.settings import Settings
from odysseus.states import Status, StopReason
from odysseus.told import told_of_run
from odysseus.webhook import HttpPost, Webhook, run_ended, signed_headers
from tests.process.nginx import write_certificate
from tests.scenes import virtual
from tests.virtual_time import now

KEY = b"k" * 32
OWNER = "ann"


def ended_run(number: int = 1) -> Run[bytes]:
    turn = Turn(session_id="ses_1", message_id=f"msg_{number}", run_id=f"run-{number}.5", owner=OWNER,
                text="a question", model="m", mode=Mode.CHAT, detached=True)  # fmt: skip
    generation = Generation(turn, cast(Any, None), cast(Any, None), cast(Any, None))
    generation.usage = UsageCount(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    generation.timings = {"ttft_ms": 1.5, "duration_ms": 20.0}
    generation.answer.add("text", "an answer")
    run: Run[bytes] = Run(turn.run_id, turn.session_id, owner=OWNER, detached=True, about=generation)
    run.status, run.stop_reason = Status.STOPPED, StopReason.USER_STOP
    run.ended_at = datetime.datetime(2026, 1, 31, 12, 0, 0, 5, datetime.UTC)
    return run


class Receiver:
    """Takes *each_s* for an attempt. *answers* it gives one after the other, the last one again and again."""

    def __init__(self, *answers: int | Exception, each_s: float = 0) -> None:
        self.answers, self.each_s = list(answers), each_s
        self.attempts: list[tuple[float, str]] = []
        """When each came, and its id."""
        self.at_once = self.most_at_once = 0
        self.closed_at: float | None = None

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> int:
        self.attempts.append((now(), headers["webhook-id"]))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.each_s)
        finally:
            self.at_once -= 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed_at = now()


async def emptied(webhook: Webhook) -> None:
    while webhook._deliveries:
        await asyncio.wait(set(webhook._deliveries))


def counts(webhook: Webhook) -> tuple[int, int, int]:
    return webhook.delivered, webhook.failures, webhook.dropped


# The signature


def test_a_signature_that_the_standards_libraries_know() -> None:
    """Source: the tests of svix, whose scheme became the standard: their secret, id, time and body."""
    settings = Settings(webhook_url="https://x", webhook_secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, settings.webhook_key())
    assert headers == {
        "Content-Type": "application/json",
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


async def test_what_is_said() -> None:
    run = ended_run()
    assert orjson.loads(run_ended(told_of_run(run))) == {
        "type": "run.ended",
        "run_id": "run-1.5",
        "session_id": "ses_1",
        "owner": OWNER,
        "status": "stopped",
        "stop_reason": "user_stop",
        "message_id": "msg_1",
        "model": "m",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "timings": {"ttft_ms": 1.5, "duration_ms": 20.0},
        "ended_at": "2026-01-31T12:00:00.000005Z",
    }


# Attempts, in virtual time


@pytest.mark.parametrize("status", [200, 201, 204, 299])
@virtual
async def test_taken(status: int) -> None:
    receiver = Receiver(status)
    webhook = Webhook(receiver, KEY)
    webhook.tell(told_of_run(ended_run()))
    await emptied(webhook)
    assert (receiver.attempts, counts(webhook)) == ([(0, "msg_1")], (1, 0, 0))


@virtual
async def test_repeated_until_taken() -> None:
    """Whatever went wrong; ever more seldom, and always under the same id."""
    failures = [500, 301, 404, 429, aiohttp.ClientConnectionError(), OSError(), TimeoutError(), 199, 502]
    receiver = Receiver(*failures, 204)
    webhook = Webhook(receiver, KEY)
    webhook.tell(told_of_run(ended_run()))
    await emptied(webhook)
    assert counts(webhook) == (1, len(failures), 0)
    assert {id_ for _, id_ in receiver.attempts} == {"msg_1"}
    times = [time for time, _ in receiver.attempts]
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    for pause, longest in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True):
        assert longest / 2 - 0.002 <= pause <= longest + 0.002
    assert len({round(pause / longest, 3) for pause, longest in zip(pauses, [1, 2, 4, 8, 16, 32], strict=False)}) > 1


@pytest.mark.parametrize("each_s", [0, 250, 9999])
@virtual
async def test_given_up_after_five_minutes(each_s: float) -> None:
    receiver = Receiver(500, each_s=each_s)
    webhook = Webhook(receiver, KEY)
    webhook.tell(told_of_run(ended_run()))
    await asyncio.sleep(299)
    assert (webhook.waiting, webhook.dropped) == (1, 0)
    await asyncio.sleep(2)
    assert (webhook.waiting, webhook.delivered, webhook.dropped) == (0, 0, 1)


@virtual
async def test_no_more_than_a_thousand_wait() -> None:
    receiver = Receiver(204, each_s=1)
    webhook = Webhook(receiver, KEY)
    for number in range(1200):
        webhook.tell(told_of_run(ended_run(number)))
    assert (webhook.waiting, webhook.dropped) == (1000, 200)
    await emptied(webhook)
    assert counts(webhook) == (1000, 0, 200)
    assert receiver.most_at_once == 16
    webhook.tell(told_of_run(ended_run()))
    await emptied(webhook)
    assert webhook.delivered == 1001


@virtual
async def test_a_failure_of_ours_is_one_delivery_lost() -> None:
    receiver = Receiver(ZeroDivisionError(), 204)
    webhook = Webhook(receiver, KEY)
    webhook.tell(told_of_run(ended_run(1)))
    webhook.tell(told_of_run(ended_run(2)))
    await emptied(webhook)
    assert counts(webhook) == (1, 0, 1)


# Going down


@virtual
async def test_nothing_to_wait_for() -> None:
    receiver = Receiver(204)
    await Webhook(receiver, KEY).close()
    assert receiver.closed_at == 0


@virtual
async def test_what_waits_gets_a_last_attempt() -> None:
    receiver = Receiver(500)
    webhook = Webhook(receiver, KEY)
    for number in (1, 2):
        webhook.tell(told_of_run(ended_run(number)))
    await asyncio.sleep(100)
    before, receiver.answers = len(receiver.attempts), [204, 500]
    await webhook.close()
    assert receiver.closed_at == 100
    assert sorted(receiver.attempts[before:]) == [(100, "msg_1"), (100, "msg_2")]
    assert counts(webhook) == (1, before + 1, 1)
    webhook.tell(told_of_run(ended_run(3)))
    assert (webhook.waiting, webhook.dropped) == (0, 2)


@virtual
async def test_a_receiver_that_hangs_holds_the_stop_for_three_seconds() -> None:
    receiver = Receiver(204, each_s=8)
    webhook = Webhook(receiver, KEY)
    for number in range(100):
        webhook.tell(told_of_run(ended_run(number)))
    await asyncio.sleep(6)
    await webhook.close()
    assert receiver.closed_at == 9
    assert counts(webhook) == (16, 0, 84)


# Over HTTP

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def receiver_app(handler: Handler) -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    return app


async def post(url: str, body: bytes = b"{}") -> int:
    sender = HttpPost(url)
    try:
        return await sender(body, signed_headers("msg_1", 1, body, KEY))
    finally:
        await sender.close()


async def test_what_arrives_is_what_was_signed() -> None:
    seen: list[tuple[str, str, Mapping[str, str], bytes]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, request.headers, await request.read()))
        return web.Response(status=202)

    async with TestServer(receiver_app(take)) as server:
        assert await post(str(server.make_url("/hook?a=b")), b'{"a": 1}') == 202
    [(method, path, headers, body)] = seen
    assert (method, path, headers["Content-Type"], body) == ("POST", "/hook?a=b", "application/json", b'{"a": 1}')
    mac = hmac.new(KEY, b"msg_1.1." + body, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    paths: list[str] = []

    async def redirect(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with TestServer(receiver_app(redirect)) as server:
        assert await post(str(server.make_url("/hook"))) == status
    assert paths == ["/hook"]


async def test_a_long_answer_is_not_read() -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 65536)

    async with TestServer(receiver_app(flood)) as server, asyncio.timeout(30):
        assert await post(str(server.make_url("/"))) == 200


@pytest.mark.parametrize("trusted", [False, True])
async def test_the_certificate_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    write_certificate(tmp_path)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    asked: list[str] = []

    async def take(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=204)

    if trusted:  # so that it is the certificate that makes the difference
        context = ssl.create_default_context(cafile=tmp_path / "certificate.pem")
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", context)
    server = TestServer(receiver_app(take), scheme="https")
    await server.start_server(ssl=ours)
    url = f"https://localhost:{server.port}/hook"
    try:
        if trusted:
            assert (await post(url), asked) == (204, ["/hook"])
        else:
            with pytest.raises(aiohttp.ClientConnectorCertificateError) as refused:
                await post(url)
            assert isinstance(refused.value, module._BREAKS) and asked == []
    finally:
        await server.close()


async def test_nobody_listens() -> None:
    with pytest.raises(module._BREAKS):
        await post(f"http://127.0.0.1:{unused_port()}/")
