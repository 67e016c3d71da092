"""A PostgreSQL server of the tests' own: started, stopped and started again as they like."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

__all__ = ["Postgres", "free_port", "postgres", "postgres_server"]

_PASSWORD = "sesame-0123456789"


class Postgres:
    """A server of our own in *folder*, on a free port of 127.0.0.1; passwords are asked for."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._data = folder / "data"
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.port = 0
        self.running = False
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
        for last in (False, True):
            self.port = free_port()
            try:
                self.start()
            except AssertionError:  # a port that was free a moment ago may be somebody's
                if last:
                    raise
            else:
                return

    def start(self) -> None:
        """Start it, on the port that it had before, if it had one."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off -c max_connections=200"
        self._call("pg_ctl", "--wait", "--timeout=60", f"--log={self._folder}/log", f"--options={options}", "start")
        self.running = True

    def stop(self) -> None:
        """Stop it as a crash would: every connection breaks, and what was committed stays."""
        self._call("pg_ctl", "--wait", "--mode=immediate", "stop")
        self.running = False

    def url(self, database: str, password: str = _PASSWORD, port: int | None = None) -> str:
        """Return the URL of *database*; *port* is that of somebody in between."""
        return f"postgresql://odysseus:{password}@127.0.0.1:{port or self.port}/{database}"

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


def free_port() -> int:
    """Return one that nobody has, at this moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Run a server. Where PostgreSQL isn't installed the test is skipped, which CI doesn't let pass."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
    if not binaries or not (binaries[-1] / "initdb").exists():
        reason = "PostgreSQL's server isn't installed: there is no /usr/lib/postgresql/*/bin/initdb"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="odysseus-postgres-"))
    try:
        server = Postgres(binaries[-1], folder)
        try:
            yield server
        finally:
            if server.running:
                server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One that lives as long as the session, for whoever does it no harm."""
    with postgres_server() as server:
        yield server
