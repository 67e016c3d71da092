"""Lines of the log that are ours: what somebody else wrote can't begin one, nor tell a terminal anything.

Paths, what model servers say of their trouble and the words of exceptions get into the log as they came.
"""

from __future__ import annotations

import logging
import re
from typing import Any

__all__ = ["LogLines"]

_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The controls of ASCII and Latin-1, tabs left out, and the two line ends of Unicode: what somewhere ends a line.
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class LogLines(logging.Formatter):
    """Formats a record as one line, with its traceback indented below it."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return _escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
