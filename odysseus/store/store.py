"""The store's verbs. Each is one transaction; an answer ends by a compare-and-set `streaming -> final`."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.answer import with_stopped_results
from odysseus.errors import NotFound, RunExists, StoreError
from odysseus.events import Part
from odysseus.messages import (
    Admit,
    Compare,
    CompareHead,
    Final,
    Found,
    Message,
    Mode,
    Role,
    Session,
    Turn,
    new_id,
    now,
)
from odysseus.states import Status, StopReason
from odysseus.store.batches import Batches
from odysseus.store.compares import claim, create_compare, list_compares, read_compare
from odysseus.store.database import Database
from odysseus.store.nodes import hold_place, runs_elsewhere
from odysseus.store.search import holds, search
from odysseus.store.statements import (
    CHECKPOINT,
    ENDED_AT,
    FINISH,
    HISTORY,
    LATEST_ANSWER,
    LEDGER,
    LIVE,
    OF_RUN,
    OF_SESSION,
    OURS,
    STREAMING_STILL,
    ending_row,
    message_of,
    new_row,
    streaming,
)
from odysseus.store.tables import messages, sessions
from odysseus.store.votes import Votes
from odysseus.tasks import Tasks, look_at

__all__ = ["Store"]

_TITLE_CHARS = 60
_BATCH_S = 5.0  # else others would pile up behind one that hangs


class Store:
    """Every verb raises `StoreError` when the database fails it. Cancelling one leaves its transaction whole."""

    def __init__(self, database: Database) -> None:
        self.node: str | None = None
        """Under which the runs of this process are stored; None where there is one node. Whoever else wants to write
        to them has taken them over before."""
        self.votes = Votes(database)
        self._database = database
        self._tasks = Tasks()
        self._checkpoints = Batches(self._write_checkpoints, self._tasks)
        self._endings = Batches(self._write_endings, self._tasks)

    async def close(self) -> None:
        """Let the writes end that are under way. The database is closed after this."""
        await self._tasks.drain(_BATCH_S)

    async def ping(self) -> None:
        """Return if the database answers."""
        await self._database.read(lambda connection: connection.execute(sa.select(1)))

    # Turns and answers

    async def begin(self, turn: Turn, admit: Admit | None = None) -> None:
        """Store the user's message and the answer's row, in status `streaming`, and what they stand in.

        *admit* is told of the session's live runs on other nodes; what it raises is raised, and nothing is stored.
        Raises `NotFound` when the session has gone, `AlreadyClaimed` when somebody has the turn's pane, `RunExists`,
        and `NodeExpelled`.
        """

        node = self.node

        async def work(connection: AsyncConnection) -> None:
            if node is not None:
                await hold_place(connection, node)
            if turn.claims is not None:
                await claim(connection, *turn.claims)
            await _take_place(connection, turn)
            if admit is not None:
                admit(await runs_elsewhere(connection, turn.session_id, node))
            user = new_row(new_id("msg"), turn, Role.USER, Status.DONE)
            user |= {"content": turn.text, "parts": [{"type": "text", "text": turn.text}]}
            answer = new_row(turn.message_id, turn, Role.ASSISTANT, Status.STREAMING)
            answer |= {"model": turn.model, "run_id": turn.run_id, "mode": turn.mode, "detached": turn.detached}
            answer |= {"node": node}
            try:
                for row in (user, answer):  # one by one: their order is the session's
                    await connection.execute(messages.insert(), row)
            except IntegrityError as error:
                if "run_id" not in str(error.orig):  # the constraint's name, or its column's
                    raise
                raise RunExists(turn.run_id) from error

        await self._database.write(work)

    def checkpoint(self, message_id: str, content: str, reasoning: str, parts: list[Part]) -> asyncio.Future[None]:
        """Overwrite the answer so far, if it is still `streaming`. Many at once make one transaction."""
        row = {"message": message_id, "by": self.node, "content": content, "reasoning": reasoning, "parts": parts}
        return self._checkpoints.add(row)

    async def _write_checkpoints(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[None]:
        async with asyncio.timeout(_BATCH_S):
            await self._database.write(lambda connection: connection.execute(CHECKPOINT, rows))
        return [None] * len(rows)

    async def finish(self, final: Final) -> bool:
        """End the message. False means that it has another end (or is another node's by now, or deleted), and that
        nothing has changed. To say it twice changes nothing: the first answer may have been lost.

        Many at once make one transaction. Cancelling leaves open whether it is ended.
        """
        ended = self._endings.add(final)
        ended.add_done_callback(look_at)  # its caller may have gone
        await asyncio.wait({ended})  # a write that is cancelled must not look like a cancel of the caller
        if ended.cancelled():
            raise StoreError("the store was closed")
        try:
            return ended.result()
        except TimeoutError as error:
            raise StoreError(f"no answer within {_BATCH_S:g} s") from error

    async def _write_endings(self, finals: Sequence[Final]) -> Sequence[bool]:
        async def work(connection: AsyncConnection) -> Sequence[bool]:
            ids = [final.message_id for final in finals]
            still = set(await connection.scalars(STREAMING_STILL, {"ids": ids, "by": self.node}))
            first = {final.message_id: final for final in reversed(finals) if final.message_id in still}
            if first:
                await connection.execute(FINISH, [ending_row(final) | {"by": self.node} for final in first.values()])
            if len(first) == len(finals):
                return [True] * len(finals)
            stored = await connection.execute(ENDED_AT, {"ids": ids})  # our node may have had another name then
            ended_at = {row.id: row.ended_at for row in stored}
            return [ended_at.get(final.message_id) == final.ended_at for final in finals]

        async with asyncio.timeout(_BATCH_S):
            return await self._database.write(work)

    async def interrupt_streaming(self, *, but: Collection[str] = ()) -> int:
        """End what a dead process left `streaming`, as `node_lost` with its last checkpoint; return how many.

        *but* are messages to leave alone, because their endings are known and only wait to be stored.
        """
        lost = sa.select(messages.c.id, messages.c.parts).where(
            messages.c.status == Status.STREAMING, messages.c.id.not_in(but), OURS
        )

        async def work(connection: AsyncConnection) -> int:
            rows = (await connection.execute(lost, {"by": self.node})).all()
            for message_id, parts in rows:
                await connection.execute(
                    streaming(message_id).values(
                        status=Status.INTERRUPTED,
                        stop_reason=StopReason.NODE_LOST,
                        parts=with_stopped_results(parts),
                        ended_at=now(),
                    ),
                    {"by": self.node},
                )
            return len(rows)

        return await self._database.write(work)

    async def history(self, turn: Turn) -> Sequence[Message]:
        """Return the session's messages before the turn's answer, oldest first."""
        return await self._messages(HISTORY, session=turn.session_id, message=turn.message_id)

    async def messages(self, session_id: str) -> Sequence[Message]:
        """Return all messages of the session, oldest first."""
        return await self._messages(OF_SESSION, session=session_id)

    async def message(self, session_id: str, message_id: str) -> Message:
        """Return one message of the session. Raises `NotFound`."""
        found = await self._messages(OF_SESSION.where(messages.c.id == message_id), session=session_id)
        if not found:
            raise NotFound("message")
        return found[0]

    async def answer_of(self, run_id: str, owner: str | None) -> Message | None:
        """Return the answer that run *run_id* made. Raises `NotFound` if it isn't *owner*'s; None asks for nobody."""
        rows = await self._database.read(lambda connection: connection.execute(OF_RUN, {"run": run_id}))
        row = rows.mappings().one_or_none()
        if row is not None and owner not in (None, row["owner"]):
            raise NotFound("run")
        return None if row is None else message_of(row)

    async def live_answers(self, session_id: str) -> Sequence[Message]:
        """Return the session's answers that stream, on whatever node, in the order they began in."""
        return await self._messages(LIVE, session=session_id)

    async def active_runs(self, session_ids: Collection[str]) -> Mapping[str, str]:
        """Return which of the sessions have streaming answers, and the run ids of the first ones."""
        statement = (
            sa.select(messages.c.session_id, messages.c.run_id)
            .where(messages.c.session_id.in_(session_ids), messages.c.status == Status.STREAMING)
            .order_by(messages.c.n.desc())
        )
        rows = await self._database.read(lambda connection: connection.execute(statement))
        return {row.session_id: row.run_id for row in rows}

    async def ledger_of(self, run_id: str) -> Sequence[Mapping[str, Any]] | None:
        """Return what run *run_id* wrote down, up to its save; None if its process died before."""
        ledger: Sequence[Mapping[str, Any]] | None = await self._database.read(
            lambda connection: connection.scalar(LEDGER, {"run": run_id})
        )
        return ledger

    async def latest_answer(self, session_id: str) -> Message | None:
        found = await self._messages(LATEST_ANSWER, session=session_id)
        return found[0] if found else None

    async def search(self, text: str, *, limit: int, owner: str, but_session: str) -> Sequence[Found]:
        """Return up to *limit* ended messages of *owner* that hold at least one of the first words of *text*, the best
        first.

        Those of session *but_session* and of compare panes are left out.
        """
        return await self._database.read(
            lambda connection: search(connection, text, limit=limit, owner=owner, but_session=but_session)
        )

    async def _messages(self, statement: sa.Select[Any], **values: str) -> Sequence[Message]:
        rows = await self._database.read(lambda connection: connection.execute(statement, values))
        return [message_of(row) for row in rows.mappings()]

    # Sessions

    async def create_session(self, owner: str, *, title: str | None, model: str | None, system: str | None) -> Session:
        time = now()
        session = Session(
            id=new_id("ses"),
            owner=owner,
            title=title,
            model=model,
            system=system,
            created_at=time,
            updated_at=time,
        )
        await self._database.write(lambda connection: connection.execute(sessions.insert().values(asdict(session))))
        return session

    async def session(self, session_id: str, owner: str) -> Session:
        """Raises `NotFound`."""
        statement = sa.select(sessions).where(_own(session_id, owner))
        rows = await self._database.read(lambda connection: connection.execute(statement))
        row = rows.mappings().one_or_none()
        if row is None:
            raise NotFound("session")
        return Session(**row)

    async def owner_of(self, session_id: str) -> str:
        """Raises `NotFound`."""
        statement = sa.select(sessions.c.owner).where(sessions.c.id == session_id)
        owner = await self._database.read(lambda connection: connection.scalar(statement))
        if owner is None:
            raise NotFound("session")
        return str(owner)

    async def sessions(
        self, owner: str, *, limit: int, before: str | None = None, holding: str = ""
    ) -> Sequence[Session]:
        """Return up to *limit* of the owner's sessions, the last used first, that stand after *before* in this order.

        They have *holding* in their title or in a message's text, however it is capitalised. Sessions of compare panes
        are left out. Raises `NotFound` for an unknown *before*.
        """
        statement = sa.select(sessions).where(sessions.c.owner == owner, sessions.c.compare_id.is_(None))
        if holding:
            statement = statement.where(holds(holding, self._database.dialect))
        if before is not None:
            last = await self.session(before, owner)
            place = sa.tuple_(sessions.c.updated_at, sessions.c.id)
            statement = statement.where(
                place < sa.tuple_(sa.literal(last.updated_at, sessions.c.updated_at.type), last.id)
            )
        statement = statement.order_by(sessions.c.updated_at.desc(), sessions.c.id.desc()).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(statement))
        return [Session(**row) for row in rows.mappings()]

    async def change_session(self, session_id: str, owner: str, **values: str | None) -> Session:
        """Set some of `title`, `model`, `system`. Raises `NotFound`."""
        statement = sessions.update().where(_own(session_id, owner)).values(**values, updated_at=now())
        if (await self._database.write(lambda connection: connection.execute(statement))).rowcount == 0:
            raise NotFound("session")
        return await self.session(session_id, owner)

    async def delete_session(self, session_id: str, owner: str) -> None:
        """Delete the session and its messages. Raises `NotFound`."""
        statement = sessions.delete().where(_own(session_id, owner))
        if (await self._database.write(lambda connection: connection.execute(statement))).rowcount == 0:
            raise NotFound("session")

    # Compares

    async def create_compare(
        self, owner: str, *, prompt: str, mode: Mode, system: str | None, models: Sequence[str], blind: bool = False
    ) -> Compare:
        """Make a compare with one session and one pane a model; a blind one's sessions know only their labels."""
        return await self._database.write(
            lambda connection: create_compare(
                connection,
                owner,
                prompt=prompt,
                mode=mode,
                system=system,
                models=models,
                title=_title(prompt),
                blind=blind,
            )
        )

    async def keep(self, session_id: str, owner: str) -> None:
        """Make a chat of a compare pane's session, which so far went with its one client. Raises `NotFound`."""

        async def work(connection: AsyncConnection) -> None:
            kept = sessions.update().where(_own(session_id, owner)).values(compare_id=None, updated_at=now())
            if (await connection.execute(kept)).rowcount == 0:
                raise NotFound("session")
            await connection.execute(
                messages.update()
                .where(messages.c.session_id == session_id, messages.c.role == Role.ASSISTANT)
                .values(detached=True)
            )

        await self._database.write(work)

    async def compare(self, compare_id: str, owner: str) -> Compare:
        """Raises `NotFound`."""
        return await self._database.read(lambda connection: read_compare(connection, compare_id, owner))

    async def compares(self, owner: str, *, limit: int, before: str | None = None) -> Sequence[CompareHead]:
        """Return up to *limit* of the owner's compares, the newest first, that stand after *before* in this order.

        Raises `NotFound` for an unknown *before*.
        """
        return await self._database.read(
            lambda connection: list_compares(connection, owner, limit=limit, before=before)
        )


def _own(session_id: str, owner: str) -> sa.ColumnElement[bool]:
    return sa.and_(sessions.c.id == session_id, sessions.c.owner == owner)


async def _take_place(connection: AsyncConnection, turn: Turn) -> None:
    """Make the turn's session, or mark it as used."""
    time, title = now(), _title(turn.text)
    if turn.new_session:
        session = Session(
            id=turn.session_id,
            owner=turn.owner,
            title=title,
            model=turn.model,
            system=turn.system,
            created_at=time,
            updated_at=time,
        )
        await connection.execute(sessions.insert(), asdict(session))
        return
    used = await connection.execute(
        sessions.update()
        .where(_own(turn.session_id, turn.owner))
        .values(updated_at=time, title=sa.func.coalesce(sessions.c.title, title))
    )
    if used.rowcount == 0:
        raise NotFound("session")


def _title(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= _TITLE_CHARS else f"{line[: _TITLE_CHARS - 1]}…"
