"""The engine under the store: connections, transactions, migrations at start.

Every transaction runs in a task of its own. A caller that is cancelled leaves at once, as a prompt stop demands, while
the statement under way ends in peace instead of breaking its connection.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from odysseus.errors import SettingsError, StoreError
from odysseus.store.revisions import REVISIONS, revision_of, upgrade
from odysseus.tasks import Tasks, look_at

__all__ = ["Database", "database_url"]

_SETTING = "ODYSSEUS_DATABASE_URL"
_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
_MIGRATION_LOCK = 0x0D155E05  # any number that nobody else uses
_CLOSE_S = 5.0
_CONNECT_S = 5.0
_STATEMENT_S = 60.0  # a migration may take its time

_T = TypeVar("_T")
Work = Callable[[AsyncConnection], Awaitable[_T]]


def database_url(setting: str) -> sa.URL:
    """Return *setting* (`sqlite:///..`, `postgresql://..`) with the driver we use. Raises `SettingsError`."""
    try:
        url = sa.make_url(setting)
    except (ArgumentError, ValueError):
        raise SettingsError(_SETTING, "not a URL; it looks like sqlite:///file or postgresql://host/name") from None
    if url.drivername not in _DRIVERS:
        raise SettingsError(_SETTING, f"{url.drivername}: only sqlite and postgresql are supported")
    if url.drivername == "sqlite" and (not url.database or url.database == ":memory:"):
        raise SettingsError(_SETTING, "names no file; a database in memory would lose every answer")
    if url.drivername == "sqlite" and url.host:
        raise SettingsError(_SETTING, "a file has no host: write sqlite:///file, or sqlite:////folder/file")
    if "sslmode" in url.query:  # libpq's word for it, which asyncpg doesn't know in a query
        url = url.difference_update_query(["sslmode"]).update_query_dict({"ssl": url.query["sslmode"]})
    return url.set(drivername=_DRIVERS[url.drivername])


class Database:
    def __init__(self, url: sa.URL) -> None:
        self._url = url
        self._tasks = Tasks()
        if self.dialect == "postgresql":
            limits = {"timeout": _CONNECT_S, "command_timeout": _STATEMENT_S}
            self._engine = _engine(url, pool_pre_ping=True, connect_args=limits)
        else:
            self._engine = _engine(url)
        # SQLite has one writer at a time. A lock of ours is fair; its own waiting is a sleep that grows.
        self._writer = asyncio.Lock() if self.dialect == "sqlite" else None
        if self._writer is not None:
            sa.event.listen(self._engine.sync_engine, "connect", _set_up_sqlite)
            sa.event.listen(self._engine.sync_engine, "begin", _begin_sqlite)

    @property
    def dialect(self) -> str:
        return self._url.get_backend_name()

    async def open(self) -> None:
        """Bring the tables up to date. Raises `SettingsError` when that can't be."""
        try:
            if self.dialect == "sqlite" and self._url.database is not None:
                Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
            await self._transaction(lambda connection: connection.run_sync(_migrate), write=True)
        except (SQLAlchemyError, OSError, sqlite3.Error, TypeError) as error:  # TypeError: an option unknown to asyncpg
            place = self._url.set(query={})  # a query can hold a password
            raise SettingsError(_SETTING, f"can't open {place!r}: {_first_line(error)}") from error

    async def close(self) -> None:
        await self._tasks.drain(_CLOSE_S)
        await self._engine.dispose()

    async def read(self, work: Work[_T]) -> _T:
        """Run *work* in a transaction that only reads. Raises `StoreError`."""
        return await self._apart(work, write=False)

    async def write(self, work: Work[_T]) -> _T:
        """Run *work* in a transaction; it is committed when this returns. Raises `StoreError`."""
        return await self._apart(work, write=True)

    async def _apart(self, work: Work[_T], *, write: bool) -> _T:
        writer = self._writer if write else None
        try:
            if writer is not None:
                await writer.acquire()  # whoever is cancelled here has begun nothing, and leaves nothing behind
            transaction = self._tasks.spawn(self._transaction(work, write=write))
            transaction.add_done_callback(look_at)  # its caller may have gone
            if writer is not None:
                transaction.add_done_callback(lambda _, lock=writer: lock.release())  # type: ignore[misc]
            return await asyncio.shield(transaction)
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(_first_line(error)) from error

    async def _transaction(self, work: Work[_T], *, write: bool) -> _T:
        async with self._engine.connect() as connection:
            await connection.execution_options(odysseus_write=write)
            async with connection.begin():
                return await work(connection)


def _engine(url: sa.URL, **options: Any) -> AsyncEngine:
    return create_async_engine(
        url,
        hide_parameters=True,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        **options,
    )


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # the driver must not begin transactions of its own: `_begin_sqlite` does
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")  # survives kill -9; FULL would cost an fsync a checkpoint
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA busy_timeout = 5000")
    cursor.close()
    connection.create_function("odysseus_contains", 2, _contains, deterministic=True)


def _contains(text: str | None, part: str) -> bool:
    """See `odysseus.store.search`. *part* is folded."""
    return text is not None and part in text.casefold()


def _begin_sqlite(connection: sa.Connection) -> None:
    # A deferred transaction that turns into a writer fails at once when another one wrote meanwhile.
    write = connection.get_execution_options().get("odysseus_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _migrate(connection: sa.Connection) -> None:
    if connection.dialect.name == "postgresql":  # two services that start at once: one migrates, the other waits for it
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
    if revision_of(connection) != REVISIONS[-1]:
        upgrade(connection)


def _first_line(error: BaseException) -> str:
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    return text.splitlines()[0]
