"""`odysseus serve --workers`: one port, several nodes behind it, and who looks after them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.postgres import Postgres, free_port
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models
from tests.process.raw_client import Client, until
from tests.process.redis import Redis, redis_server
from tests.process.service import Process, environment

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

COUNT = 3
SECRET = "sesame-0123456789-sesame-0123456789"


class Workers(Process):
    """The service as several processes; those below the one that was started are its nodes."""

    def __init__(self, count: int, environment: dict[str, str]) -> None:
        super().__init__([sys.executable, "app.py", "serve", "--workers", str(count)], environment)
        self._database = environment.get("ODYSSEUS_DATABASE_URL", "")
        self._folders = [self.folder / f"worker-{number}" for number in range(1, count + 1)]

    @property
    def pids(self) -> list[int]:
        """As their data folders name them."""
        return [int((folder / "lock").read_text()) for folder in self._folders]

    async def gone(self, pids: list[int]) -> None:
        async def look() -> bool:
            return not any(map(_is_alive, pids))

        await until(look)

    async def stored(self, column: str, session_id: str) -> Any:
        """Return what the database has in *column* of the session's answer."""
        connection = await asyncpg.connect(self._database)
        try:
            query = f"SELECT {column} FROM messages WHERE session_id = $1 AND role = 'assistant'"
            return await connection.fetchval(query, session_id)
        finally:
            await connection.close()

    async def pid_of(self, session_id: str) -> int:
        """Return the process of the worker that runs the session's run."""
        node = await self.stored("node", session_id)
        [folder] = [folder for folder in self._folders if (folder / "node").read_text() == node]
        return int((folder / "lock").read_text())


def _is_alive(pid: int) -> bool:
    """Whether any thread of it is: the first may be a zombie while another one still holds the sockets open."""
    try:
        threads = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (FileNotFoundError, ProcessLookupError):  # one of them is just going
        return True
    return any(stat.rpartition(")")[2].split()[0] not in "ZX" for stat in threads)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis() -> AsyncIterator[Redis]:
    async with redis_server() as server:
        yield server


@asynccontextmanager
async def working(
    models: Models, folder: Path, redis: Redis, postgres: Postgres, **settings: Any
) -> AsyncIterator[Workers]:
    shared = {
        "database_url": postgres.url(await postgres.create_database()), "redis_url": redis.url, "secret": SECRET,
        "lease_s": 2, "port": free_port(),
    }  # fmt: skip
    workers = await asyncio.to_thread(Workers, COUNT, environment(models, folder, shared | settings))
    pids: list[int] = []
    try:
        await workers.started()
        pids = workers.pids
        yield workers
    finally:
        workers.kill()
        await workers.wait()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def begun(workers: Workers, models: Models, cue: Cue | None = None) -> Client:
    """Start a run that has said something."""
    client = await workers.chat(models.plan(cue or Cue("Hello")))
    await client.read_text("Hello")
    return client


async def test_they_are_one_service(models: Models, tmp_path: Path, redis: Redis, postgres: Postgres) -> None:
    """Connections are spread over all, every run can be followed by whichever, and the death of one isn't the end."""
    async with working(models, tmp_path / "data", redis, postgres, drain_s=30) as workers:
        before = workers.pids
        cues = [Cue("Hello") for _ in range(40)]
        clients = [await begun(workers, models, cue) for cue in cues]
        owners = [await workers.pid_of(client.session_id) for client in clients]
        assert set(owners) == set(before)

        os.kill(before[1], signal.SIGKILL)
        await workers.gone([before[1]])  # till then it is given connections that nobody takes
        lost = owners.index(before[1])
        [answer] = await workers.settled(clients[lost].session_id)
        assert (answer["content"], answer["stop_reason"]) == ("Hello", "node_lost")

        async def after() -> list[int]:
            with suppress(ValueError):  # it is just being written
                return workers.pids
            return before

        pids = await until(after, lambda seen: seen != before)
        assert (pids[0], pids[2]) == (before[0], before[2])
        [said] = [line for line in workers.log if "is started again" in line]
        assert f"worker-2, process {before[1]}, has ended with -9" in said

        live = [at for at, owner in enumerate(owners) if owner != before[1]]
        again = [await workers.resume(clients[at].session_id) for at in live]
        for at in live:
            cues[at].say(", world")
            cues[at].end()
        for client in again:
            await client.read_all()
            assert client.text == "Hello, world"
        workers.terminate()
        assert await workers.wait() == 0
        await workers.gone([*before, *pids])
    await models.all_closed()


async def test_a_signal_drains_all(models: Models, tmp_path: Path, redis: Redis, postgres: Postgres) -> None:
    """The first gives the runs their time, and the second cuts it short."""
    async with working(models, tmp_path / "data", redis, postgres, drain_s=300) as workers:
        cue = Cue("Hello")
        ends, goes_on = await begun(workers, models, cue), await begun(workers, models)
        pids = workers.pids
        os.killpg(workers.process.pid, signal.SIGINT)  # as a terminal does, to all that it sees

        async def refuses() -> bool:
            try:
                (await workers.connect()).close()
            except ConnectionError:
                return True
            return False

        await until(refuses)
        cue.end()
        await until(lambda: workers.stored("status", ends.session_id), lambda status: status == "done")
        assert workers.process.poll() is None
        workers.terminate()
        assert await workers.wait() == 0
        await workers.gone(pids)
        assert not workers.faults
    async with working(models, tmp_path / "other", redis, postgres, database_url=workers._database) as others:
        for client, content in ((ends, "done"), (goes_on, "interrupted")):
            [answer] = await others.settled(client.session_id)
            assert answer["status"] == content
    await models.all_closed()


async def test_they_end_with_who_started_them(models: Models, tmp_path: Path, redis: Redis, postgres: Postgres) -> None:
    async with working(models, tmp_path / "data", redis, postgres, drain_s=300) as workers:
        client = await begun(workers, models)
        pids = workers.pids
        os.kill(workers.process.pid, signal.SIGKILL)
        await workers.gone(pids)
    async with working(models, tmp_path / "data", redis, postgres, database_url=workers._database) as others:
        [answer] = await others.settled(client.session_id)
        assert (answer["content"], answer["stop_reason"]) == ("Hello", "shutdown")
    await models.all_closed()


async def test_one_that_goes_is_replaced(models: Models, tmp_path: Path, redis: Redis, postgres: Postgres) -> None:
    """Told to go by somebody else, it drains, and the port is never without the others."""
    async with working(models, tmp_path / "data", redis, postgres, drain_s=0) as workers:
        before = workers.pids
        os.kill(before[0], signal.SIGTERM)

        async def replaced() -> bool:
            with suppress(ConnectionResetError):  # it was just going to be accepted by the one that goes
                answer = await workers.get("/readyz")
                assert answer.status == 200 or answer.json["draining"]
            return any("worker-1" in line and "has ended with 0" in line for line in workers.log)

        await until(replaced)


async def refused(count: int, folder: Path, **settings: Any) -> str:
    """Start the service; return the one line that it said, and ended with 2."""
    workers = await asyncio.to_thread(Workers, count, environment(None, folder, settings))
    try:
        assert (await workers.wait(), len(workers.log)) == (2, 1), workers.log
        return workers.log[0].removeprefix("odysseus: ")
    finally:
        workers.kill()


async def test_what_ends_the_start(tmp_path: Path, redis: Redis, postgres: Postgres) -> None:
    several = {"redis_url": redis.url, "database_url": postgres.url("postgres"), "secret": SECRET, "port": 8080}
    said = await asyncio.gather(
        refused(2, tmp_path / "1", port=8080),
        refused(0, tmp_path / "2", **several),
        refused(2, tmp_path / "3", **several | {"port": 0}),
        refused(2, tmp_path / "4", **several | {"secret": ""}),
    )
    assert [line.partition(": ")[0] for line in said] == [
        "--workers", "--workers", "ODYSSEUS_PORT", "ODYSSEUS_REDIS_URL"
    ]  # fmt: skip
    assert "set ODYSSEUS_REDIS_URL" in said[0]
    assert "set ODYSSEUS_SECRET" in said[3]


async def test_a_port_in_use(tmp_path: Path, redis: Redis, postgres: Postgres) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        said = await refused(
            2, tmp_path, port=taken.getsockname()[1], redis_url=redis.url, secret=SECRET,
            database_url=postgres.url(await postgres.create_database()), upstream_url="http://127.0.0.1:9/v1",
        )  # fmt: skip
    assert said.startswith("ODYSSEUS_PORT: can't listen on 127.0.0.1:")
