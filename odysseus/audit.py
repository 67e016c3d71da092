"""What happened to a run, for its owner: told by the run itself while it is here, afterwards by what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from odysseus.errors import NotFound
from odysseus.ledger import Event, entry
from odysseus.messages import Message
from odysseus.service import Service
from odysseus.states import Status, StopReason
from odysseus.stream_status import generation_of

__all__ = ["Audit", "audit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    run_id: str
    session_id: str
    model: str
    detached: bool
    status: Status
    stop_reason: StopReason | None
    entries: Sequence[Mapping[str, Any]]


async def audit(service: Service, owner: str, run_id: str) -> Audit:
    """Raises `NotFound` for an unknown run, and for somebody else's."""
    run = service.runs.get(run_id)
    if run is not None and run.accepted.is_set() and run.refusal is None:
        if run.owner != owner:
            raise NotFound("run")
        return Audit(
            run_id=run.id,
            session_id=run.session_id,
            model=generation_of(run).turn.model,
            detached=run.detached,
            status=run.status,
            stop_reason=run.stop_reason,
            entries=run.ledger.entries(),
        )
    message = await service.store.answer_of(run_id, owner)
    if message is None:
        raise NotFound("run")
    assert message.model is not None and message.detached is not None
    return Audit(
        run_id=run_id,
        session_id=message.session_id,
        model=message.model,
        detached=message.detached,
        status=message.status,
        stop_reason=message.stop_reason,
        entries=_whole(message, await service.ledger(message)),
    )


def _whole(message: Message, ledger: Sequence[Mapping[str, Any]] | None) -> Sequence[Mapping[str, Any]]:
    """Return *ledger*, which is None where the process died with it, with the end that came after its save."""
    known = ledger or [entry(message.created_at, Event.ACCEPTED)]
    if message.ended_at is None:
        return known
    at = max(message.ended_at, datetime.fromisoformat(known[-1]["at"]))
    return [*known, entry(at, Event.ENDED, status=message.status, stop_reason=message.stop_reason)]
