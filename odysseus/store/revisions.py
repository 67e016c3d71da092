"""The revisions of the tables: which there are, which one a database has, and how it comes to another one.

Alembic is loaded when it has something to do, which at almost every start it hasn't: it takes 0.1 s and 11 MB.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from odysseus.errors import SettingsError

__all__ = ["REVISIONS", "revision_of", "upgrade"]

_MIGRATIONS = Path(__file__).with_name("migrations")

REVISIONS = tuple(sorted(file.name.partition("_")[0] for file in (_MIGRATIONS / "versions").glob("[0-9]*.py")))
"""Those that this version knows, the newest last. The files are named by them."""


def revision_of(connection: sa.Connection) -> str | None:
    """Return what the database is at; None if it has no tables of ours.

    Raises `SettingsError` for one that a newer version has made.
    """
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(sa.text("SELECT version_num FROM alembic_version"))
    if revision not in {None, *REVISIONS}:
        problem = f"the database was made by a newer Odysseus (revision {revision}); upgrade the service"
        raise SettingsError("ODYSSEUS_DATABASE_URL", problem)
    return revision


def upgrade(connection: sa.Connection, revision: str = REVISIONS[-1]) -> None:
    """Bring the tables to *revision*, in the transaction of *connection*."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
