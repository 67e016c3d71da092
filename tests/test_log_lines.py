"""What is logged is one line, whatever is in it, and a traceback can't be taken for anything else."""

from __future__ import annotations

import logging
import sys

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from odysseus.log_lines import LogLines
from odysseus.web.refusals import told_in_a_line


def record(message: str, *args: object, error: Exception | None = None) -> logging.LogRecord:
    info = (type(error), error, None) if error else None
    return logging.LogRecord("odysseus.x", logging.ERROR, __file__, 1, message, args, info)


@pytest.mark.parametrize(
    "control", ["\n", "\r", "\r\n", "\0", "\x1b", "\x0b", "\x0c", "\x7f", "\x85", "\x9b", "\u2028"]
)
def test_a_record_is_one_line(control: str) -> None:
    text = LogLines().format(record("%s failed", f"/a{control}2001-02-03 INFO forged"))
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert text.endswith("forged failed")


def test_other_text_stays_as_it_is() -> None:
    text = LogLines().format(record("caf\u00e9 \U0001f6a2\tC:\\new"))
    assert text.endswith(" ERROR odysseus.x: caf\u00e9 \U0001f6a2\tC:\\new")


def test_a_traceback_is_indented() -> None:
    """Also the words of the exception, which may be anybody's."""
    try:
        raise ValueError("bad\n2001-02-03 INFO forged\r2001\x1b[31m")
    except ValueError:
        failure = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", (), sys.exc_info())
    first, *lines = LogLines().format(failure).splitlines()
    assert first.endswith(" ERROR x: failed")
    assert lines[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in lines)
    assert lines[-1] == "  2001-02-03 INFO forged\\r2001\\x1b[31m"


def test_what_cant_be_read_is_told_in_a_line() -> None:
    refused = record("Error handling request from %s", "::1", error=BadHttpMessage("Invalid:\n\n  b'x'\n    ^"))
    assert told_in_a_line(refused)
    assert LogLines().format(refused).endswith(" INFO odysseus.x: a request was refused: Invalid")


def test_and_what_failed_stays_an_error() -> None:
    failed = record("Error handling request from %s", "::1", error=ValueError("x"))
    assert told_in_a_line(failed)
    text = LogLines().format(failed)
    assert " ERROR odysseus.x: Error handling request from ::1\n" in text and "ValueError: x" in text
