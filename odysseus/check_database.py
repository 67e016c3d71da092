"""How a database is found, without a change to it: what the next start would make of it."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from odysseus.errors import SettingsError
from odysseus.store import database_url
from odysseus.store.revisions import REVISIONS, revision_of
from odysseus.store.tables import metadata

__all__ = ["look_at_database", "sqlite_file"]

_SETTING = "ODYSSEUS_DATABASE_URL"
_CONNECT_S = 5.0


def sqlite_file(setting: str) -> Path | None:
    """Return the file that *setting* names; None if it names a server. Raises `SettingsError`."""
    url = database_url(setting)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


async def look_at_database(setting: str) -> str:
    """Return what is to be said of a database that is there. Raises `SettingsError` if the service can't use it."""
    url = database_url(setting)
    place = repr(url.set(query={}))  # a query can hold a password
    options: dict[str, float] = {"timeout": _CONNECT_S}
    if (file := sqlite_file(setting)) is not None:
        place = str(file)
        url = _read_only(url, file)
    try:
        if file is not None and not os.access(file, os.W_OK):
            raise PermissionError("it can't be written")
        engine = create_async_engine(url, connect_args=options, poolclass=NullPool)
        try:
            async with engine.connect() as connection:
                if file is None:
                    await connection.execution_options(postgresql_readonly=True)
                return f"{place} {await connection.run_sync(_state)}"
        finally:
            await engine.dispose()
    except (SQLAlchemyError, OSError, sqlite3.Error, TypeError) as error:  # TypeError: an option unknown to asyncpg
        text = str(getattr(error, "orig", None) or error) or type(error).__name__
        raise SettingsError(_SETTING, f"can't use {place}: {text.splitlines()[0]}") from error


def _read_only(url: sa.URL, file: Path) -> sa.URL:
    """Return *url* for reading. A file that nobody has open is taken as it stands: SQLite would leave files beside it.

    A log beside it means that it is open, or was when its service died; what it holds belongs to the database.
    """
    query = {"uri": "true", "mode": "ro"}
    if not Path(f"{file}-wal").exists():
        query["immutable"] = "1"
    return url.set(database=f"file:{quote(str(file.absolute()))}", query=query)


def _state(connection: sa.Connection) -> str:
    at, head = revision_of(connection), REVISIONS[-1]
    if at == head:
        return f"is up to date, at revision {head}"
    if not at and (taken := sorted(set(sa.inspect(connection).get_table_names()) & metadata.tables.keys())):
        raise SettingsError(_SETTING, f"the database has somebody else's tables: {', '.join(taken)}; name another one")
    may_create = sa.text("SELECT has_schema_privilege(current_schema(), 'CREATE')")
    if connection.dialect.name == "postgresql" and not connection.scalar(may_create):
        raise SettingsError(_SETTING, "its user may not make tables: GRANT CREATE ON SCHEMA to that user")
    return f"is at revision {at}, would be brought to {head}" if at else "is empty, its tables would be made"
