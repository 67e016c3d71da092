"""The statements about messages, built once: to build one costs more than to run it. And their rows, as values."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from odysseus.messages import Final, Message, Mode, Role, Turn, now
from odysseus.states import Status, StopReason
from odysseus.store.tables import Id, messages, sessions

__all__ = [
    "CHECKPOINT",
    "ENDED_AT",
    "FINISH",
    "HISTORY",
    "LATEST_ANSWER",
    "LEDGER",
    "LIVE",
    "OF_RUN",
    "OF_SESSION",
    "OURS",
    "STREAMING_STILL",
    "ending_row",
    "message_of",
    "new_row",
    "streaming",
]

OURS = messages.c.node.is_not_distinct_from(sa.bindparam("by", type_=Id))


def streaming(message_id: str | sa.BindParameter[str]) -> sa.Update:
    """The one statement that may touch an answer: only while it streams, and only its own node."""
    return messages.update().where(messages.c.id == message_id, messages.c.status == Status.STREAMING, OURS)


_STORED = [field.name for field in fields(Message)]
_COLUMNS = [messages.c[name] for name in _STORED]  # the ledger isn't among them: nearly nobody asks for it

OF_SESSION = (
    sa.select(*_COLUMNS).where(messages.c.session_id == sa.bindparam("session", type_=Id)).order_by(messages.c.n)
)
HISTORY = OF_SESSION.where(
    messages.c.n < sa.select(messages.c.n).where(messages.c.id == sa.bindparam("message", type_=Id)).scalar_subquery()
)
LIVE = OF_SESSION.where(messages.c.status == Status.STREAMING)
LATEST_ANSWER = (
    OF_SESSION.where(messages.c.role == Role.ASSISTANT).order_by(None).order_by(messages.c.n.desc()).limit(1)
)
OF_RUN = (
    sa.select(*_COLUMNS, sessions.c.owner)
    .join(sessions, sessions.c.id == messages.c.session_id)
    .where(messages.c.run_id == sa.bindparam("run", type_=Id))
)
LEDGER = sa.select(messages.c.ledger).where(messages.c.run_id == sa.bindparam("run", type_=Id))
_ENDING = [field.name for field in fields(Final) if field.name != "message_id"]
STREAMING_STILL = (  # locked, where there are locks: whoever else would end them waits
    sa.select(messages.c.id)
    .where(messages.c.id.in_(sa.bindparam("ids", expanding=True)), messages.c.status == Status.STREAMING, OURS)
    .order_by(messages.c.id)
    .with_for_update()
)
ENDED_AT = sa.select(messages.c.id, messages.c.ended_at).where(messages.c.id.in_(sa.bindparam("ids", expanding=True)))
FINISH = streaming(sa.bindparam("message")).values({name: sa.bindparam(name) for name in _ENDING})
CHECKPOINT = streaming(sa.bindparam("message")).values(
    content=sa.bindparam("content"), reasoning=sa.bindparam("reasoning"), parts=sa.bindparam("parts")
)


def ending_row(final: Final) -> dict[str, Any]:
    values = {name: getattr(final, name) for name in _ENDING}  # asdict would copy every part
    return {"message": final.message_id, **values}


def message_of(row: sa.RowMapping) -> Message:
    values: dict[str, Any] = {name: row[name] for name in _STORED}
    values["role"] = Role(values["role"])
    values["status"] = Status(values["status"])
    values["stop_reason"] = None if values["stop_reason"] is None else StopReason(values["stop_reason"])
    values["mode"] = None if values["mode"] is None else Mode(values["mode"])
    return Message(**values)


def new_row(message_id: str, turn: Turn, role: Role, status: Status) -> dict[str, Any]:
    return {
        "id": message_id,
        "session_id": turn.session_id,
        "role": role,
        "content": "",
        "reasoning": "",
        "parts": [],
        "status": status,
        "created_at": now(),
    }
