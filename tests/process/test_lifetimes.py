"""The two lifetimes, wherever the service runs: one survives its client, the other ends with it, at once.

Pings are at their default of 10 s here: what is noticed within 2 s wasn't noticed by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.fake_upstream import Script
from tests.process.conftest import Latencies
from tests.process.models import Cue, Flood, Models, before_headers, before_token, words
from tests.process.raw_client import LEAVINGS, Client, frames, until
from tests.process.service import WAYS, Service

pytestmark = [
    pytest.mark.process,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.parametrize("service", WAYS, indirect=True, scope="module"),
]

SOON_S = 2.0

MOMENTS: dict[str, tuple[Callable[[], Script], str]] = {
    "before the headers": (lambda: before_headers, ""),
    "before the first token": (lambda: before_token, ""),
    "in silence": (lambda: Cue("Hel", "lo"), "Hello"),
}
"""What the model server does when it happens, and what the answer is by then."""


async def reach(models: Models, prompt: str, client: Client, text: str) -> None:
    """Wait until the model has been asked *prompt* and *client* has all of *text*."""
    await models.exchange_of(prompt)
    await client.read_text(text)


# A run that survives its client


@pytest.mark.parametrize("how", LEAVINGS)
async def test_a_normal_run_survives_its_client(service: Service, models: Models, how: str) -> None:
    cue = Cue("one ", "two ")
    first = await service.chat(prompt := models.plan(cue))
    watcher = await service.resume(first.session_id)
    await first.read_text("one two ")
    first.leave(how)
    await until(lambda: service.status(first.session_id), lambda seen: seen["subscribers"] == 1)
    cue.say("three ")
    again = await service.resume(first.session_id, first.events[-1].last_event_id)
    await again.read_events(1)
    assert not models.asked(prompt)[0].closed.is_set()
    cue.say("four")
    cue.end()
    for client in (again, watcher):
        await client.read_all()
    assert (again.complete, again.text) == (True, "three four")
    assert frames(first.body) + frames(again.body) == frames(watcher.body)
    [answer] = await service.settled(first.session_id)
    assert (answer["content"], answer["status"], answer["stop_reason"]) == (cue.said, "done", None)
    assert (await service.resume(first.session_id, again.events[-1].last_event_id)).status == 204
    assert len(models.asked(prompt)) == 1


async def test_every_watcher_gets_identical_bytes(service: Service, models: Models) -> None:
    cue = Cue()
    first = await service.chat(models.plan(cue))
    await first.read_events(1)
    watchers = [first]
    for number in range(6):
        cue.say(f"é{number} ")
        await first.read_events(number + 2)
        watchers.append(await service.resume(first.session_id))
    cue.end()
    for watcher in watchers:
        await watcher.read_all()
    late = await service.resume(first.session_id)
    await late.read_all()
    whole = frames(first.body)
    assert all(frames(client.body) == whole for client in (*watchers, late))
    for seq in range(len(whole) - 1):  # the last frame is `[DONE]`, which has no id
        client = await service.resume(first.session_id, f"{first.run_id}.{seq}")
        if seq == len(whole) - 2:
            assert client.status == 204
        else:
            await client.read_all()
            assert frames(client.body) == whole[seq + 1 :]


@pytest.mark.parametrize("step", [1, 7, 50])
async def test_an_event_source_that_loses_its_connection(service: Service, models: Models, step: int) -> None:
    """Cut after ever more bytes, it reconnects with the last id it has seen until it is told to stop, by 204."""
    script, text = words(12, pause_s=0.002)
    client = await service.chat(models.plan(script))
    session_id, run_id = client.session_id, client.run_id
    seen = []
    cut_at = 1
    while client.status != 204:
        await client.read_bytes(cut_at)
        seen += [event for event in client.events if event.data != b"[DONE]"]
        client.leave("reset")
        client = await service.resume(session_id, seen[-1].last_event_id if seen else None)
        cut_at += step
    whole = await service.chat("joins it", run_id=run_id)
    assert seen == [event for event in await whole.read_all() if event.data != b"[DONE]"]
    assert whole.text == text


# A stream that stops with its client


Start = Callable[..., Awaitable[Client]]


async def compare(service: Service, prompt: str, **options: Any) -> Client:
    return await service.chat(prompt, compare_mode=True, **options)


async def pane(service: Service, prompt: str, **options: Any) -> Client:
    made = (await service.post("/api/compare", {"message": prompt, "models": ["m", "n"]})).json
    return await service.open("GET", made["panes"][0]["stream"], **options)


DIRECT = pytest.mark.parametrize("start", [compare, pane])


@DIRECT
@pytest.mark.parametrize("how", LEAVINGS)
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_direct_stream_that_closes_stops_its_model(
    service: Service, models: Models, latencies: Latencies, moment: str, how: str, start: Start
) -> None:
    for _ in range(5):
        script, text = MOMENTS[moment]
        client = await start(service, prompt := models.plan(script()))
        await reach(models, prompt, client, text)
        since = client.leave(how)
        latencies.note("client close -> upstream close", await models.closes(prompt, since, SOON_S))
        await stopped_once(service, client, text)


@DIRECT
@pytest.mark.parametrize("how", ["fin", "reset"])  # a half-close waits for its pings here: see test_holes.py
async def test_a_direct_stream_that_closes_unread(
    service: Service, models: Models, latencies: Latencies, how: str, start: Start
) -> None:
    flood = Flood()
    client = await start(service, prompt := models.plan(flood), receive_buffer=4096)
    await flood.stuck()
    since = client.leave(how)
    latencies.note("client close -> upstream close, blocked in write", await models.closes(prompt, since, SOON_S))
    assert Flood.said(await service.abandoned(client))


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_body_where_none_belongs(service: Service, models: Models, latencies: Latencies, how: str) -> None:
    """A body that nobody reads would stop the server from reading on, up to the client's FIN (FACTS 1.9)."""
    cue = Cue("Hello")
    prompt = models.plan(cue)
    compare = (await service.post("/api/compare", {"message": prompt, "models": ["m", "n"]})).json
    client = await service.open("GET", compare["panes"][0]["stream"], b"x" * 3_000_000)
    await client.read_text("Hello")
    since = client.leave(how)
    latencies.note("client close -> upstream close, large body on a GET", await models.closes(prompt, since, SOON_S))
    await stopped_once(service, client, "Hello")


async def test_a_hundred_that_close_at_once(service: Service, models: Models, latencies: Latencies) -> None:
    prompts = [models.plan(Cue("Hello")) for _ in range(100)]
    clients = [await compare(service, prompt) for prompt in prompts]
    for client in clients:
        await client.read_text("Hello")
    since = [client.leave(LEAVINGS[number % 3]) for number, client in enumerate(clients)]
    for prompt, at in zip(prompts, since, strict=True):
        latencies.note("client close -> upstream close, 100 at once", await models.closes(prompt, at, SOON_S))
    for client in clients:
        assert await service.abandoned(client) == "Hello"


async def test_a_pane_that_closes_leaves_the_others(service: Service, models: Models, latencies: Latencies) -> None:
    cues = {"m": Cue("Hel"), "n": Cue("Good")}
    prompt = models.plan(lambda exchange: cues[exchange.body["model"]](exchange))
    compare = (await service.post("/api/compare", {"message": prompt, "models": ["m", "n"]})).json
    leaver, stayer = [await service.open("GET", pane["stream"]) for pane in compare["panes"]]
    await leaver.read_text("Hel")
    await stayer.read_text("Good")
    [left] = [exchange for exchange in models.asked(prompt) if exchange.body["model"] == "m"]
    since = leaver.leave("fin")
    async with asyncio.timeout(SOON_S):
        await left.closed.wait()
    assert left.closed_at is not None
    latencies.note("client close -> upstream close", left.closed_at - since)
    await stopped_once(service, leaver, "Hel")
    cues["n"].say("bye")
    cues["n"].end()
    await stayer.read_all()
    panes = (await service.get(f"/api/compare/{compare['compare_id']}")).json["panes"]
    assert [(pane["session_id"], pane["status"], pane["stop_reason"], pane["text"]) for pane in panes] == [
        (leaver.session_id, "stopped", "client_disconnect", "Hel"),
        (stayer.session_id, "done", None, "Goodbye"),
    ]
    for pane in compare["panes"]:  # as a browser reconnects by itself
        assert (await service.open("GET", pane["stream"])).status == 204
    assert len(models.asked(prompt)) == 2


async def stopped_once(service: Service, client: Client, text: str) -> None:
    assert await service.abandoned(client) == text
    assert (await service.resume(client.session_id)).status == 204


# Stop


@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_stop(service: Service, models: Models, latencies: Latencies, moment: str, compare_mode: bool) -> None:
    script, text = MOMENTS[moment]
    client = await service.chat(prompt := models.plan(script()), compare_mode=compare_mode)
    await reach(models, prompt, client, text)
    since = time.monotonic()
    stopped = (await service.stop(client.session_id)).json
    answers = (await service.messages(client.session_id))[1:]
    assert [(answer["content"], answer["stop_reason"]) for answer in answers] == [(text, "user_stop")]
    assert (stopped["stopped"], stopped["run_id"], stopped["status"]) == (True, client.run_id, "stopped")
    assert (stopped["chars"], stopped["message_id"]) == (len(text), answers[0]["id"])
    assert stopped["upstream_closed_ms"] < SOON_S * 1000
    latencies.note("stop -> upstream close", await models.closes(prompt, since, SOON_S))
    await client.read_all()
    assert (client.complete, client.events[-1].data) == (True, b"[DONE]")
    assert (client.payloads[-1]["type"], client.payloads[-1]["stop_reason"]) == ("ended", "user_stop")
    assert (await service.stop(client.session_id)).json == {"stopped": False}


@DIRECT
async def test_stop_of_a_stream_that_is_blocked_in_write(
    service: Service, models: Models, latencies: Latencies, start: Start
) -> None:
    flood = Flood()
    client = await start(service, prompt := models.plan(flood), receive_buffer=4096)
    await flood.stuck()
    since = time.monotonic()
    stopped = (await service.stop(client.session_id)).json
    latencies.note("stop -> upstream close, blocked in write", await models.closes(prompt, since, SOON_S))
    [answer] = (await service.messages(client.session_id))[1:]
    assert (answer["status"], answer["stop_reason"], stopped["chars"]) == (
        "stopped",
        "user_stop",
        len(answer["content"]),
    )
    assert Flood.said(answer["content"])
    with pytest.raises(ConnectionError):  # no last frame can be sent behind what it hasn't taken
        await client.read_all()


async def test_stop_of_a_normal_run_whose_client_does_not_read(service: Service, models: Models) -> None:
    client = await service.chat(prompt := models.plan(Flood(0.001)), receive_buffer=4096)
    await until(lambda: service.status(client.session_id), lambda seen: seen["events"] > 100)
    since = time.monotonic()
    stopped = (await service.stop(client.session_id)).json
    await models.closes(prompt, since, SOON_S)
    assert (stopped["stopped"], stopped["status"]) == (True, "stopped")
    await client.read_all()  # what it lacks waits in the run's log, however late it reads
    assert Flood.said(client.text)
    assert (len(client.text), client.payloads[-1]["stop_reason"]) == (stopped["chars"], "user_stop")
