"""What is told of a run whose node died."""

from __future__ import annotations

from dataclasses import replace

from odysseus.cluster.lost import final_of
from odysseus.states import Status, StopReason
from odysseus.told import told_of_lost
from tests.cluster.follower import MESSAGE


def test_what_is_told_of_a_lost_run() -> None:
    final, _ = final_of(replace(MESSAGE, content="Hello"), [])
    told = told_of_lost(MESSAGE, final, "ann")
    assert (told.run_id, told.session_id, told.message_id, told.owner) == ("run_1", "ses_1", "msg_1", "ann")
    assert (told.status, told.stop_reason, told.answer) == (Status.INTERRUPTED, StopReason.NODE_LOST, "Hello")
    assert (told.text, told.events, told.model, told.mode, told.detached) == (None, None, "m", "chat", True)
