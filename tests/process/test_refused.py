"""What ends the start: one line that says which setting it was, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models
from tests.process.nodes import nodes_with
from tests.process.redis import redis_server
from tests.process.service import APP, Process, environment, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]


async def refused(tmp_path: Path, models: Models, **settings: Any) -> tuple[int, list[str]]:
    """Start the service; return its exit code and what it said on stderr."""
    process = await asyncio.to_thread(Process, APP, environment(models, tmp_path / "data", settings))
    try:
        return await process.wait(), process.log
    finally:
        process.kill()


WRONG: dict[str, dict[str, Any]] = {
    "ODYSSEUS_PORT: ": {"port": "high"},
    "ODYSSEUS_PROT: no such setting; did you mean ODYSSEUS_PORT?": {"prot": 1},
    "ODYSSEUS_CONFIG: missing.toml can't be read": {"config": "missing.toml"},
    "ODYSSEUS_CONFIG: app.py isn't TOML": {"config": "app.py"},
    "ODYSSEUS_DATABASE_URL: ": {"database_url": "sqlite:////dev/null/x"},
    "ODYSSEUS_DATA_DIR: app.py": {"data_dir": "app.py"},
    "ODYSSEUS_HOST: ": {"host": "192.0.2.1", "open_to_network": True},
    "ODYSSEUS_REDIS_URL: is for several nodes": {"redis_url": "redis://127.0.0.1:6379/0"},
    "ODYSSEUS_REDIS_REQUIRED: is set, but": {"redis_required": "true"},
    "ODYSSEUS_HOST: 0.0.0.0 lets in other machines": {"host": "0.0.0.0"},
}
"""What is wrong, by what is said of it."""


async def test_a_wrong_setting(models: Models, tmp_path: Path) -> None:
    ends = (refused(tmp_path / str(number), models, **settings) for number, settings in enumerate(WRONG.values()))
    for said, (code, log) in zip(WRONG, await asyncio.gather(*ends), strict=True):
        assert (code, len(log)) == (2, 1), (said, log)
        assert log[0].startswith(f"odysseus: {said}")


WRONG_REDIS = ["http://127.0.0.1:6379", "redis://127.0.0.1:port", "redis+cluster://", "redis://127.0.0.1?nonsense=1"]


async def test_an_address_that_is_no_redis(models: Models, tmp_path: Path, postgres: Postgres) -> None:
    database_url = postgres.url(await postgres.create_database())
    for number, redis_url in enumerate(WRONG_REDIS):
        settings = {"database_url": database_url, "redis_url": redis_url, "secret": "sesame-0123456789" * 2}
        code, log = await refused(tmp_path / str(number), models, **settings)
        assert (code, len(log)) == (2, 1), (redis_url, log)
        assert "SECRET" not in log[0]
        assert log[0].startswith("odysseus: ODYSSEUS_REDIS_URL: ")


async def test_a_database_of_several_nodes(models: Models, tmp_path: Path, postgres: Postgres) -> None:
    """One process alone would take all their answers for those of a dead one."""
    async with redis_server() as redis, nodes_with(1, models, tmp_path, redis=redis, postgres=postgres) as nodes:
        client = await nodes[0].service.chat(models.plan(cue := Cue("Hello")))
        await client.read_text("Hello")
        code, log = await refused(tmp_path, models, database_url=postgres.url(nodes.database))
        assert (code, len(log)) == (2, 1), log
        assert log[0].startswith("odysseus: ODYSSEUS_DATABASE_URL: nodes use this database")
        cue.end()
        assert (await client.read_all())[-2].data.startswith(b'{"type":"ended","status":"done"')


async def test_a_port_in_use(models: Models, tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        code, log = await refused(tmp_path, models, port=port)
    assert (code, len(log)) == (2, 1), log
    assert log[0].startswith(f"odysseus: ODYSSEUS_PORT: can't listen on 127.0.0.1:{port}: ")


async def test_a_second_process_on_the_same_data(models: Models, tmp_path: Path) -> None:
    async with serving(models, tmp_path / "data") as first:
        client = await first.chat(models.plan(cue := Cue("Hello")))
        code, log = await refused(tmp_path, models)
        assert (code, len(log)) == (2, 1), log
        assert log[0].startswith("odysseus: ODYSSEUS_DATA_DIR: ")
        assert str(first.worker) in log[0]
        cue.end()
        await client.read_all()
        assert client.payloads[-1]["status"] == "done"  # and not `node_lost`
