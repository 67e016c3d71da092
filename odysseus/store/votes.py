"""Votes on blind compares in the database: given once, counted for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.errors import AlreadyVoted, InvalidField, NotBlind, NotEnded
from odysseus.messages import Compare, Role, Vote, now
from odysseus.ratings import Record
from odysseus.states import Status
from odysseus.store.compares import read_compare
from odysseus.store.database import Database
from odysseus.store.tables import compare_panes, compares, messages, sessions, votes

__all__ = ["Votes"]


class Votes:
    """Every verb raises `StoreError` when the database fails it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def cast(self, compare_id: str, owner: str, winner: int | None) -> Compare:
        """Store who has won the blind compare (None: a tie), and reveal its models. The same vote again is no
        other. Raises `NotFound`, `InvalidField`, `NotBlind`, `NotEnded` and, for another vote, `AlreadyVoted`.
        """
        return await self._database.write(lambda connection: _cast(connection, compare_id, owner, winner))

    async def records(self) -> tuple[int, Sequence[Record]]:
        """Return how many votes there are, of all owners, and the games they make: the winner's with each other pane,
        a tie's of every pair. A model doesn't play against itself."""
        return await self._database.read(_records)


async def _cast(connection: AsyncConnection, compare_id: str, owner: str, winner: int | None) -> Compare:
    mine = sa.select(compares.c.id).where(compares.c.id == compare_id, compares.c.owner == owner)
    await connection.execute(mine.with_for_update())  # of two at once, the second sees what the first has done
    compare = await read_compare(connection, compare_id, owner)
    if winner is not None and not 0 <= winner < len(compare.panes):
        raise InvalidField("winner", f"must be a pane's number, from 0 to {len(compare.panes) - 1}, or tie")
    if not compare.blind:
        raise NotBlind
    if compare.vote is not None:
        if compare.vote.winner != winner:
            raise AlreadyVoted
        return compare
    if not all(pane.claimed for pane in compare.panes) or await _streams(connection, compare):
        raise NotEnded
    row = {"compare_id": compare.id, "owner": owner, "winner": winner, "created_at": now()}
    await connection.execute(votes.insert(), row)
    await _reveal(connection, compare)
    return replace(compare, vote=Vote(winner))


async def _streams(connection: AsyncConnection, compare: Compare) -> bool:
    in_panes = messages.c.session_id.in_([pane.session_id for pane in compare.panes])
    streaming = sa.select(sa.exists().where(in_panes, messages.c.status == Status.STREAMING))
    return bool(await connection.scalar(streaming))


async def _reveal(connection: AsyncConnection, compare: Compare) -> None:
    """Write the models' names where their labels stand."""
    for pane in compare.panes:
        of_pane = sa.and_(messages.c.session_id == pane.session_id, messages.c.role == Role.ASSISTANT)
        await connection.execute(messages.update().where(of_pane).values(model=pane.model))
        session = sessions.update().where(sessions.c.id == pane.session_id)
        await connection.execute(session.values(model=pane.model, concealed=False))


async def _records(connection: AsyncConnection) -> tuple[int, Sequence[Record]]:
    """The games are counted where they are: there may be many."""
    count = await connection.scalar(sa.select(sa.func.count()).select_from(votes))
    one, other = compare_panes.alias(), compare_panes.alias()
    games = (
        sa.select(one.c.model.label("one"), other.c.model.label("other"), sa.func.count().label("games"))
        .select_from(votes)
        .join(one, one.c.compare_id == votes.c.compare_id)
        .join(other, other.c.compare_id == votes.c.compare_id)
        .where(one.c.model != other.c.model)
        .group_by(one.c.model, other.c.model)
    )
    won = await connection.execute(games.where(votes.c.winner == one.c.number, other.c.number != one.c.number))
    drawn = await connection.execute(games.where(votes.c.winner.is_(None), one.c.number < other.c.number))
    return int(count or 0), [
        *(Record(row.one, row.other, wins=row.games) for row in won),
        *(Record(row.one, row.other, ties=row.games) for row in drawn),
    ]
