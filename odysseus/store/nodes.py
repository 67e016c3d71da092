"""The nodes that share the database: who is alive, whose runs are whose, which stops wait for their owner.

A node beats: it counts up a number of its own. Whoever else has seen that number stand still for too long takes the
node's place away, and its answers with it, in one transaction; what it writes afterwards finds nothing of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.errors import NodeExpelled
from odysseus.messages import Ahead, now
from odysseus.states import Status, StopReason
from odysseus.store.database import Database
from odysseus.store.tables import Id, messages, nodes

__all__ = ["Beat", "Nodes", "hold_place", "runs_elsewhere"]


class Beat(NamedTuple):
    others: Mapping[str, int]
    """The other nodes, and how often each has beaten."""
    stops: Mapping[str, StopReason]
    """The ids of this node's runs that somebody wants to be stopped."""


class Nodes:
    """Every verb is one transaction, and raises `StoreError` when the database fails it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def join(self, node: str) -> None:
        place = {"id": node, "beat": 0, "seen_at": now()}
        await self._database.write(lambda connection: connection.execute(nodes.insert(), place))

    async def beaten_since(self, time: datetime) -> bool:
        """Whether some node has beaten since *time*, by its own clock."""
        statement = sa.select(sa.exists().where(nodes.c.seen_at >= time))
        return bool(await self._database.read(lambda connection: connection.scalar(statement)))

    async def leave(self, node: str) -> None:
        await self._database.write(
            lambda connection: connection.execute(nodes.delete().where(nodes.c.id == node, ~_HAS_RUNS))
        )

    async def beat(self, node: str) -> Beat | None:
        """Count *node*'s number up, and look at the others; None when the node has no place any more."""

        async def work(connection: AsyncConnection) -> Beat | None:
            mine = nodes.update().where(nodes.c.id == node).values(beat=nodes.c.beat + 1, seen_at=now())
            if (await connection.execute(mine)).rowcount == 0:
                return None
            others = await connection.execute(sa.select(nodes.c.id, nodes.c.beat).where(nodes.c.id != node))
            stops = await connection.execute(_STOPS, {"node": node})
            return Beat({row.id: row.beat for row in others}, {row.run_id: StopReason(row.stop_asked) for row in stops})

        return await self._database.write(work)

    async def take_over(self, dead: str, beat: int, by: str) -> Sequence[str] | None:
        """Give *dead*'s place up, and its live answers to *by*; return their run ids. None when it has beaten since
        *beat*, or somebody was quicker."""

        async def work(connection: AsyncConnection) -> Sequence[str] | None:
            place = await connection.execute(nodes.delete().where(nodes.c.id == dead, nodes.c.beat == beat))
            return None if place.rowcount == 0 else await _adopt(connection, messages.c.node == dead, by)

        return await self._database.write(work)

    async def adopt(self, by: str | None, *, of: str | None) -> Sequence[str]:
        """Give the live answers of *of*, an earlier process of ours that is dead for sure, to *by*, and those of
        processes from before there were nodes; return their run ids. With *by* None: all there are."""
        whose = sa.or_(messages.c.node.is_(None), messages.c.node == of) if by is not None else sa.true()

        async def work(connection: AsyncConnection) -> Sequence[str]:
            if of is not None:
                await connection.execute(nodes.delete().where(nodes.c.id == of))
            return await _adopt(connection, whose, by)

        return await self._database.write(work)

    async def owners(self, run_ids: Collection[str]) -> Mapping[str, str | None]:
        """Return the nodes of those of *run_ids* that are live."""
        statement = sa.select(messages.c.run_id, messages.c.node).where(
            messages.c.run_id.in_(run_ids), messages.c.status == Status.STREAMING
        )
        rows = await self._database.read(lambda connection: connection.execute(statement))
        return {row.run_id: row.node for row in rows}

    async def ask_stop(self, run_id: str, reason: StopReason) -> None:
        """Write down for the owner of *run_id* that it is to stop, for the case that it can't be told."""
        statement = (
            messages.update()
            .where(messages.c.run_id == run_id, messages.c.status == Status.STREAMING, messages.c.stop_asked.is_(None))
            .values(stop_asked=reason)
        )
        await self._database.write(lambda connection: connection.execute(statement))

    async def stop_of(self, run_id: str) -> StopReason | None:
        """Return why the run is to stop; None if nobody has written that down."""
        statement = sa.select(messages.c.stop_asked).where(messages.c.run_id == run_id)
        reason = await self._database.read(lambda connection: connection.scalar(statement))
        return None if reason is None else StopReason(reason)


_HAS_RUNS = sa.exists().where(messages.c.node == nodes.c.id, messages.c.status == Status.STREAMING)
_STOPS = sa.select(messages.c.run_id, messages.c.stop_asked).where(
    messages.c.status == Status.STREAMING,
    messages.c.node == sa.bindparam("node", type_=Id),
    messages.c.stop_asked.is_not(None),
)


async def hold_place(connection: AsyncConnection, node: str) -> None:
    """Let nobody take *node*'s place away before the transaction has ended. Raises `NodeExpelled` if somebody has."""
    place = sa.select(nodes.c.id).where(nodes.c.id == node).with_for_update(read=True, key_share=True)
    if await connection.scalar(place) is None:
        raise NodeExpelled


async def runs_elsewhere(connection: AsyncConnection, session_id: str, node: str | None) -> Sequence[Ahead]:
    """Return the session's live runs on other nodes than *node*, in the order they began in."""
    rows = await connection.execute(
        sa.select(messages.c.run_id, messages.c.node)
        .where(
            messages.c.session_id == session_id,
            messages.c.status == Status.STREAMING,
            messages.c.node.is_distinct_from(node),
        )
        .order_by(messages.c.n)
    )
    return [Ahead(row.run_id, row.node) for row in rows]


async def _adopt(connection: AsyncConnection, whose: sa.ColumnElement[bool], by: str | None) -> Sequence[str]:
    live = sa.and_(messages.c.status == Status.STREAMING, whose)
    run_ids = (await connection.scalars(sa.select(messages.c.run_id).where(live).with_for_update())).all()
    await connection.execute(messages.update().where(live).values(node=by))
    return [str(run_id) for run_id in run_ids]
