"""The stream that stands in for the frames of an ended answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from odysseus.errors import StoreError
from odysseus.messages import now
from odysseus.snapshots import ends_of, snapshot_of
from odysseus.sse import Decoder
from odysseus.states import Status, StopReason
from tests.cluster.follower import MESSAGE

STOPPED = replace(
    MESSAGE, content="Hello", status=Status.STOPPED, stop_reason=StopReason.USER_STOP, events=4, ended_at=now()
)


def test_a_snapshot_stands_in_for_an_ended_answer() -> None:
    snapshot, ended, done = Decoder().feed(snapshot_of(STOPPED))
    assert b'"content":"Hello"' in snapshot.data
    assert b'"stop_reason":"user_stop"' in ended.data
    assert (snapshot.last_event_id, ended.last_event_id) == ("run_1.snapshot", "run_1.end")
    assert done.data == b"[DONE]"


def test_there_is_no_snapshot_of_what_has_not_ended() -> None:
    with pytest.raises(StoreError):
        snapshot_of(MESSAGE)


def test_who_has_seen_the_end() -> None:
    assert ends_of(STOPPED) == ["run_1.end", "run_1.3"]
    assert ends_of(replace(STOPPED, events=None)) == ["run_1.end"]  # its node died: nobody knows how many there were
