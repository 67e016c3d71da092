"""Two nodes behind nginx, without sticky routing: one goes, as in a rolling restart, and nobody loses anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fake_upstream import say
from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models
from tests.process.nginx import in_front_of
from tests.process.nodes import nodes_with
from tests.process.raw_client import until
from tests.process.redis import redis_server
from tests.process.service import Service

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

RUNS = 12


async def test_a_node_goes(models: Models, tmp_path: Path, postgres: Postgres) -> None:
    async with (
        redis_server() as redis,
        nodes_with(2, models, tmp_path, redis=redis, postgres=postgres, drain_s=60) as nodes,
        in_front_of(*(node.service.port for node in nodes)) as nginx,
    ):
        service = nginx.h1()
        cues = [Cue("Hello") for _ in range(RUNS)]
        clients = [await service.chat(models.plan(cue)) for cue in cues]
        for client in clients:
            await client.read_text("Hello")
        goes, stays = nodes
        assert await goes.service.metric("odysseus_runs") > 0
        assert await stays.service.metric("odysseus_runs") > 0

        goes.terminate()
        await until(lambda: _refuses(goes.service.port))
        later = [await service.chat(models.plan(say("Later"))) for _ in range(RUNS)]  # each is sent once
        again = [await service.resume(client.session_id) for client in clients]
        for cue in cues:
            cue.say(", world")
            cue.end()
        for client in (*clients, *later, *again):
            await client.read_all()
        assert {client.text for client in again} == {"Hello, world"}
        assert {client.payloads[-1]["status"] for client in (*again, *later)} == {"done"}
        cut = [client for client in clients if client.payloads[-1]["type"] != "ended"]
        assert 0 < len(cut) < RUNS
        assert await goes.service.wait() == 0
    await models.all_closed()


async def _refuses(port: int) -> bool:
    try:
        (await Service(port).connect()).close()
    except ConnectionError:
        return True
    return False
