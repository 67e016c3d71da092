"""A node is paused for too long, killed, or asked to go: its runs end once, or go on, and nobody misses a frame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from odysseus.settings import Settings
from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.conftest import Latencies
from tests.process.models import Cue, Models, words
from tests.process.nodes import Node, nodes_with
from tests.process.raw_client import Client, frames
from tests.process.redis import Redis, redis_server

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

DONE = b"data: [DONE]\n\n"
DRAIN_S = 20
FOUND_DEAD_S = 15  # with the lease that is the default


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis() -> AsyncIterator[Redis]:
    async with redis_server() as server:
        yield server


async def watch(client: Client) -> list[bytes]:
    """Read to the end of the run; return all frames."""
    await client.read_all()
    assert frames(client.body)[-1] == DONE
    return frames(client.body)


async def check_lost(node: Node, session_id: str, said: str) -> None:
    """Check that the session's one answer was ended for its dead node, with all that was *said*."""
    [answer] = await node.service.settled(session_id)
    assert (answer["content"], answer["status"], answer["stop_reason"]) == (said, "interrupted", "node_lost")
    status = await node.service.status(session_id)
    assert (status["status"], status["stop_reason"]) == ("interrupted", "node_lost")


async def test_a_pause_that_is_longer_than_the_lease(
    models: Models, redis: Redis, postgres: Postgres, tmp_path: Path
) -> None:
    """It was taken for dead: its run is ended by the other node, and what it does afterwards changes nothing."""
    async with nodes_with(2, models, tmp_path, redis=redis, postgres=postgres, drain_s=0) as nodes:
        paused, other = nodes
        near = await paused.service.chat(prompt := models.plan(cue := Cue("Hello")))
        await near.read_text("Hello")
        far = await other.service.resume(near.session_id)
        await far.read_text("Hello")
        paused.stop()
        seen = await watch(far)
        assert (far.text, far.payloads[-1]["stop_reason"]) == ("Hello", "node_lost")
        await check_lost(other, near.session_id, "Hello")
        assert len(models.open) == 1  # it still asks the model
        cue.say(", late")
        paused.resume()
        await models.closed(prompt)
        await near.read_all()
        assert frames(near.body)[-1] != DONE  # it is to come back
        last = near.events[-1].last_event_id
        for node in nodes:
            whole = await node.service.resume(near.session_id)
            assert await watch(whole) == seen
            back = await node.service.resume(near.session_id, last)
            await back.read_all()
            assert back.payloads[-1]["stop_reason"] == "node_lost"
            await check_lost(node, near.session_id, "Hello")
        script, said = words(5)
        again = await paused.service.chat(models.plan(script), session_id=near.session_id)
        assert await watch(again) == await watch(await other.service.resume(near.session_id))
        assert again.text == said
        assert [node.faults for node in nodes] == [[], []]


async def test_killed(models: Models, redis: Redis, postgres: Postgres, tmp_path: Path, latencies: Latencies) -> None:
    lease_s = Settings.model_fields["lease_s"].default
    async with nodes_with(3, models, tmp_path, redis=redis, postgres=postgres, drain_s=0, lease_s=lease_s) as nodes:
        dead, *others = nodes
        cues = [Cue("Hello"), Cue("Bye")]
        runs = [await dead.service.chat(models.plan(cue)) for cue in cues]
        watchers: list[Client] = []
        for run, cue, other in zip(runs, cues, others, strict=True):
            await run.read_text(cue.said)
            watchers.append(await other.service.resume(run.session_id))
            await watchers[-1].read_text(cue.said)
        await dead.kill()
        killed_at = time.monotonic()
        seen = await asyncio.gather(*(watch(watcher) for watcher in watchers))
        found_s = max(watcher.arrivals[-1] for watcher in watchers) - killed_at
        latencies.note("a dead node's runs are ended", found_s)
        assert found_s < FOUND_DEAD_S
        for run, cue, watcher, stream in zip(runs, cues, watchers, seen, strict=True):
            assert (watcher.text, watcher.payloads[-1]["stop_reason"]) == (cue.said, "node_lost")
            assert stream[: len(frames(run.body))] == frames(run.body)
            for other in others:
                await check_lost(other, run.session_id, cue.said)
                assert await watch(await other.service.resume(run.session_id)) == stream
        await dead.start()  # nothing is left for it to settle
        for run, cue in zip(runs, cues, strict=True):
            await check_lost(dead, run.session_id, cue.said)


async def test_asked_to_go(models: Models, redis: Redis, postgres: Postgres, tmp_path: Path) -> None:
    """Its subscribers go on at another node at once, while the run goes on where it is."""
    async with nodes_with(2, models, tmp_path, redis=redis, postgres=postgres, drain_s=DRAIN_S) as nodes:
        goes, stays = nodes
        near = await goes.service.chat(models.plan(cue := Cue("Hello")))
        await near.read_text("Hello")
        far = await stays.service.resume(near.session_id)
        await far.read_text("Hello")
        goes.terminate()
        await near.read_all()
        assert near.complete
        cue.say(" wor")
        moved = await stays.service.resume(near.session_id, near.events[-1].last_event_id)
        await moved.read_text(" wor")
        assert goes.running
        cue.say("ld")
        cue.end()
        rest = await watch(moved)
        assert [*frames(near.body), *rest] == await watch(far)
        assert far.text == "Hello world"
        assert far.payloads[-1]["status"] == "done"
        assert await goes.service.wait() == 0
        [answer] = await stays.service.settled(near.session_id)
        assert (answer["content"], answer["status"]) == ("Hello world", "done")
        assert [node.faults for node in nodes] == [[], []]


async def test_asked_to_go_with_a_run_that_does_not_end(
    models: Models, redis: Redis, postgres: Postgres, tmp_path: Path
) -> None:
    async with nodes_with(2, models, tmp_path, redis=redis, postgres=postgres, drain_s=1) as nodes:
        goes, stays = nodes
        near = await goes.service.chat(models.plan(Cue("Hello")))
        await near.read_text("Hello")
        goes.terminate()
        await near.read_all()
        moved = await stays.service.resume(near.session_id, near.events[-1].last_event_id)
        await watch(moved)
        assert (moved.payloads[-1]["status"], moved.payloads[-1]["stop_reason"]) == ("interrupted", "shutdown")
        assert await goes.service.wait() == 0
        [answer] = await stays.service.settled(near.session_id)
        assert (answer["content"], answer["stop_reason"]) == ("Hello", "shutdown")
