"""Real databases: SQLite in a folder of the test's own, and a PostgreSQL server that lives as long as the session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from odysseus.store import Database, Store, database_url

_PASSWORD = "sesame-0123456789"
_SQLITE, _POSTGRESQL = "sqlite", "postgresql"


class Postgres:
    """A server of our own in *folder*, on a free port of 127.0.0.1; passwords are asked for."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._data = folder / "data"
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.port = 0
        self._count = 0
        password = folder / "password"
        password.write_text(_PASSWORD)
        if self._as_user:
            for path in (folder, password):
                shutil.chown(path, "postgres", "postgres")
        self._call(
            "initdb", "--username=odysseus", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8",
            "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip
        try:
            self._start(folder)
        except AssertionError:  # a port that was free a moment ago may be somebody's
            self._start(folder)

    def _start(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {folder} -c fsync=off -c max_connections=200"
        self._call("pg_ctl", "--wait", "--timeout=60", f"--log={folder}/log", f"--options={options}", "start")

    def stop(self) -> None:
        self._call("pg_ctl", "--wait", "--mode=immediate", "stop")

    def url(self, database: str, password: str = _PASSWORD) -> str:
        return f"postgresql://odysseus:{password}@127.0.0.1:{self.port}/{database}"

    async def create_database(self) -> str:
        self._count += 1
        await self.execute(f"CREATE DATABASE test_{self._count}")
        return f"test_{self._count}"

    async def execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _call(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._binaries / program), f"--pgdata={self._data}", *arguments]
        done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not binaries or not (binaries[-1] / "initdb").exists():
        reason = "PostgreSQL's server isn't installed: there is no /usr/lib/postgresql/*/bin/initdb"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="odysseus-postgres-"))
    try:
        server = Postgres(binaries[-1], folder)
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=[_SQLITE, _POSTGRESQL])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of an empty database, as the setting names it."""
    if request.param == _SQLITE:
        yield f"sqlite:///{tmp_path}/odysseus.db"
        return
    server: Postgres = request.getfixturevalue("postgres")
    name = await server.create_database()
    yield server.url(name)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def databases(url: str) -> AsyncIterator[list[Database]]:
    """Two of them on the same tables, as two processes have them."""
    async with AsyncExitStack() as stack:
        both = [Database(database_url(url)) for _ in range(2)]
        for database in both:
            stack.push_async_callback(database.close)
            await database.open()
        yield both


@pytest.fixture
def database(databases: list[Database]) -> Database:
    return databases[0]


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


@pytest.fixture
def stores(databases: list[Database]) -> list[Store]:
    return [Store(database) for database in databases]
