"""How the service goes down, and what is there when it comes back: killed, sent away, or left without its store."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.fake_upstream import Script
from tests.process.models import Cue, Flood, Models, before_headers, before_token, words
from tests.process.raw_client import Client, request, until
from tests.process.service import Process, books, check_books, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

BOTH = pytest.mark.parametrize("way", ["app.py", "gunicorn"])


async def hear(client: Client) -> None:
    """Read until the end, whichever it is."""
    try:
        await client.read_all()
    except ConnectionError:
        pass


# kill -9

KINDS: dict[str, tuple[Script, str]] = {
    "slow": words(10_000, pause_s=0.05),
    "fast": words(10_000, pause_s=0.01, size=500),
    "short": words(3),
    "silent": (before_token, ""),
    "not answered": (before_headers, ""),
}


@pytest.mark.parametrize(("way", "after_s"), [("app.py", 0.3), ("app.py", 2.4), ("gunicorn", 1.2)])
async def test_kill_9(models: Models, tmp_path: Path, way: str, after_s: float) -> None:
    """Many answers in every state; the service dies the moment one more is announced to have ended."""
    async with serving(models, tmp_path, way) as first:
        told: list[tuple[str, Client, asyncio.Task[None]]] = []
        for number in range(25):
            kind = random.choice(list(KINDS))
            client = await first.chat(models.plan(KINDS[kind][0]), compare_mode=number % 3 == 0)
            told.append((kind, client, asyncio.create_task(hear(client))))
        await asyncio.sleep(after_s)
        last = await first.chat(models.plan(KINDS["short"][0]))
        await last.read_events(3)
        while last.payloads[-1]["type"] != "ended":
            await last.read()
        killed_at = time.monotonic()
        first.kill()
        await first.wait()
        await asyncio.gather(*(task for *_, task in told))
    async with serving(models, tmp_path, way) as second:
        for kind, client, _ in told:
            await check_survivor(second, client, KINDS[kind][1], killed_at)
        [answer] = await second.settled(last.session_id)
        assert (answer["status"], answer["content"]) == ("done", KINDS["short"][1])
        assert not second.faults
    check_books(tmp_path)


async def check_survivor(service: Process, client: Client, said: str, killed_at: float) -> None:
    """A second or 2 KB may be lost, and what was streamed while that was written."""
    [answer] = await service.settled(client.session_id)
    stored = answer["content"]
    assert said.startswith(stored)
    ended = [payload for payload in client.payloads if payload["type"] == "ended"]
    expected = ("done", None) if ended else ("interrupted", "node_lost")
    assert (answer["status"], answer["stop_reason"]) == expected or (not ended and answer["status"] == "done")
    if ended:
        assert stored == said
    assert len(stored) >= text_before(client, killed_at - 2)
    assert len(stored) >= text_before(client, killed_at - 1) - 2048
    assert (await service.status(client.session_id))["status"] == answer["status"]
    detached = client.payloads[0]["detached"]
    for last_event_id in (None, client.events[0].last_event_id):
        again = await service.resume(client.session_id, last_event_id)
        assert again.status == (200 if detached else 204)
        if detached:
            await again.read_all()
            snapshot, end = again.payloads
            assert (snapshot["type"], snapshot["content"], snapshot["status"]) == ("snapshot", stored, answer["status"])
            assert (end["type"], end["status"], end["message_id"]) == ("ended", answer["status"], answer["id"])
            ids = [f"{client.run_id}.{end}" for end in ("snapshot", "end", "end")]
            assert [event.last_event_id for event in again.events] == ids
            assert (again.events[-1].data, again.complete) == (b"[DONE]", True)
        again.close()
    assert (await service.resume(client.session_id, f"{client.run_id}.end")).status == 204


def text_before(client: Client, moment: float) -> int:
    """Return how many characters of the answer *client* had before *moment*."""
    texts = zip(client.payloads, client.arrivals, strict=False)
    return sum(len(payload["text"]) for payload, at in texts if payload["type"] == "delta" and at < moment)


# Asked to go


@pytest.mark.parametrize(
    ("way", "number"), [("app.py", signal.SIGTERM), ("app.py", signal.SIGINT), ("gunicorn", signal.SIGTERM)]
)
async def test_drain(models: Models, tmp_path: Path, way: str, number: signal.Signals) -> None:
    cues = {name: Cue(f"{name} ") for name in ("ends", "ends, compare", "stays", "stays, compare")}
    async with serving(models, tmp_path, way, drain_s=1) as service:
        clients = {
            name: await service.chat(models.plan(cue), compare_mode="compare" in name) for name, cue in cues.items()
        }
        for name, client in clients.items():
            await client.read_text(f"{name} ")
        stays = clients["stays"].session_id
        queued = await service.chat(models.plan(Cue()), session_id=stays, if_busy="queue")
        watcher = await service.resume(stays)
        asked_at = time.monotonic()
        service.terminate(number)
        if way == "app.py":  # gunicorn closes its listeners at once
            ready = await until(lambda: service.get("/readyz"), lambda answer: answer.status == 503)
            assert (ready.json["draining"], ready.json["store"]) == (True, True)
            refused = await service.post("/api/chat_stream", {"message": "hello"})
            assert (refused.status, refused.json["error"]["code"]) == (503, "draining")
            assert int(refused.headers["retry-after"]) > 0
            assert (await service.get("/healthz")).status == 200
            late = await service.resume(clients["ends"].session_id)
            await late.read_text("ends ")
        for name in ("ends", "ends, compare"):
            cues[name].end()
        for client in (*clients.values(), watcher, queued):
            await client.read_all()
            assert (client.complete, client.events[-1].data) == (True, b"[DONE]")
        assert await service.wait() == 0
        assert 1 < time.monotonic() - asked_at < 8
        assert not service.faults
    check_books(tmp_path)
    kept = books(tmp_path)
    for name, client in clients.items():
        ending = ("done", None) if name.startswith("ends") else ("interrupted", "shutdown")
        assert (client.payloads[-1]["status"], client.payloads[-1]["stop_reason"]) == ending
        assert kept[client.session_id][1][1:] == (*ending, f"{name} ")
    assert kept[stays][3][1:] == ("interrupted", "shutdown", "")
    assert watcher.payloads[-1] == clients["stays"].payloads[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_hurries(models: Models, tmp_path: Path, number: signal.Signals) -> None:
    async with serving(models, tmp_path, drain_s=60) as service:
        clients = [await service.chat(models.plan(Cue("Hello")), compare_mode=bool(n % 2)) for n in range(20)]
        for client in clients:
            await client.read_text("Hello")
        service.terminate()
        await until(lambda: service.get("/readyz"), lambda answer: answer.status == 503)
        asked_at = time.monotonic()
        service.terminate(number)
        for client in clients:
            await client.read_all()
            assert (client.complete, client.payloads[-1]["stop_reason"]) == (True, "shutdown")
        service.terminate(number)  # and once more, which must not hurry the saves
        assert await service.wait() == 0
        assert time.monotonic() - asked_at < 5
        assert not service.faults
    check_books(tmp_path)
    for client in clients:
        assert books(tmp_path)[client.session_id][1][1:] == ("interrupted", "shutdown", "Hello")


@BOTH
async def test_clients_that_do_nothing_hold_nobody_up(models: Models, tmp_path: Path, way: str) -> None:
    async with serving(models, tmp_path, way, drain_s=0.3) as service:
        flood = Flood(blocks=2000, at_once=50)
        detached = await service.chat(models.plan(flood), receive_buffer=4096)
        path = f"/api/chat/resume/{detached.session_id}"
        for _ in range(10):
            await service.open("GET", path, receive_buffer=4096)
        floods = [Flood() for _ in range(3)]
        direct = [await service.chat(models.plan(each), compare_mode=True, receive_buffer=4096) for each in floods]
        for each in floods:
            await each.stuck()
        silent = await service.chat(models.plan(Cue("Hello")))
        await silent.read_text("Hello")
        whole = request("POST", "/api/chat_stream", {"message": "hello"})
        for length in (0, 20, len(whole) - 5):  # nor those that don't come to the end of their request
            client = await service.connect()
            await client.send(whole[:length])
        asked_at = time.monotonic()
        service.terminate()
        await silent.read_all()
        assert silent.complete
        assert await service.wait() == 0
        assert time.monotonic() - asked_at < 8
        assert not service.faults
    check_books(tmp_path)
    for client in direct:
        _, status, stop_reason, content = books(tmp_path)[client.session_id][1]
        assert (status, stop_reason, Flood.said(content)) == ("interrupted", "shutdown", True)


# Without its store

ENDINGS = {"done": "done", "stopped": "stopped", "left": "stopped"}
BROKEN = """
    CREATE TRIGGER broken BEFORE UPDATE ON messages WHEN NEW.status != 'streaming'
    BEGIN SELECT RAISE(ABORT, 'broken'); END
"""
FULL = "CREATE TRIGGER full BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'full'); END"


def connected(folder: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(folder / "odysseus.db", isolation_level=None))


async def end_three_ways(service: Process, models: Models, database: sqlite3.Connection, breaks: str) -> dict[str, str]:
    """End a run in each way while *database* refuses to save; return the sessions, and which way each went."""
    cues = {way: Cue(f"{way} ") for way in ENDINGS}
    prompts = {way: models.plan(cue) for way, cue in cues.items()}
    clients = {way: await service.chat(prompt, compare_mode=way == "left") for way, prompt in prompts.items()}
    for way, client in clients.items():
        await client.read_text(f"{way} ")
    database.execute(breaks)
    since = time.monotonic()
    cues["done"].say("and more")
    cues["done"].end()
    clients["left"].close()
    stop, left_at, stopped_at, *_ = await asyncio.gather(
        service.stop(clients["stopped"].session_id),
        models.closed(prompts["left"]),
        models.closed(prompts["stopped"]),
        clients["done"].read_all(),
        clients["stopped"].read_all(),
    )
    assert max(left_at, stopped_at) < since + 5  # before the save, which waits 15 s for a lock
    assert (stop.json["status"], stop.json["chars"]) == ("stopped", len("stopped "))
    assert (clients["done"].complete, clients["done"].payloads[-1]["status"]) == (True, "done")
    sessions = {client.session_id: way for way, client in clients.items()}
    await service.until_metric("odysseus_saves_spooled_total", 3)
    assert len(list((service.folder / "spool").glob("*.json"))) == 3
    assert {rows[1][1] for session, rows in books(service.folder).items() if session in sessions} == {"streaming"}
    return sessions


def check_three_ways(folder: Path, sessions: dict[str, str]) -> None:
    check_books(folder)
    for session_id, way in sessions.items():
        [_, (_, status, _, content)] = books(folder)[session_id]
        assert (status, content) == (ENDINGS[way], "done and more" if way == "done" else f"{way} ")


async def play_locked_out(models: Models, folder: Path) -> None:
    async with serving(models, folder) as service:
        with connected(folder) as database:
            sessions = await end_three_ways(service, models, database, "BEGIN EXCLUSIVE")
            assert (await service.post("/api/chat_stream", {"message": "hello"})).status == 503
            service.kill()
            await service.wait()
    async with serving(models, folder) as service:
        for session_id, way in sessions.items():
            [answer] = await service.settled(session_id)
            assert answer["status"] == ENDINGS[way]
    check_three_ways(folder, sessions)


async def play_broken(models: Models, folder: Path) -> None:
    async with serving(models, folder) as service:
        with connected(folder) as database:
            sessions = await end_three_ways(service, models, database, BROKEN)
            database.execute("DROP TRIGGER broken")
        for session_id, way in sessions.items():
            [answer] = await service.settled(session_id)
            assert answer["status"] == ENDINGS[way]
        await until(lambda: spooled(folder), lambda seen: not seen)
    check_three_ways(folder, sessions)


Scenes = dict[str, asyncio.Task[None]]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def scenes(models: Models, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scenes]:
    """They wait for the retries of a save most of the time: so they play while the module's other tests do."""
    plays = {"locked out": play_locked_out, "broken": play_broken}
    scenes = {name: asyncio.create_task(play(models, tmp_path_factory.mktemp("scene"))) for name, play in plays.items()}
    yield scenes
    for scene in scenes.values():
        scene.cancel()
    await asyncio.gather(*scenes.values(), return_exceptions=True)


async def test_spooled_answers_survive_a_drain(models: Models, tmp_path: Path) -> None:
    async with serving(models, tmp_path) as service:
        with connected(tmp_path) as database:
            sessions = await end_three_ways(service, models, database, BROKEN)
            service.terminate()
            assert await service.wait() == 0
            database.execute("DROP TRIGGER broken")
    async with serving(models, tmp_path) as service:
        for session_id in sessions:
            await service.settled(session_id)
    check_three_ways(tmp_path, sessions)


async def test_a_store_that_accepts_nothing(models: Models, tmp_path: Path) -> None:
    async with serving(models, tmp_path) as service:
        old = await service.session()
        with connected(tmp_path) as database:
            database.execute(FULL)
            for session in ({}, {"session_id": old}):
                for compare_mode in (False, True):
                    body = {"message": "hello", "compare_mode": compare_mode} | session
                    refused = await service.post("/api/chat_stream", body)
                    assert (refused.status, refused.json["error"]["code"]) == (503, "store_unavailable")
                    assert int(refused.headers["retry-after"]) > 0
            database.execute("DROP TRIGGER full")
        assert [session["id"] for session in (await service.get("/api/sessions")).json["sessions"]] == [old]
        client = await service.chat(models.plan(words(2)[0]), session_id=old)
        await client.read_all()
        assert client.payloads[-1]["status"] == "done"
        await service.settled(old)


async def test_a_second_ending_changes_nothing(models: Models, tmp_path: Path) -> None:
    """Somebody else has ended the message, as another node may; what this process knows better comes too late."""
    async with serving(models, tmp_path) as service:
        cues = [Cue("Hello") for _ in range(3)]
        clients = [await service.chat(models.plan(cue), compare_mode=cue is cues[1]) for cue in cues]
        for client in clients:
            await client.read_text("Hello")
        with connected(tmp_path) as database:
            database.execute("UPDATE messages SET status = 'done', content = 'theirs' WHERE status = 'streaming'")
        for cue, client in zip(cues, clients, strict=True):
            cue.say("." * 5000)  # so much that it makes a checkpoint
            await client.read_text(cue.said)
        cues[0].end()
        await clients[0].read_all()
        await service.stop(clients[1].session_id)
        await clients[1].read_all()
        service.kill()
        await service.wait()
    async with serving(models, tmp_path) as service:
        assert (await service.get("/readyz")).status == 200
    check_books(tmp_path)
    for client in clients:
        assert books(tmp_path)[client.session_id][1][1:] == ("done", None, "theirs")


@pytest.mark.parametrize("scene", ["broken", "locked out"])
async def test_a_store_that_takes_nothing_for_a_while(scenes: Scenes, scene: str) -> None:
    """It takes the answers from the spool when it can again: in the same process, and after a kill -9."""
    await scenes[scene]


async def spooled(folder: Path) -> list[Path]:
    return list((folder / "spool").glob("*"))
