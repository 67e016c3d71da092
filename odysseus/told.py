"""What is told of a run that has ended, in the log and to the webhook."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from odysseus.events import Timings, UsageCount
from odysseus.messages import Final, Message
from odysseus.run import Run
from odysseus.states import Status, StopReason
from odysseus.stream_status import generation_of

__all__ = ["Told", "told_of_lost", "told_of_run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    run_id: str
    session_id: str
    owner: str
    status: Status
    stop_reason: StopReason | None
    message_id: str
    model: str | None
    mode: str | None
    detached: bool | None
    usage: UsageCount | None
    timings: Timings | None
    events: int | None
    ended_at: datetime | None
    text: str | None
    """What the user said; None where the node that knew died."""
    answer: str


def told_of_run(run: Run[bytes]) -> Told:
    generation = generation_of(run)
    turn = generation.turn
    return Told(
        run_id=run.id,
        session_id=run.session_id,
        owner=run.owner,
        status=run.status,
        stop_reason=run.stop_reason,
        message_id=turn.message_id,
        model=turn.asked,
        mode=turn.mode,
        detached=run.detached,
        usage=generation.usage,
        timings=generation.timings,
        events=len(run.log),
        ended_at=run.ended_at,
        text=turn.text,
        answer=generation.answer.content,
    )


def told_of_lost(message: Message, final: Final, owner: str) -> Told:
    """Of a run whose node died: *message* as it was found streaming, *final* as it was ended."""
    return Told(
        run_id=str(message.run_id),
        session_id=message.session_id,
        owner=owner,
        status=final.status,
        stop_reason=final.stop_reason,
        message_id=message.id,
        model=message.model,
        mode=message.mode,
        detached=message.detached,
        usage=final.usage,
        timings=final.timings,
        events=final.events,
        ended_at=final.ended_at,
        text=None,
        answer=final.content,
    )
