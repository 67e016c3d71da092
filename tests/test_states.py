from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.states import MOVES, Ending, ForbiddenMove, Status, StopReason, move

# DESIGN section 2: status -> its stop reasons.
TABLE: dict[str, list[str | None]] = {
    "done": [None],
    "stopped": [
        "user_stop",
        "client_disconnect",
        "replaced",
        "idle_timeout",
        "wall_clock_timeout",
        "log_limit",
        "unattended",
    ],
    "error": ["upstream_error", "internal_error"],
    "interrupted": ["shutdown", "node_lost"],
}
PAIRS = [(status, reason) for status, reasons in TABLE.items() for reason in reasons]
FINAL = [Status(status) for status in TABLE]


def test_the_table_is_whole() -> None:
    assert {status.value for status in Status} == {"streaming", *TABLE}
    assert {reason.value for reason in StopReason} == {reason for _, reason in PAIRS if reason}
    assert set(MOVES) == set(Status)


@pytest.mark.parametrize(("status", "reason"), PAIRS)
def test_the_reason_gives_the_status(status: str, reason: str | None) -> None:
    assert Ending(None if reason is None else StopReason(reason)).status == status


@pytest.mark.parametrize("to", Status)
@pytest.mark.parametrize("current", Status)
def test_only_a_streaming_run_ends(current: Status, to: Status) -> None:
    if current is Status.STREAMING and to in FINAL:
        assert move(current, to) is to
        return
    with pytest.raises(ForbiddenMove, match=f"^{current} -> {to}$") as caught:
        move(current, to)
    assert (caught.value.current, caught.value.to) == (current, to)


@pytest.mark.parametrize("status", FINAL)
def test_final_states_have_no_moves(status: Status) -> None:
    assert not MOVES[status]


@settings(deadline=None)
@given(st.lists(st.sampled_from(Status)))
def test_a_run_ends_once(asked: list[Status]) -> None:
    status, moves = Status.STREAMING, 0
    for to in asked:
        try:
            status = move(status, to)
            moves += 1
        except ForbiddenMove:
            pass
    first = next((to for to in asked if to in FINAL), None)
    assert (status, moves) == ((Status.STREAMING, 0) if first is None else (first, 1))
