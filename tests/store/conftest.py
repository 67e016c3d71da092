"""Real databases: SQLite in a folder of the test's own, and a PostgreSQL server that lives as long as the session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from odysseus.store import Database, Store, database_url
from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture

_SQLITE, _POSTGRESQL = "sqlite", "postgresql"


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
