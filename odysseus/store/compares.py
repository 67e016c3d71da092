"""Compares in the database: the statements, each within a transaction of its caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.errors import AlreadyClaimed, NotFound
from odysseus.messages import Compare, Mode, Pane, Session, new_id, now
from odysseus.store.tables import compare_panes, compares, sessions

__all__ = ["claim", "create_compare", "read_compare"]


async def create_compare(
    connection: AsyncConnection,
    owner: str,
    *,
    prompt: str,
    mode: Mode,
    system: str | None,
    models: Sequence[str],
    title: str,
) -> Compare:
    time = now()
    panes = [
        Pane(number=number, session_id=new_id("ses"), model=model, claimed=False) for number, model in enumerate(models)
    ]
    compare = Compare(id=new_id("cmp"), owner=owner, prompt=prompt, mode=mode, created_at=time, panes=panes)
    head = {"id": compare.id, "owner": owner, "prompt": prompt, "mode": mode, "created_at": time}
    await connection.execute(compares.insert(), head)
    for pane in panes:
        session = Session(
            id=pane.session_id,
            owner=owner,
            title=title,
            model=pane.model,
            system=system,
            created_at=time,
            updated_at=time,
            compare_id=compare.id,
        )
        await connection.execute(sessions.insert(), asdict(session))
        place = {"compare_id": compare.id, "number": pane.number, "session_id": pane.session_id, "model": pane.model}
        await connection.execute(compare_panes.insert(), place)
    return compare


async def read_compare(connection: AsyncConnection, compare_id: str, owner: str) -> Compare:
    """Raises `NotFound`."""
    found = sa.select(compares).where(compares.c.id == compare_id, compares.c.owner == owner)
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
    )


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
