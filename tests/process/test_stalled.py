"""Clients that take nothing any more: stuck, slow, or vanished without a word. Each is dropped, in time."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import aiohttp_sse
import pytest

from tests.process import namespaces
from tests.process.conftest import Latencies
from tests.process.models import Cue, Flood, Models, before_token
from tests.process.namespaces import SERVER
from tests.process.raw_client import Client, request, until
from tests.process.service import Process, Service, serving

SETTINGS = {"ping_interval_s": 0.4, "send_timeout_s": 1.2}

PING_S, SEND_S = SETTINGS.values()
LATE_S = 2.0  # what a busy machine may add

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]
SERVED = pytest.mark.parametrize("service", ["app.py", "gunicorn"], indirect=True, scope="module")
ONE = pytest.mark.parametrize("service", ["app.py"], indirect=True, scope="module")


@SERVED
async def test_a_stalled_client_of_a_direct_run_is_dropped(
    service: Process, models: Models, latencies: Latencies
) -> None:
    flood = Flood()
    since = time.monotonic()
    client = await service.chat(prompt := models.plan(flood), compare_mode=True, receive_buffer=4096)
    latencies.note("a client that never reads", await models.closes(prompt, since, LATE_S + PING_S + SEND_S))
    assert Flood.said(await service.abandoned(client))
    with pytest.raises(ConnectionError):
        await client.read_all()


@pytest.mark.parametrize("service", ["test server"], indirect=True, scope="module")
async def test_a_stalled_client_is_dropped_where_the_kernel_has_no_limit(
    service: Service, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aiohttp_sse, "_TCP_USER_TIMEOUT", None)
    flood = Flood(blocks=3000, at_once=50)
    clients = [
        await service.chat(models.plan(flood), compare_mode=compare_mode, receive_buffer=4096)
        for compare_mode in (False, True)
    ]
    await service.until_metric("odysseus_subscribers", 0)
    await service.until_metric("odysseus_runs", 0)
    for client in clients:
        with pytest.raises(ConnectionError):
            await client.read_all()


@ONE
async def test_a_slow_client_of_a_direct_run_is_not_dropped(service: Process, models: Models) -> None:
    """It takes something within every send timeout, though it is always far behind."""
    client = await service.chat(models.plan(Flood(blocks=6000, at_once=50)), compare_mode=True, receive_buffer=65536)
    until_s = time.monotonic() + 2.5 * SEND_S
    while time.monotonic() < until_s:
        await client.read(32768)
        await asyncio.sleep(0.1)
    await client.read_all()
    assert client.complete
    assert Flood.said(client.text)
    [answer] = await service.settled(client.session_id)
    assert (answer["status"], answer["content"]) == ("done", client.text)


@ONE
async def test_a_stuck_subscriber_is_dropped_and_the_run_goes_on(service: Process, models: Models) -> None:
    flood = Flood(blocks=4000, at_once=50)
    first = await service.chat(models.plan(flood), receive_buffer=4096)
    await until(lambda: service.status(first.session_id), lambda seen: seen["status"] == "done")
    await until(lambda: service.status(first.session_id), lambda seen: seen["subscribers"] == 0)
    with pytest.raises(ConnectionError):
        await first.read_all()
    again = await service.resume(first.session_id, first.events[-1].last_event_id)
    await again.read_all()
    assert Flood.said(first.text + again.text)
    assert len(first.text + again.text) == 4000 * 2000


NO_WIRE = namespaces.missing()


@pytest.mark.skipif(NO_WIRE is not None and not os.environ.get("CI"), reason=str(NO_WIRE))
async def test_a_client_that_vanishes(tmp_path: Path, latencies: Latencies) -> None:
    """Its link is down: no FIN, no reset, no answer to anything. Four of them, who were told more or less often."""
    assert NO_WIRE is None
    with namespaces.wire() as wire:
        listening = wire.near_socket()
        listening.bind(("127.0.0.1", 0))
        async with Models(listening) as models, serving(models, tmp_path, near=wire, **SETTINGS) as service:
            scripts = {"silent": Cue("Hello"), "before its first token": before_token, "told all the time": Flood(0.02)}
            prompts = {who: models.plan(script) for who, script in scripts.items()}
            body = {"message": models.plan(cue := Cue("Hello"))}
            watcher = await Client.connect(wire.far_socket(), SERVER, service.port)
            await watcher.send(request("POST", "/api/chat_stream", body))
            await watcher.read_head()
            for prompt in prompts.values():
                client = await Client.connect(wire.far_socket(), SERVER, service.port)
                await client.send(request("POST", "/api/chat_stream", {"message": prompt, "compare_mode": True}))
                await models.exchange_of(prompt)
            await watcher.read_text("Hello")
            since = time.monotonic()
            wire.cut()
            for who, prompt in prompts.items():
                lasted_s = await models.closes(prompt, since, LATE_S + PING_S + SEND_S)
                latencies.note(f"half-open, {who}", lasted_s)
            await until(lambda: service.status(watcher.session_id), lambda seen: seen["subscribers"] == 0)
            cue.end()
            [answer] = await service.settled(watcher.session_id)
            assert (answer["content"], answer["status"]) == ("Hello", "done")
            await service.until_metric("odysseus_runs_ended_total", len(prompts) + 1)
