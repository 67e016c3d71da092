"""Sessions, messages and compares in SQLite or PostgreSQL."""

from odysseus.store.database import Database, database_url
from odysseus.store.store import Store

__all__ = ["Database", "Store", "database_url"]
