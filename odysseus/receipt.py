"""What a stop did: told by the run itself where it was, elsewhere by what it left in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from odysseus.ledger import Event
from odysseus.messages import Message
from odysseus.run import Run
from odysseus.states import Status
from odysseus.stream_status import generation_of

__all__ = ["Receipt", "receipt_of_answer", "receipt_of_run"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The run as it ended, its answer's length, and how long the model went on after the stop."""

    run_id: str
    status: Status
    message_id: str
    chars: int
    upstream_closed_ms: float


def receipt_of_run(run: Run[bytes]) -> Receipt | None:
    """Return the receipt of *run*, which has ended; None if it never began."""
    if run.refusal is not None:
        return None
    generation = generation_of(run)
    chars, closed_ms = len(generation.answer.content), _closed_ms(run.ledger.entries())
    return Receipt(run.id, run.status, generation.turn.message_id, chars, closed_ms)


def receipt_of_answer(message: Message, ledger: Sequence[Mapping[str, Any]] | None) -> Receipt:
    """Return the receipt of the run that made *message*. *ledger* is None if that run's process died."""
    return Receipt(str(message.run_id), message.status, message.id, len(message.content), _closed_ms(ledger or ()))


def _closed_ms(ledger: Sequence[Mapping[str, Any]]) -> float:
    """Return how long after the stop the model's connection was closed: the same for everybody who asks."""
    at = {entry["event"]: datetime.fromisoformat(entry["at"]) for entry in ledger}
    asked, closed = at.get(Event.STOP_ASKED), at.get(Event.UPSTREAM_CLOSED)
    waited_s = 0.0 if asked is None or closed is None else (closed - asked).total_seconds()
    return round(max(0.0, waited_s) * 1000, 2)
