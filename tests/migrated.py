"""A database file that is up to date: to make its tables takes as long as all else in a service's start."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from odysseus.store.revisions import upgrade

__all__ = ["lay_tables"]


def lay_tables(data_dir: Path) -> None:
    """Put SQLite's default file into *data_dir*, as an earlier start would have; one that is there stays."""
    data_dir.mkdir(parents=True, exist_ok=True)
    file = data_dir / "odysseus.db"
    if not file.exists():
        file.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder, "odysseus.db")
        engine = sa.create_engine(f"sqlite:///{file}")
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        return file.read_bytes()
