"""What the server's log says of requests that can't be read: anybody can send them, and they are no fault of ours."""

from __future__ import annotations

import logging

from aiohttp.http_exceptions import HttpProcessingError

__all__ = ["told_in_a_line"]


def told_in_a_line(record: logging.LogRecord) -> bool:
    """A filter for aiohttp's own log, which has an error and a traceback for each of them: leave one line of it."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        record.msg, record.args = "a request was refused: %s", (error.message.partition("\n")[0].rstrip(":"),)
        record.exc_info = None
    return True
