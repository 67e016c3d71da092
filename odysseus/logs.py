"""What a line of the log looks like: text or JSON, one record a line whatever it says, with the run it belongs to.

A record may carry *fields*, which belong to it, and *texts*, which hold what users or models said; those are shown
only where `LOG_MESSAGES` asks for them: `_log.info("..", extra={"fields": {..}, "texts": {..}})`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

__all__ = ["JsonFormatter", "TextFormatter", "configuration", "log_of_run"]

_MOST_CHARS = 4000  # of a text: the journal and container engines cut long lines anywhere

_run: ContextVar[Mapping[str, str] | None] = ContextVar("run", default=None)


@contextmanager
def log_of_run(run_id: str, session_id: str) -> Iterator[None]:
    """Say of everything that is logged in the block, and in tasks that are started there, which run it belongs to."""
    before = _run.set({"run_id": run_id, "session_id": session_id})
    try:
        yield
    finally:
        _run.reset(before)


def configuration(format: str, level: str, *, messages: bool) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes. *format* is `text` or `json`; *messages*: show texts."""
    formatter = JsonFormatter if format == "json" else TextFormatter
    ours, others = level.upper(), "INFO" if level == "debug" else level.upper()  # drivers' `debug` tells every message
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"odysseus": {"()": formatter, "messages": messages}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "odysseus"}},
        "root": {"level": others, "handlers": ["stderr"]},
        "loggers": {"odysseus": {"level": ours}, "alembic": {"level": "ERROR" if level == "error" else "WARNING"}},
    }


class _Formatter(logging.Formatter):
    def __init__(self, *, messages: bool = False) -> None:
        super().__init__()
        self._messages = messages

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields = {**(_run.get() or {}), **getattr(record, "fields", {})}
        if self._messages:
            fields |= {name: _cut(text) for name, text in getattr(record, "texts", {}).items()}
        return fields

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        return "\n".join([*parts, *([self.formatStack(record.stack_info)] if record.stack_info else [])])


class TextFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = [_at(record), record.levelname, f"{record.name}:", _visible(record.getMessage())]
        words += (f"{name}={_json(value)}" for name, value in self._fields(record).items())
        trace = self._trace(record)
        # Marked, because what an error says may have been said by anybody: it must not look like a record of its own.
        return "\n".join([" ".join(words), *(f"  | {_visible(line)}" for line in trace.split("\n") if trace)])


class JsonFormatter(_Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _at(record), "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), **self._fields(record)}
        if trace := self._trace(record):
            line["exception"] = trace
        return _json(line)


def _json(value: object) -> str:
    """Return *value* in printable ASCII: nothing in it ends a line, and no terminal obeys it."""
    return json.dumps(value, default=str).replace("\x7f", "\\u007f")


def _at(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}.. ({len(text)} characters)"


def _visible(text: str) -> str:
    """Return *text* with line ends, control characters and what turns its direction written out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
