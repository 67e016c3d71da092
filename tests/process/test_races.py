"""Races that take one step of the loop, made to happen each time: what the tests of the process only come upon."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct

import pytest

from odysseus.messages import Message
from odysseus.store import Store
from odysseus.web.stream import EventStream
from tests.fake_upstream import Exchange
from tests.process.models import Cue, Models, words
from tests.process.raw_client import Cut, frames, request
from tests.process.service import Service
from tests.waiting import soon

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("service", ["test server"], indirect=True, scope="module"),
]


def hold_first(monkeypatch: pytest.MonkeyPatch, verb: str) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the first call of the store's *verb*; return what is set when it has come, and what lets it go on."""
    came, go_on = asyncio.Event(), asyncio.Event()
    original = getattr(Store, verb)

    async def held(store: Store, *which: str) -> Message | None:
        if not came.is_set():
            came.set()
            await go_on.wait()
        found: Message | None = await original(store, *which)
        return found

    monkeypatch.setattr(Store, verb, held)
    return came, go_on


async def test_a_request_that_is_overtaken_by_its_own_retry(
    service: Service, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, go_on = hold_first(monkeypatch, "answer_of")
    cue = Cue("Hello")
    body = {"message": models.plan(cue), "run_id": "overtaken"}
    first = asyncio.create_task(service.open("POST", "/api/chat_stream", body))
    await soon(came.wait())
    retry = await service.open("POST", "/api/chat_stream", body)
    await retry.read_text("Hello")
    go_on.set()
    joined = await first
    cue.end()
    await retry.read_all()
    assert joined.status == 200
    await joined.read_all()
    assert frames(joined.body) == frames(retry.body)


async def test_a_resume_that_is_overtaken_by_a_start(
    service: Service, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    came, go_on = hold_first(monkeypatch, "latest_answer")
    cue, session_id = Cue("Hello"), await service.session()
    resuming = asyncio.create_task(service.resume(session_id))
    await soon(came.wait())
    client = await service.chat(models.plan(cue), session_id=session_id)
    await client.read_text("Hello")
    go_on.set()
    resumed = await resuming
    cue.end()
    await client.read_all()
    assert resumed.status == 200
    await resumed.read_all()
    assert frames(resumed.body) == frames(client.body)


@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
async def test_a_client_that_leaves_as_its_headers_are_written(
    service: Service,
    models: Models,
    compare_mode: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The window is one step of the loop: the transport is closing, and the handler isn't cancelled yet."""
    begin = EventStream.begin

    async def begin_late(stream: EventStream, run_id: str, session_id: str) -> None:
        transport = stream._request.transport
        assert transport is not None
        transport.close()
        await begin(stream, run_id, session_id)

    monkeypatch.setattr(EventStream, "begin", begin_late)
    script, said = words(2)
    session_id = await service.session()
    client = await service.connect()
    body = {"message": models.plan(script), "session_id": session_id, "compare_mode": compare_mode}
    await client.send(request("POST", "/api/chat_stream", body))
    [answer] = await service.settled(session_id)
    with pytest.raises(Cut):
        await client.read_head()
    expected = ("", "client_disconnect") if compare_mode else (said, None)
    assert (answer["content"], answer["stop_reason"]) == expected
    assert not errors(caplog)


async def test_a_kept_connection_that_its_model_server_resets(
    service: Service, models: Models, caplog: pytest.LogCaptureFixture
) -> None:
    reset = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await words(2, pause_s=0.02)[0](exchange)
        await asyncio.sleep(0.02)  # the service has read the end, and keeps the connection for the next request
        sock = exchange._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        exchange.abort()
        reset.set()

    client = await service.chat(models.plan(script))
    await client.read_all()
    assert client.payloads[-1]["status"] == "done"
    await reset.wait()
    again = await service.chat(models.plan(words(2)[0]))  # finds the dead connection in the pool, and drops it
    await again.read_all()
    assert again.payloads[-1]["status"] == "done"
    gc.collect()
    assert not errors(caplog)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
