"""What stands under the store: migrations, settings that can't be, a database that goes away."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.errors import SettingsError, StoreError
from odysseus.store import Database, Store, database_url
from odysseus.store.tables import metadata
from tests.store.conftest import Postgres
from tests.waiting import soon, until

SETTING = "ODYSSEUS_DATABASE_URL"
PASSWORD = "sesame-0123456789"


async def opened(setting: str) -> None:
    """Open the database as the application does, and close it again."""
    threads = threading.active_count()
    database = Database(database_url(setting))
    try:
        await soon(database.open())
    finally:
        await database.close()
        await until(lambda: threading.active_count() <= threads)  # SQLite's: they tell this loop that they are done


async def refusal(setting: str) -> str:
    """Return why the setting is refused, after what every refusal must be."""
    with pytest.raises(SettingsError) as refused:
        await opened(setting)
    error = refused.value
    assert error.setting == SETTING
    assert "\n" not in str(error) and "Traceback" not in str(error)
    assert PASSWORD not in str(error)
    return error.problem


def wrong(setting: str, problem: str) -> Any:
    return pytest.param(setting, problem, id=setting)


# Settings


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("sqlite:///odysseus.db", "sqlite+aiosqlite:///odysseus.db"),
        ("sqlite:////var/lib/odysseus.db", "sqlite+aiosqlite:////var/lib/odysseus.db"),
        ("postgresql://host/name", "postgresql+asyncpg://host/name"),
        ("postgresql://user:p%40ss@host:5433/name", "postgresql+asyncpg://user:p%40ss@host:5433/name"),
    ],
)
def test_settings(setting: str, url: str) -> None:
    assert database_url(setting).render_as_string(hide_password=False) == url


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        wrong("", "not a URL"),
        wrong("odysseus.db", "not a URL"),
        wrong(f"{PASSWORD}@host/name", "not a URL"),
        wrong("mysql://host/name", "mysql: only sqlite and postgresql"),
        wrong(f"postgres://user:{PASSWORD}@host/name", "postgres: only sqlite and postgresql"),
        wrong("sqlite+aiosqlite:///x.db", "only sqlite and postgresql"),
        wrong("sqlite://", "names no file"),
        wrong("sqlite:///", "names no file"),
        wrong("sqlite:///:memory:", "memory"),
        wrong(f"postgresql://user:{PASSWORD}@host:port/name", ""),
        wrong("sqlite://host/odysseus.db", ""),
    ],
)
async def test_urls_that_cannot_be(setting: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert problem in await refusal(setting)


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        wrong("folder", "unable to open database file"),
        wrong("text", "file is not a database"),
        wrong("text/odysseus.db", ""),
        wrong("/proc/nowhere/odysseus.db", ""),
    ],
)
async def test_files_that_cannot_be(place: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("This isn't a database. " * 100)
    assert problem in await refusal(f"sqlite:///{tmp_path / place}")


async def test_the_folder_of_a_file_is_made(tmp_path: Path) -> None:
    await opened(f"sqlite:///{tmp_path}/a/b/odysseus.db")
    assert (tmp_path / "a/b/odysseus.db").exists()


async def test_nobody_listens() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        problem = await refusal(f"postgresql://user:{PASSWORD}@127.0.0.1:{nobody.getsockname()[1]}/name")
    assert "127.0.0.1" in problem and "***" in problem


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        wrong("{server}/nowhere", "nowhere"),
        wrong("{server}/postgres?nonsense=1", ""),
        wrong("{server}/postgres?sslmode=require", ""),
        wrong("postgresql://odysseus:wrong@{host}/postgres", "password"),
        wrong("postgresql://nobody:" + PASSWORD + "@{host}/postgres", "nobody"),
        wrong("postgresql://nobody@{host}/postgres?password=" + PASSWORD, "nobody"),
    ],
)
async def test_servers_that_refuse(postgres: Postgres, setting: str, problem: str) -> None:
    server = postgres.url("").rstrip("/")
    assert problem in await refusal(setting.format(server=server, host=server.partition("@")[2]))


# Migrations


async def inspected(database: Database, look: Any) -> Any:
    async def work(connection: AsyncConnection) -> Any:
        return await connection.run_sync(look)

    return await database.read(work)


async def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    def differences(connection: sa.Connection) -> list[Any]:
        def in_code(name: str | None, _kind: str, _parents: object) -> bool:
            return not str(name).startswith("messages_search")  # the search's index, which no statement builds on

        options = {"compare_type": True, "include_name": in_code}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert await inspected(database, differences) == []


async def test_opening_again_changes_nothing(url: str, database: Database, store: Store) -> None:
    session = await store.create_session("ann", title="T", model=None, system=None)
    await opened(url)
    await soon(database.open())
    assert await store.session(session.id, "ann") == session


OPEN = "import asyncio, sys; from tests.store.test_database import opened; asyncio.run(opened(sys.argv[1]))"


async def start_service(url: str) -> asyncio.subprocess.Process:
    """Open the database in a process of its own."""
    return await asyncio.create_subprocess_exec(sys.executable, "-c", OPEN, url, stderr=asyncio.subprocess.PIPE)


async def test_two_services_open_a_new_database_at_once(url: str) -> None:
    """PostgreSQL lets both see that there are no tables yet: whoever makes them second has to cope."""
    if not url.startswith("postgresql"):
        services = [await start_service(url) for _ in range(2)]
    else:
        holder, watcher = await asyncpg.connect(url), await asyncpg.connect(url)
        async with asyncio.timeout(60), holder.transaction():
            await holder.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
            services = [await start_service(url) for _ in range(2)]
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            while await watcher.fetchval(waiting) < 2:  # noqa: ASYNC110  # the server tells nobody
                await asyncio.sleep(0.02)
            await holder.execute("DROP TABLE alembic_version")
        await holder.close()
        await watcher.close()
    errors = [(await soon(service.communicate()))[1].decode() for service in services]
    assert ([service.returncode for service in services], errors) == ([0, 0], ["", ""])


async def test_a_database_that_is_newer_than_the_code(url: str, database: Database) -> None:
    newer = sa.text("UPDATE alembic_version SET version_num = '9999'")
    await database.write(lambda connection: connection.execute(newer))
    assert await refusal(url) == "the database was made by a newer Odysseus (revision 9999); upgrade the service"


async def test_a_migration_that_fails_leaves_nothing(url: str) -> None:
    """A table that is in the way: the one made before it is gone again."""
    database = Database(database_url(url))
    await database.write(lambda connection: connection.execute(sa.text("CREATE TABLE compares (x INTEGER)")))
    assert "compares" in await refusal(url)
    names = await inspected(database, lambda connection: sa.inspect(connection).get_table_names())
    await database.close()
    assert names == ["compares"]


# At work


async def test_sqlite_is_set_up(tmp_path: Path) -> None:
    database = Database(database_url(f"sqlite:///{tmp_path}/odysseus.db"))
    await database.open()

    async def pragma(name: str) -> Any:
        return await database.read(lambda connection: connection.scalar(sa.text(f"PRAGMA {name}")))

    assert [await pragma(name) for name in ("journal_mode", "foreign_keys", "synchronous")] == ["wal", 1, 1]
    await database.close()


async def test_a_transaction_that_fails_is_undone(database: Database, store: Store) -> None:
    session = await store.create_session("ann", title="T", model=None, system=None)

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("UPDATE sessions SET title = 'X'"))
        await connection.execute(sa.text("SELECT * FROM nowhere"))

    with pytest.raises(StoreError, match="nowhere"):
        await database.write(work)
    assert await store.session(session.id, "ann") == session


async def test_closing_waits_for_what_is_under_way(url: str, database: Database, store: Store) -> None:
    inside = asyncio.Event()

    async def work(connection: AsyncConnection) -> None:
        inside.set()
        await asyncio.sleep(0.1)
        await connection.execute(sa.text("CREATE TABLE proof (x INTEGER)"))

    caller = asyncio.create_task(database.write(work))
    await soon(inside.wait())
    caller.cancel()
    await soon(database.close())
    again = Database(database_url(url))
    assert "proof" in await inspected(again, lambda connection: sa.inspect(connection).get_table_names())
    await again.close()


async def test_a_server_that_goes_away(postgres: Postgres) -> None:
    """It is a `StoreError` while it is away, and nothing else is needed once it is back."""
    name = await postgres.create_database()
    database = Database(database_url(postgres.url(name)))
    await database.open()
    store = Store(database)
    session = await store.create_session("ann", title="T", model=None, system=None)
    hang_up = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    await postgres.execute(hang_up)
    assert await soon(store.session(session.id, "ann")) == session, "a lost connection is replaced"
    await postgres.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    await postgres.execute(hang_up)
    try:
        with pytest.raises(StoreError):
            await soon(store.ping())
    finally:
        await postgres.execute(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    assert await soon(store.session(session.id, "ann")) == session
    await database.close()
    await postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
