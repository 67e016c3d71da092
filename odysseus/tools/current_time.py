"""The current time, which a model can't know."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field

from odysseus.tools import ToolError

__all__ = ["current_time"]


async def current_time(
    timezone: Annotated[str, Field(description="an IANA name, for example Europe/Berlin or America/New_York")] = "UTC",
) -> str:
    """Tell the current date, time and day of the week in a time zone. Use it whenever today's date matters."""
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # OSError: a folder, or too long for a file's name
        examples = "Europe/Berlin, America/New_York, Asia/Tokyo or UTC"
        raise ToolError(f"there is no such time zone; use an IANA name such as {examples}") from error
    now = datetime.now(zone)
    return f"{now.isoformat(timespec='seconds')} ({now:%A}, {timezone})"
