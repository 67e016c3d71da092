"""API tokens in the database: who has one, and which are revoked. A revoked one stays, so that it can be told apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.accounts.api_tokens import StoredToken
from odysseus.messages import now
from odysseus.store.database import Database
from odysseus.store.tables import tokens

__all__ = ["Tokens"]


class Tokens:
    """Every verb raises `StoreError` when the database fails it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, token: StoredToken) -> None:
        await self._database.write(lambda connection: connection.execute(tokens.insert().values(asdict(token))))

    async def all(self) -> Sequence[StoredToken]:
        """Return every token, the oldest first."""
        return await self._database.read(_found)

    async def token(self, token_id: str) -> StoredToken | None:
        found = await self._database.read(lambda connection: _found(connection, tokens.c.id == token_id))
        return found[0] if found else None

    async def revoke(self, id_or_name: str) -> Sequence[StoredToken]:
        """Revoke the token of that id, or all of that name, and return them; none means that there is no such token.

        One that was revoked before keeps its time.
        """
        meant = sa.or_(tokens.c.id == id_or_name, tokens.c.name == id_or_name)

        async def work(connection: AsyncConnection) -> Sequence[StoredToken]:
            await connection.execute(
                tokens.update().where(meant, tokens.c.revoked_at.is_(None)).values(revoked_at=now())
            )
            return await _found(connection, meant)

        return await self._database.write(work)

    async def revoked(self, ids: Collection[str]) -> set[str]:
        """Return those of *ids* (at most 30,000) that are good for nothing any more: revoked, or gone."""
        good = sa.select(tokens.c.id).where(tokens.c.id.in_(ids), tokens.c.revoked_at.is_(None))
        rows = await self._database.read(lambda connection: connection.execute(good))
        return set(ids).difference(rows.scalars())


async def _found(connection: AsyncConnection, *where: sa.ColumnElement[bool]) -> Sequence[StoredToken]:
    rows = await connection.execute(sa.select(tokens).where(*where).order_by(tokens.c.created_at, tokens.c.id))
    return [StoredToken(**row) for row in rows.mappings()]
