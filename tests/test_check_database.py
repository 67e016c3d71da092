"""What is said of databases; and that a look at one leaves no trace."""

from __future__ import annotations

import hashlib
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import odysseus.store
from odysseus.check_database import look_at_database, sqlite_file
from odysseus.errors import SettingsError
from odysseus.store import Database, database_url
from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.waiting import soon

KEY = "sesame-0123456789"
VERSIONS = Path(odysseus.store.__file__).parent / "migrations" / "versions"
HEAD = max(path.name[:4] for path in VERSIONS.glob("0*.py"))


async def look(setting: str) -> tuple[bool, str]:
    try:
        found = True, await soon(look_at_database(setting))
    except SettingsError as error:
        found = False, str(error)
    assert KEY not in found[1] and "\n" not in found[1]
    return found


def file_in(folder: Path) -> str:
    return f"sqlite:///{folder}/odysseus.db"


def contents(folder: Path) -> dict[str, str]:
    """Return all that is in *folder*, by name; of a database's index only that it is there."""
    return {
        str(path.relative_to(folder)): ""
        if path.name.endswith("-shm")
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


async def make(folder: Path) -> None:
    """Make the database that a service leaves behind."""
    database = Database(database_url(file_in(folder)))
    await database.open()
    await database.close()


def execute(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "odysseus.db")) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("setting", "file"),
    [("sqlite:///a/b.db", "a/b.db"), ("sqlite:////a/b.db", "/a/b.db"), ("postgresql://host/name", None)],
)
def test_sqlite_file(setting: str, file: str | None) -> None:
    assert sqlite_file(setting) == (None if file is None else Path(file))


async def test_a_database_that_is_up_to_date(tmp_path: Path) -> None:
    await make(tmp_path)
    before = contents(tmp_path)
    assert await look(file_in(tmp_path)) == (True, f"{tmp_path}/odysseus.db is up to date, at revision {HEAD}")
    assert contents(tmp_path) == before


async def test_a_database_in_use(tmp_path: Path) -> None:
    """What it holds is still in its log only, as it is after a kill -9."""
    database = Database(database_url(file_in(tmp_path)))
    await database.open()
    try:
        before = contents(tmp_path)
        assert "odysseus.db-wal" in before
        assert await look(file_in(tmp_path)) == (True, f"{tmp_path}/odysseus.db is up to date, at revision {HEAD}")
        assert contents(tmp_path) == before
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("statements", "ok", "words"),
    [
        ([], True, "is empty, its tables would be made"),
        (
            ["CREATE TABLE alembic_version (version_num TEXT)", "INSERT INTO alembic_version VALUES ('0001')"],
            True,
            f"is at revision 0001, would be brought to {HEAD}",
        ),
        (
            ["CREATE TABLE alembic_version (version_num TEXT)", "INSERT INTO alembic_version VALUES ('9999')"],
            False,
            "was made by a newer Odysseus (revision 9999); upgrade the service",
        ),
        (["CREATE TABLE sessions (x INTEGER)"], False, "has somebody else's tables: sessions; name another one"),
    ],
)
async def test_other_databases(tmp_path: Path, statements: list[str], ok: bool, words: str) -> None:
    execute(tmp_path, *statements)
    before = contents(tmp_path)
    good, said = await look(file_in(tmp_path))
    assert (good, said.endswith(words)) == (ok, True), said
    assert contents(tmp_path) == before


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "odysseus.db").write_text("This isn't a database. " * 100)
    problem = f"ODYSSEUS_DATABASE_URL: can't use {tmp_path}/odysseus.db: file is not a database"
    assert await look(file_in(tmp_path)) == (False, problem)


async def test_a_file_with_a_strange_name(tmp_path: Path) -> None:
    await make(tmp_path)
    (tmp_path / "odysseus.db").rename(strange := tmp_path / "a b#ä.db")
    assert await look(f"sqlite:///{strange}") == (True, f"{strange} is up to date, at revision {HEAD}")


async def test_postgresql(postgres: Postgres) -> None:
    url = postgres.url(await postgres.create_database())
    for _ in range(2):
        ok, words = await look(url)
        assert ok and words.endswith(" is empty, its tables would be made")
        assert "***" in words
    database = Database(database_url(url))
    await database.open()
    await database.close()
    ok, words = await look(url)
    assert ok and words.endswith(f" is up to date, at revision {HEAD}")


async def test_a_user_who_may_not_make_tables(postgres: Postgres) -> None:
    name = await postgres.create_database()
    await postgres.execute(f"CREATE ROLE {name}_guest LOGIN PASSWORD '{KEY}'")
    ok, words = await look(f"postgresql://{name}_guest:{KEY}@127.0.0.1:{postgres.port}/{name}")
    assert not ok
    assert "its user may not make tables: GRANT CREATE" in words


async def test_no_postgresql() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"postgresql://user:{KEY}@127.0.0.1:{nobody.getsockname()[1]}/name?password={KEY}"
        ok, words = await look(url)
    assert not ok
    assert words.startswith("ODYSSEUS_DATABASE_URL: can't use postgresql+asyncpg://user:***@127.0.0.1")
