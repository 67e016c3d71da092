"""A full house that is sent away: 1,000 subscribers watch 100 runs of 100 owners when SIGTERM comes."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts.forge import SECRET, claims, hs256
from tests.process.models import Cue, Models
from tests.process.raw_client import Client, frames, request
from tests.process.service import Process, books, check_books, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

RUNS = 100
DIRECT = 10  # of them compare panes, which have no watchers
WATCHERS = 12  # of each other run, besides the client that has started it
DRAIN_S = 1.0
LIMIT_S = 15.0  # from the signal to the exit: the drain, the saves, and a slow machine
FILES = 4096


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """Let this process, and the service it starts, have as many connections as it takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def open_stream(service: Process, owner: str, method: str, path: str, body: object = None) -> Client:
    client = await service.connect()
    headers = {"Authorization": f"Bearer {hs256(claims(sub=owner))}"}
    await client.send(request(method, path, body, **headers))
    assert await client.read_head() == 200, (client.status, client.headers)
    return client


@pytest.mark.parametrize("way", ["app.py", "gunicorn"])
async def test_a_full_house_is_sent_away(models: Models, tmp_path: Path, way: str) -> None:
    """Every run is saved exactly once, within the limit, and every stream ends as a stream does."""
    async with serving(models, tmp_path, way, auth="jwt", auth_jwt_secret=SECRET, drain_s=DRAIN_S) as service:
        talks = [Cue("Hello ") for _ in range(RUNS)]
        first: list[Client] = []
        watchers: list[list[Client]] = []
        for number, talk in enumerate(talks):
            owner, direct = f"owner-{number}", number < DIRECT
            body = {"message": models.plan(talk), "compare_mode": direct}
            client = await open_stream(service, owner, "POST", "/api/chat_stream", body)
            path = f"/api/chat/resume/{client.session_id}"
            count = 0 if direct else WATCHERS
            first.append(client)
            watchers.append(await asyncio.gather(*(open_stream(service, owner, "GET", path) for _ in range(count))))
        assert sum(map(len, watchers)) >= 1000
        everyone = [client for number, client in enumerate(first) for client in (client, *watchers[number])]
        reading = [asyncio.create_task(client.read_all()) for client in everyone]
        talking = asyncio.create_task(go_on(talks))
        await service.until_metric("odysseus_runs", RUNS)
        await asyncio.sleep(0.5)  # in the middle of it
        asked_at = time.monotonic()
        service.terminate()
        for talk in talks[::2]:  # half of them end by themselves while the others are still being waited for
            talk.end()
        assert await service.wait() == 0
        lasted_s = time.monotonic() - asked_at
        await asyncio.gather(*reading)
        talking.cancel()
        assert not service.faults, "\n".join(service.faults)
    assert lasted_s < DRAIN_S + LIMIT_S, f"{lasted_s:.1f} s"
    check_books(tmp_path)
    kept = books(tmp_path)
    assert len(kept) == RUNS
    endings = []
    for client, watching in zip(first, watchers, strict=True):
        [_, (_, status, stop_reason, content)] = kept[client.session_id]
        end = client.payloads[-1]
        endings.append((status, stop_reason))
        assert (end["type"], end["status"], end["stop_reason"]) == ("ended", status, stop_reason)
        assert client.text == content
        assert content.startswith("Hello ")
        whole = frames(client.body)
        for each in (client, *watching):
            assert (each.complete, each.events[-1].data) == (True, b"[DONE]")
            assert frames(each.body) == whole
    assert endings[::2] == [("done", None)] * (RUNS // 2)
    assert endings[1::2] == [("interrupted", "shutdown")] * (RUNS // 2)


async def go_on(talks: list[Cue]) -> None:
    """Let every run say a word, again and again."""
    while True:
        for talk in talks:
            talk.say("and on ")
            await asyncio.sleep(0.25 / len(talks))
