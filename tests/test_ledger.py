"""The ledger: its order, its bound, and who asked for a stop."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from odysseus.ledger import Event, Ledger, entry
from odysseus.states import StopReason


def told(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the entries without their times, which must be in order and near now."""
    entries = ledger.entries()
    times = [datetime.fromisoformat(one["at"]) for one in entries]
    assert times == sorted(times)
    assert all(abs(datetime.now(UTC) - at) < timedelta(minutes=5) for at in times)
    assert all(one["at"].endswith("Z") for one in entries)
    return [{name: value for name, value in one.items() if name != "at"} for one in entries]


def test_entries_stand_in_their_order() -> None:
    ledger = Ledger()
    ledger.add(Event.ACCEPTED)
    first, second = ledger.joined(), ledger.joined()
    ledger.left(second)
    ledger.add(Event.SAVED, to="store", attempts=2)
    ledger.left(first)
    assert told(ledger) == [
        {"event": "accepted"},
        {"event": "subscriber_joined", "subscriber": 1},
        {"event": "subscriber_joined", "subscriber": 2},
        {"event": "subscriber_left", "subscriber": 2},
        {"event": "saved", "to": "store", "attempts": 2},
        {"event": "subscriber_left", "subscriber": 1},
    ]


def test_times_are_rfc_3339_in_utc() -> None:
    at = datetime(2025, 3, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert entry(at, Event.ENDED, status="done") == {
        "at": "2025-02-28T23:00:00.000000Z",
        "event": "ended",
        "status": "done",
    }


@pytest.mark.parametrize("visits", [50, 51, 100, 101, 150, 1000])
def test_subscribers_are_bounded(visits: int) -> None:
    """The first and the last hundred entries stay, and whatever else happened between them."""
    ledger = Ledger()
    ledger.add(Event.ACCEPTED)
    for visit in range(visits):
        if visit == visits // 2:
            ledger.add(Event.FIRST_TOKEN)
        ledger.left(ledger.joined())
    ledger.add(Event.ENDED)
    entries = told(ledger)
    assert [one["event"] for one in (entries[0], entries[-1])] == ["accepted", "ended"]
    assert sum(one["event"] == "first_token" for one in entries) == 1
    numbers = [one["subscriber"] for one in entries if "subscriber" in one]
    every = [visit for visit in range(1, visits + 1) for _ in range(2)]
    omitted = [one["count"] for one in entries if one["event"] == "subscribers_omitted"]
    if len(every) <= 200:
        assert (numbers, omitted) == (every, [])
    else:
        assert (numbers, omitted) == (every[:100] + every[-100:], [len(every) - 200])
        place = [one["event"] for one in entries].index("subscribers_omitted")
        assert entries[place + 1].get("subscriber") == numbers[100]


@pytest.mark.parametrize("owner", ["", "ann"])
@pytest.mark.parametrize("reason", [reason for reason in StopReason if "error" not in reason])
def test_who_asked(reason: StopReason, owner: str) -> None:
    ledger = Ledger(owner)
    ledger.stop_asked(reason)
    [asked] = told(ledger)
    assert asked["by"] == ("user" if reason == "user_stop" else reason)
    assert asked.get("owner") == (owner or None if reason in ("user_stop", "replaced") else None)


def test_a_cancel_is_asked_before_it_closes() -> None:
    """Though the run hears of it later than the model's connection does."""
    ledger = Ledger()
    ledger.add(Event.STARTED)
    ledger.add(Event.UPSTREAM_CLOSED)
    ledger.stop_noticed(StopReason.CLIENT_DISCONNECT)
    assert told(ledger) == [
        {"event": "started"},
        {"event": "stop_asked", "by": "client_disconnect"},
        {"event": "upstream_closed"},
    ]
