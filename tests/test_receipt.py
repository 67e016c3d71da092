"""What a stop says it did, where only the store knows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from odysseus.messages import now
from odysseus.receipt import Receipt, receipt_of_answer
from odysseus.states import Status, StopReason
from tests.cluster.follower import MESSAGE

STOPPED = replace(
    MESSAGE, content="Hello", status=Status.STOPPED, stop_reason=StopReason.USER_STOP, events=4, ended_at=now()
)

LEDGERS: list[tuple[list[dict[str, Any]] | None, float]] = [
    (None, 0.0),
    ([], 0.0),
    ([{"event": "stop_asked", "at": "2026-01-01T00:00:00.100Z"}], 0.0),
    ([{"event": "upstream_closed", "at": "2026-01-01T00:00:00.100Z"}], 0.0),
    (
        [
            {"event": "accepted", "at": "2026-01-01T00:00:00.000Z"},
            {"event": "stop_asked", "at": "2026-01-01T00:00:00.100Z", "reason": "user_stop"},
            {"event": "upstream_closed", "at": "2026-01-01T00:00:00.112Z"},
        ],
        12.0,
    ),
    (
        [
            {"event": "upstream_closed", "at": "2026-01-01T00:00:00.100Z"},
            {"event": "stop_asked", "at": "2026-01-01T00:00:00.112Z"},
        ],
        0.0,
    ),
]


@pytest.mark.parametrize(("ledger", "closed_ms"), LEDGERS)
def test_the_receipt_of_a_stored_answer(ledger: list[dict[str, Any]] | None, closed_ms: float) -> None:
    assert receipt_of_answer(STOPPED, ledger) == Receipt("run_1", Status.STOPPED, "msg_1", 5, closed_ms)
