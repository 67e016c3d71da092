"""Many at once: subscribers that vanish, requests that race for one session or one run, and the limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
import pytest_asyncio

from tests.fake_upstream import Exchange, Script, say
from tests.process.models import Cue, Flood, Models, words
from tests.process.raw_client import LEAVINGS, Client, frames, request, until
from tests.process.service import FINAL, Process, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]
SERVED = pytest.mark.parametrize("service", ["app.py", "gunicorn"], indirect=True, scope="module")
ONE = pytest.mark.parametrize("service", ["app.py"], indirect=True, scope="module")


# Subscribers


@SERVED
async def test_200_subscribers_that_vanish(service: Process, models: Models) -> None:
    cue = Cue()
    first = await service.chat(models.plan(cue))
    await first.read_events(1)
    files = service.open_files
    crowd = [await service.resume(first.session_id) for _ in range(200)]
    assert (await service.status(first.session_id))["subscribers"] == 201
    for number, client in enumerate(crowd):
        if number % 10 == 0:
            cue.say(f"{number} ")
        client.leave(LEAVINGS[number % 3])
    await until(lambda: service.status(first.session_id), lambda seen: seen["subscribers"] == 1)
    await service.until_metric("odysseus_subscribers", 1)
    assert service.open_files <= files + 30  # those of the store's pool
    cue.end()
    await first.read_all()
    assert (first.text, first.payloads[-1]["status"]) == (cue.said, "done")
    for client in crowd:
        client.close()


@ONE
async def test_subscribers_cost_a_run_nothing(service: Process, models: Models) -> None:
    """200 that read, and one that never does, while the model sends 3 MB: no time, and no memory but the log."""
    await crowded_run(service, models, 0)
    before = service.rss_bytes
    await crowded_run(service, models, 200)
    grown = service.rss_bytes - before
    assert grown < 60e6, f"{grown / 1e6:.0f} MB"


async def crowded_run(service: Process, models: Models, readers: int) -> None:
    """A run of 3 MB that *readers* read and one subscriber doesn't ends in spite of it; all the others get all."""
    go = asyncio.Event()
    flood = Flood(blocks=1500, at_once=50)

    async def script(exchange: Exchange) -> None:
        await go.wait()
        await flood(exchange)

    first = await service.chat(models.plan(script))
    stuck = await service.open("GET", f"/api/chat/resume/{first.session_id}", receive_buffer=4096)
    watchers = [await service.resume(first.session_id) for _ in range(readers)]
    await until(lambda: service.status(first.session_id), lambda seen: seen["subscribers"] == readers + 2)
    go.set()
    read = [asyncio.create_task(watcher.read_all()) for watcher in (first, *watchers)]
    await until(lambda: service.status(first.session_id), lambda seen: seen["status"] == "done")
    await asyncio.gather(*read)
    whole = frames(first.body)
    assert Flood.said(first.text)
    assert len(first.text) == 1500 * 2000
    assert all(frames(watcher.body) == whole for watcher in watchers)
    assert not stuck.body
    for client in (stuck, first, *watchers):
        client.close()


# Races


async def ask(service: Process, body: dict[str, Any]) -> Client:
    return await service.open("POST", "/api/chat_stream", body)


@SERVED
@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
async def test_two_requests_at_once_for_one_session(service: Process, models: Models, compare_mode: bool) -> None:
    for _ in range(20):
        session_id, cue = await service.session(), Cue()
        body = {"message": models.plan(cue), "session_id": session_id, "compare_mode": compare_mode}
        clients = await asyncio.gather(ask(service, body), ask(service, body))
        winner, loser = sorted(clients, key=lambda client: client.status)
        assert (winner.status, loser.status) == (200, 409)
        await loser.read_all()
        assert (error(loser)["code"], error(loser)["run_id"]) == ("busy", winner.run_id)
        cue.end()
        await winner.read_all()
        await service.settled(session_id)


def error(client: Client) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(client.body)["error"]
    return body


@SERVED
@pytest.mark.parametrize("new_session", [False, True], ids=["session", "new session"])
@pytest.mark.parametrize("modes", [(False, False), (True, True), (False, True)], ids=str)
async def test_two_requests_at_once_with_one_run_id(
    service: Process, models: Models, modes: tuple[bool, bool], new_session: bool
) -> None:
    for _ in range(5):
        script, said = words(5, pause_s=0.001)
        body = {"message": (prompt := models.plan(script)), "run_id": f"run-{random.getrandbits(64):x}"}
        if not new_session:
            body["session_id"] = await service.session()
        clients = await asyncio.gather(*(ask(service, body | {"compare_mode": mode}) for mode in modes))
        assert [client.status for client in clients] == [200, 200]
        await asyncio.gather(*(client.read_all() for client in clients))
        assert frames(clients[0].body) == frames(clients[1].body)
        assert clients[0].text == said
        [answer] = await service.settled(clients[0].session_id)
        assert (answer["content"], len(models.asked(prompt))) == (said, 1)
        await service.until_metric("odysseus_runs", 0)


class AtWork:
    """A script that plays *script* and counts how many do at a time."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._now = self.most = 0

    async def __call__(self, exchange: Exchange) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            await self._script(exchange)
        finally:
            self._now -= 1


@SERVED
async def test_a_queue(service: Process, models: Models) -> None:
    """Those that wait are answered one after the other, as they came; the one that stands first doesn't mind."""
    cue, (script, said) = Cue("Hello"), words(3, pause_s=0.005)
    at_work = AtWork(script)
    first = await service.chat(models.plan(cue))
    session_id = first.session_id
    queue = []
    for number in range(6):
        body = {"session_id": session_id, "if_busy": "queue", "compare_mode": bool(number % 2)}
        client = await service.connect()
        await client.send(request("POST", "/api/chat_stream", body | {"message": models.plan(at_work)}))
        await until(lambda: service.messages(session_id), lambda seen, n=number: len(seen) == 2 * n + 4)
        queue.append(client)
    assert not at_work.most
    assert (await service.status(first.session_id))["status"] == "streaming"
    cue.end()
    for client in (first, *queue):
        if client is not first:
            await client.read_head()
        await client.read_all()
        assert (client.complete, client.payloads[-1]["status"]) == (True, "done")
    answers = await service.settled(session_id, turns=7)
    assert [answer["content"] for answer in answers] == ["Hello", *[said] * 6]
    assert [answer["run_id"] for answer in answers] == [client.run_id for client in (first, *queue)]
    assert at_work.most == 1


@SERVED
async def test_a_storm_of_replacements(service: Process, models: Models) -> None:
    """Each request replaces those before it: all end, and each is saved."""
    session_id = await service.session()
    storm = 30
    body = {"session_id": session_id, "if_busy": "replace"}
    clients = await asyncio.gather(
        *(
            ask(service, body | {"message": models.plan(say("Hello", done=False)), "compare_mode": n % 3 == 0})
            for n in range(storm)
        )
    )
    assert {client.status for client in clients} == {200}
    messages = await until(lambda: service.messages(session_id), lambda seen: len(live_ones(seen)) == 1)
    assert len(messages) == 2 * storm
    live = live_ones(messages)
    [last] = [client for client in clients if client.run_id == live[0]["run_id"]]
    await last.read_text("Hello")
    await service.stop(session_id)
    await asyncio.gather(*(client.read_all() for client in clients))
    endings = [client.payloads[-1]["stop_reason"] for client in clients]
    assert sorted(endings) == ["replaced"] * (storm - 1) + ["user_stop"]
    answers = await service.settled(session_id, turns=storm)
    assert {(answer["run_id"], answer["stop_reason"]) for answer in answers} == {
        (client.run_id, ending) for client, ending in zip(clients, endings, strict=True)
    }


def live_ones(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message for message in messages if message["status"] not in FINAL]


@SERVED
@pytest.mark.parametrize("compare_mode", [False, True], ids=["normal", "compare"])
async def test_leave_as_soon_as_the_request_is_sent(service: Process, models: Models, compare_mode: bool) -> None:
    """Accepted means accepted: nothing has happened, or the message is there and its run is running."""
    script, said = words(3, pause_s=0.002)
    turns = []

    async def one(number: int) -> None:
        session_id = await service.session()
        body = {"message": (prompt := models.plan(script)), "session_id": session_id, "compare_mode": compare_mode}
        client = await service.connect()
        await client.send(request("POST", "/api/chat_stream", body))
        await asyncio.sleep((number % 20) * 0.0005)
        client.leave(LEAVINGS[number % 3])
        turns.append((session_id, prompt))

    for first in range(0, 72, 12):
        await asyncio.gather(*(one(first + number) for number in range(12)))
    accepted = 0
    for session_id, prompt in turns:
        if not models.asked(prompt) and not await service.messages(session_id):
            continue
        accepted += 1
        [answer] = await service.settled(session_id)
        assert said.startswith(answer["content"])
        if not compare_mode:
            assert (answer["status"], answer["content"]) == ("done", said)
    assert accepted
    await service.until_metric("odysseus_runs", 0)


# Limits


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(models: Models, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    folder = tmp_path_factory.mktemp("small")
    async with serving(models, folder, max_runs=3, max_subscribers=4) as process:
        yield process


async def test_max_runs(small: Process, models: Models) -> None:
    cues = [Cue("Hello") for _ in range(3)]
    clients = [await small.chat(models.plan(cue), compare_mode=n == 1) for n, cue in enumerate(cues)]
    assert (await small.get("/readyz")).status == 503
    for compare_mode in (False, True):
        refused = await small.post("/api/chat_stream", {"message": "one more", "compare_mode": compare_mode})
        assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_runs")
        assert int(refused.headers["retry-after"]) > 0
    compare = (await small.post("/api/compare", {"message": models.plan(Cue()), "models": ["m", "n"]})).json
    refused = await small.get(compare["panes"][0]["stream"])
    assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_runs")
    sessions = (await small.get("/api/sessions")).json["sessions"]
    assert {session["id"] for session in sessions} == {client.session_id for client in clients}
    for cue, client in zip(cues, clients, strict=True):
        cue.end()
        await client.read_all()
    assert (await small.get("/readyz")).status == 200
    pane = await small.open("GET", compare["panes"][0]["stream"])  # a pane that was refused can be tried again
    assert pane.status == 200
    await small.stop(pane.session_id)


async def test_max_subscribers(small: Process, models: Models) -> None:
    cue = Cue("Hello")
    first = await small.chat(models.plan(cue))
    watchers = [await small.resume(first.session_id) for _ in range(3)]
    path = f"/api/chat/resume/{first.session_id}"
    refused = await small.get(path)
    assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_subscribers")
    assert int(refused.headers["retry-after"]) > 0
    before = await small.metric("odysseus_runs")
    refused = await small.post("/api/chat_stream", {"message": models.plan(words(2)[0])})
    assert (refused.status, refused.json["error"]["code"]) == (503, "too_many_subscribers")
    assert await small.metric("odysseus_runs") == before  # who can't watch it hasn't started it
    accepted = await small.post("/api/chat_stream", {"message": models.plan(words(2)[0])}, Accept="application/json")
    assert accepted.status == 202  # and who won't watch it may
    direct = await small.chat(models.plan(words(2)[0]), compare_mode=True)  # has no subscribers
    await direct.read_all()
    watchers.pop().close()
    await until(lambda: small.status(first.session_id), lambda seen: seen["subscribers"] == 3)
    again = await small.resume(first.session_id)
    assert again.status == 200
    cue.end()
    for client in (first, again, *watchers):
        assert (await client.read_all())[-1].data == b"[DONE]"
