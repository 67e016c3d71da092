"""The two lifetimes behind the real nginx, with `deploy/nginx.conf`: it holds nothing back, and passes every close on.

What is asked again and again is asked of the service itself, so as not to use up the limits of nginx.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from tests.process.conftest import Latencies
from tests.process.models import Cue, Models
from tests.process.nginx import Nginx, in_front_of
from tests.process.raw_client import Client, frames, until
from tests.process.service import Process, Service, serving

SETTINGS = {"ping_interval_s": 0.3}

SOON_S = 2.0
MEDIAN_S = 0.25
READ_TIMEOUT_S = 1  # the least nginx knows
SHORT_READS = {"proxy_read_timeout 1h;": f"proxy_read_timeout {READ_TIMEOUT_S}s;"}

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

PROTOCOLS = pytest.mark.parametrize("protocol", ["h1", "h2"])
LEAVINGS = pytest.mark.parametrize(
    ("protocol", "how"),
    [("h1", "fin"), ("h1", "reset"), ("h1", "half_close"), ("h2", "fin"), ("h2", "reset"), ("h2", "rst_stream")],
)


def seen_by(nginx: Nginx, protocol: str) -> Service:
    return nginx.h1() if protocol == "h1" else nginx.h2()


@asynccontextmanager
async def edge(service: Service, protocol: str) -> AsyncIterator[Service]:
    async with in_front_of(service.port) as nginx:
        yield seen_by(nginx, protocol)


async def test_nginx_takes_the_file(service: Process) -> None:
    async with in_front_of(service.port) as nginx:
        said = nginx.check()
    assert "test is successful" in said
    assert [line for line in said.splitlines() if "[warn]" in line and "super-user" not in line] == []


@PROTOCOLS
@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
async def test_nothing_is_held_back(service: Process, models: Models, protocol: str, compare_mode: bool) -> None:
    """Each token is at the client while the model waits for it to say so."""
    async with edge(service, protocol) as far:
        cue = Cue()
        client = await far.chat(models.plan(cue), compare_mode=compare_mode)
        for text in ("one ", "two ", "three "):
            cue.say(text)
            await client.read_text(cue.said)
        cue.end()
        await client.read_all()
        assert (client.complete, client.payloads[-1]["status"]) == (True, "done")


# Who leaves


async def compare(far: Service, prompt: str) -> Client:
    return await far.chat(prompt, compare_mode=True)


async def pane(far: Service, prompt: str) -> Client:
    made = (await far.post("/api/compare", {"message": prompt, "models": ["m", "n"]})).json
    return await far.open("GET", made["panes"][0]["stream"])


Start = Callable[[Service, str], Awaitable[Client]]


@LEAVINGS
@pytest.mark.parametrize("start", [compare, pane])
async def test_a_direct_stream_that_closes_stops_its_model(
    service: Process, models: Models, latencies: Latencies, protocol: str, how: str, start: Start
) -> None:
    lasted = []
    async with edge(service, protocol) as far:
        for _ in range(7):
            client = await start(far, prompt := models.plan(Cue("Hel", "lo")))
            await client.read_text("Hello")
            since = client.leave(how)
            lasted.append(await models.closes(prompt, since, SOON_S))
            latencies.note(f"client close ({protocol}, {how}) -> upstream close, through nginx", lasted[-1])
            assert await service.abandoned(client) == "Hello"
    assert median(lasted) < MEDIAN_S


@LEAVINGS
async def test_a_normal_run_survives_its_client(service: Process, models: Models, protocol: str, how: str) -> None:
    async with edge(service, protocol) as far:
        cue = Cue("one ", "two ")
        first = await far.chat(prompt := models.plan(cue))
        watcher = await service.resume(first.session_id)
        await first.read_text("one two ")
        first.leave(how)
        await until(lambda: service.status(first.session_id), lambda seen: seen["subscribers"] == 1)
        cue.say("three ")
        again = await far.resume(first.session_id, first.events[-1].last_event_id)
        await again.read_text("three ")
        assert not models.asked(prompt)[0].closed.is_set()
        cue.say("four")
        cue.end()
        for client in (again, watcher):
            await client.read_all()
        assert (again.complete, again.text) == (True, "three four")
        assert frames(first.body) + frames(again.body) == frames(watcher.body)
        assert (await far.resume(first.session_id, again.events[-1].last_event_id)).status == 204
        [answer] = await service.settled(first.session_id)
        assert (answer["content"], answer["status"]) == (cue.said, "done")


async def test_a_stream_that_is_reset_leaves_the_others(service: Process, models: Models) -> None:
    """The panes of a browser share one connection of HTTP/2."""
    cues = {"m": Cue("Hel"), "n": Cue("Good")}
    async with in_front_of(service.port) as nginx:
        far = nginx.h2(share=True)
        prompt = models.plan(lambda exchange: cues[exchange.body["model"]](exchange))
        made = (await far.post("/api/compare", {"message": prompt, "models": ["m", "n"]})).json
        leaver, stayer = [await far.open("GET", pane["stream"]) for pane in made["panes"]]
        await leaver.read_text("Hel")
        await stayer.read_text("Good")
        leaver.leave("rst_stream")
        assert await service.abandoned(leaver) == "Hel"
        cues["n"].say("bye")
        cues["n"].end()
        await stayer.read_all()
        assert (stayer.text, stayer.payloads[-1]["status"]) == ("Goodbye", "done")


# Silence


@PROTOCOLS
async def test_pings_keep_a_silent_stream_open(service: Process, models: Models, protocol: str) -> None:
    async with in_front_of(service.port, changes=SHORT_READS) as nginx:
        cue = Cue("Hel")
        client = await seen_by(nginx, protocol).chat(models.plan(cue))
        await client.read_text("Hel")
        until_s = time.monotonic() + 3 * READ_TIMEOUT_S
        while time.monotonic() < until_s:
            assert await client.read(), "the stream ended"
        cue.say("lo")
        cue.end()
        await client.read_all()
        assert (client.complete, client.text, client.payloads[-1]["status"]) == (True, "Hello", "done")


@PROTOCOLS
async def test_without_pings_it_would_be_cut(models: Models, tmp_path: Path, protocol: str) -> None:
    async with (
        serving(models, tmp_path, ping_interval_s=60) as service,
        in_front_of(service.port, changes=SHORT_READS) as nginx,
    ):
        client = await seen_by(nginx, protocol).chat(models.plan(cue := Cue("Hel")))
        with pytest.raises(ConnectionError):
            await client.read_all()
        cue.end()
