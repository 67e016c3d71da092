"""How a session's latest run is: told by the run itself while it is here, afterwards by its stored answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from odysseus.events import ApprovalRequest
from odysseus.generation import Generation
from odysseus.messages import Message, Mode
from odysseus.replay import event_id
from odysseus.run import Run
from odysseus.states import Status, StopReason

__all__ = ["StreamStatus", "generation_of", "status_of_answer", "status_of_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    run_id: str
    status: Status
    stop_reason: StopReason | None
    detached: bool
    mode: Mode
    model: str
    events: int | None
    """None when the process that knew died."""
    last_event_id: str | None
    subscribers: int
    approvals: Sequence[ApprovalRequest] = ()
    """The tool calls that wait for a decision."""
    started_at: datetime
    ended_at: datetime | None


def generation_of(run: Run[bytes]) -> Generation:
    """Return what *run* carries: the service starts no other runs."""
    assert isinstance(run.about, Generation)
    return run.about


def status_of_run(run: Run[bytes]) -> StreamStatus:
    generation, events = generation_of(run), len(run.log)
    turn, approvals = generation.turn, generation.approvals
    return StreamStatus(
        run_id=run.id,
        status=run.status,
        stop_reason=run.stop_reason,
        detached=run.detached,
        mode=turn.mode,
        model=turn.model,
        events=events,
        last_event_id=event_id(run.id, events - 1) if events else None,
        subscribers=run.subscribers + sum(run.elsewhere.values()),
        approvals=() if approvals is None else approvals.waiting(),
        started_at=run.started_at,
        ended_at=run.ended_at,
    )


def status_of_answer(message: Message) -> StreamStatus:
    assert message.run_id and message.mode and message.model
    assert message.detached is not None
    return StreamStatus(
        run_id=message.run_id,
        status=message.status,
        stop_reason=message.stop_reason,
        detached=message.detached,
        mode=message.mode,
        model=message.model,
        events=message.events,
        last_event_id=event_id(message.run_id, message.events - 1) if message.events else None,
        subscribers=0,
        started_at=message.created_at,
        ended_at=message.ended_at,
    )
