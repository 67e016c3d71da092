"""Compares in the database: the statements, each within a transaction of its caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.errors import AlreadyClaimed, NotFound
from odysseus.messages import Compare, CompareHead, Mode, Pane, Session, Vote, new_id, now
from odysseus.store.tables import compare_panes, compares, sessions, votes

__all__ = ["claim", "create_compare", "list_compares", "read_compare"]


async def create_compare(
    connection: AsyncConnection,
    owner: str,
    *,
    prompt: str,
    mode: Mode,
    system: str | None,
    models: Sequence[str],
    title: str,
    blind: bool,
) -> Compare:
    time = now()
    panes = [
        Pane(number=number, session_id=new_id("ses"), model=model, claimed=False) for number, model in enumerate(models)
    ]
    compare = Compare(
        id=new_id("cmp"), owner=owner, prompt=prompt, mode=mode, created_at=time, panes=panes, blind=blind
    )
    head = {"id": compare.id, "owner": owner, "prompt": prompt, "mode": mode, "created_at": time, "blind": blind}
    await connection.execute(compares.insert(), head)
    for pane in panes:
        session = Session(
            id=pane.session_id,
            owner=owner,
            title=title,
            model=pane.label if blind else pane.model,
            system=system,
            created_at=time,
            updated_at=time,
            compare_id=compare.id,
            concealed=blind,
        )
        await connection.execute(sessions.insert(), asdict(session))
        place = {"compare_id": compare.id, "number": pane.number, "session_id": pane.session_id, "model": pane.model}
        await connection.execute(compare_panes.insert(), place)
    return compare


async def read_compare(connection: AsyncConnection, compare_id: str, owner: str) -> Compare:
    """Raises `NotFound`."""
    found = _WITH_VOTE.where(compares.c.id == compare_id, compares.c.owner == owner)
    row = (await connection.execute(found)).mappings().one_or_none()
    if row is None:
        raise NotFound("compare")
    panes = await connection.execute(
        sa.select(compare_panes).where(compare_panes.c.compare_id == compare_id).order_by(compare_panes.c.number)
    )
    return Compare(
        id=row["id"],
        owner=row["owner"],
        prompt=row["prompt"],
        mode=Mode(row["mode"]),
        created_at=row["created_at"],
        panes=[
            Pane(
                number=pane["number"],
                session_id=pane["session_id"],
                model=pane["model"],
                claimed=pane["claimed_at"] is not None,
            )
            for pane in panes.mappings()
        ],
        blind=row["blind"],
        vote=_vote(row),
    )


async def list_compares(
    connection: AsyncConnection, owner: str, *, limit: int, before: str | None
) -> Sequence[CompareHead]:
    """Do what `Store.compares` promises."""
    statement = _WITH_VOTE.where(compares.c.owner == owner)
    if before is not None:
        last = await read_compare(connection, before, owner)
        place = sa.tuple_(compares.c.created_at, compares.c.id)
        statement = statement.where(place < sa.tuple_(sa.literal(last.created_at, compares.c.created_at.type), last.id))
    statement = statement.order_by(compares.c.created_at.desc(), compares.c.id.desc()).limit(limit)
    return [
        CompareHead(
            id=row["id"], prompt=row["prompt"], blind=row["blind"], vote=_vote(row), created_at=row["created_at"]
        )
        for row in (await connection.execute(statement)).mappings()
    ]


_WITH_VOTE = sa.select(compares, votes.c.compare_id.label("voted"), votes.c.winner).join(
    votes, votes.c.compare_id == compares.c.id, isouter=True
)


def _vote(row: sa.RowMapping) -> Vote | None:
    return None if row["voted"] is None else Vote(row["winner"])


async def claim(connection: AsyncConnection, compare_id: str, number: int) -> None:
    """Take the pane. Raises `AlreadyClaimed`."""
    claimed = await connection.execute(
        compare_panes.update()
        .where(
            compare_panes.c.compare_id == compare_id,
            compare_panes.c.number == number,
            compare_panes.c.claimed_at.is_(None),
        )
        .values(claimed_at=now())
    )
    if claimed.rowcount == 0:
        raise AlreadyClaimed
