"""The current time: right in every zone, and a hint for a model that knows none."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from odysseus.tools import Caller, ToolError
from odysseus.tools.current_time import current_time
from odysseus.tools.functions import tool_of

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@pytest.mark.parametrize(
    ("timezone", "offset"),
    [
        ("UTC", timedelta()),
        ("Asia/Kolkata", timedelta(hours=5.5)),
        ("Asia/Tokyo", timedelta(hours=9)),
        ("America/Phoenix", timedelta(hours=-7)),
        ("Pacific/Kiritimati", timedelta(hours=14)),
    ],
)
async def test_tells_the_time(timezone: str, offset: timedelta) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    shown = re.fullmatch(r"(\S{19}[+-]\d\d:\d\d) \((\w+), (\S+)\)", await current_time(timezone))
    assert shown is not None
    told = datetime.fromisoformat(shown[1])
    assert before <= told <= datetime.now(UTC)
    assert told.utcoffset() == offset
    assert (shown[2], shown[3]) == (DAYS[told.weekday()], timezone)


async def test_tells_utc_unless_asked() -> None:
    tool = tool_of(current_time)
    assert (await tool.call({}, Caller("s", "ann"))).endswith(", UTC)")
    assert tool.parameters["properties"]["timezone"]["default"] == "UTC"


@pytest.mark.parametrize(
    "timezone",
    [
        "",
        ".",
        "Europe",
        "Berlin",
        "CEST",
        "+02:00",
        "Europe/Berlin/",
        "Europe/../UTC",
        "../../etc/passwd",
        "/etc/passwd",
        "zone.tab",
        "UTC\0",
        "\ud800",
        "a" * 10_000,
        "a/" * 10_000,
    ],
    ids=lambda timezone: ascii(timezone[:20]),
)
async def test_unknown_zones_get_examples(timezone: str) -> None:
    with pytest.raises(ToolError, match=r"Europe/Berlin.* or UTC"):
        await current_time(timezone)
