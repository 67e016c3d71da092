"""Where a client's going away can't be seen at once (FACTS 1.8, 1.10, 3.10): a ping sees it."""

from __future__ import annotations

import contextlib

import pytest

from tests.process.conftest import Latencies
from tests.process.models import Cue, Flood, Models
from tests.process.raw_client import request
from tests.process.service import Process

SETTINGS = {"ping_interval_s": 0.4}  # the send timeout is at its default of 20 s: it is not what notices anything here

PING_S = SETTINGS["ping_interval_s"]
LATE_S = 2.0  # what a busy machine may add

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]
SERVED = pytest.mark.parametrize("service", ["app.py", "gunicorn"], indirect=True, scope="module")


@SERVED
async def test_half_close_behind_unread_bytes(service: Process, models: Models, latencies: Latencies) -> None:
    """1.8: the connection is closing, but nobody is told before the bytes are gone, which they never are."""
    flood = Flood()
    client = await service.chat(prompt := models.plan(flood), compare_mode=True, receive_buffer=4096)
    await flood.stuck()
    since = client.leave("half_close")
    latencies.note("half-close behind unread bytes", await models.closes(prompt, since, LATE_S + PING_S))
    assert Flood.said(await service.abandoned(client))


@SERVED
async def test_a_body_that_is_too_large_for_a_stream(service: Process, models: Models) -> None:
    prompt = models.plan(Cue())
    compare = (await service.post("/api/compare", {"message": prompt, "models": ["m", "n"]})).json
    client = await service.connect()
    await client.send(request("GET", compare["panes"][0]["stream"], Content_Length="5000000"))
    with contextlib.suppress(ConnectionError):  # it may be cut off before it has sent all of it
        for _ in range(50):
            await client.send(b"x" * 100_000)
    with contextlib.suppress(ConnectionError):
        assert await client.read_head() == 413
    assert not models.asked(prompt)
    assert (await service.get(f"/api/compare/{compare['compare_id']}")).json["panes"][0]["status"] is None


@SERVED
@pytest.mark.parametrize("how", ["fin", "reset"])  # who half-closes still listens, and takes every ping
async def test_a_burst_of_pipelined_requests(service: Process, models: Models, latencies: Latencies, how: str) -> None:
    """1.10: past 32 of them nothing more is read, up to the client's FIN."""
    cue = Cue("Hello")
    prompt = models.plan(cue)
    client = await service.connect()
    first = request("POST", "/api/chat_stream", {"message": prompt, "compare_mode": True})
    await client.send(first + request("GET", "/healthz") * 50)
    await client.read_head()
    await client.read_text("Hello")
    since = client.leave(how)
    latencies.note("behind 50 pipelined requests", await models.closes(prompt, since, LATE_S + 3 * PING_S))
    assert await service.abandoned(client) == "Hello"


@SERVED
async def test_pipelined_requests_are_answered_in_order(service: Process, models: Models) -> None:
    cue = Cue("Hello")
    client = await service.connect()
    first = request("POST", "/api/chat_stream", {"message": models.plan(cue), "compare_mode": True})
    await client.send(first + request("GET", "/healthz") * 50)
    await client.read_head()
    await client.read_text("Hello")
    cue.end()
    await client.read_all()
    assert client.payloads[-1]["status"] == "done"
    for _ in range(50):
        assert await client.read_head() == 200
        await client.read_all()


@SERVED
@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
@pytest.mark.parametrize("connection", ["close", "keep-alive"])
async def test_an_http_1_0_client(service: Process, models: Models, compare_mode: bool, connection: str) -> None:
    cue = Cue("Hello")
    body = {"message": models.plan(cue), "compare_mode": compare_mode}
    client = await service.connect()
    await client.send(request("POST", "/api/chat_stream", body, "1.0", Connection=connection))
    await client.read_head()
    await client.read_text("Hello")
    cue.end()
    await client.read_all()
    assert "transfer-encoding" not in client.headers
    assert client.headers["connection"] == "close"
    assert (client.complete, client.events[-1].data, client.payloads[-1]["status"]) == (True, b"[DONE]", "done")
