"""What the log looks like: one record a line, whatever anybody says."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from odysseus.logs import JsonFormatter, TextFormatter, configuration, log_of_run
from odysseus.tasks import Tasks

HOSTILE = [
    "two\nlines",
    "2026-01-01T00:00:00.000Z ERROR odysseus: forged",
    "\r\n2026-01-01T00:00:00.000Z ERROR odysseus: forged",
    "\x1b[2J\x1b]0;title\x07",
    "\x00\x08\x0b\x0c\x7f\x85\x9b\t",
    "\u2028\u2029\u202e\u2066\ud800",
    '"quoted" status="done" \\',
]

Read = Callable[[], str]


@pytest.fixture
def log() -> logging.Logger:
    """A logger that belongs to nobody: pytest would keep what is said, which xdist can't pass on."""
    return logging.Logger("ours", logging.DEBUG)


def written(log: logging.Logger, formatter: logging.Formatter) -> Read:
    """Log to memory; return what reads it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log.addHandler(handler)
    return stream.getvalue


def as_json(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("said", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_a_record_is_one_line(log: logging.Logger, said: str) -> None:
    text, lines = written(log, TextFormatter(messages=True)), written(log, JsonFormatter(messages=True))
    log.info("it said %s", said, extra={"fields": {"owner": said}, "texts": {"answer": said}})
    for out in (text(), lines()):
        assert out.count("\n") == 1 and out.endswith("\n")
        assert len(out.splitlines()) == 1
        assert out[:-1].isprintable()
    [record] = as_json(lines())
    assert (record["message"], record["owner"], record["answer"]) == (f"it said {said}", said, said)
    quoted = json.dumps(said).replace("\x7f", "\\u007f")
    assert text().endswith(f"owner={quoted} answer={quoted}\n")


@pytest.mark.parametrize("said", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_a_traceback_can_not_be_forged(log: logging.Logger, said: str) -> None:
    text, lines = written(log, TextFormatter()), written(log, JsonFormatter())
    try:
        raise ValueError(said)
    except ValueError:
        log.exception("failed")
    first, *trace = text().split("\n")[:-1]
    assert first.endswith("ERROR ours: failed")
    assert trace and all(line.startswith("  | ") and line.isprintable() for line in trace)
    [record] = as_json(lines())
    assert record["exception"].startswith("Traceback") and said in record["exception"]


def test_what_a_record_holds(log: logging.Logger) -> None:
    text, lines = written(log, TextFormatter()), written(log, JsonFormatter())
    log.warning("%d of %d", 1, 2, extra={"fields": {"n": 1, "none": None}})
    [record] = as_json(lines())
    at = datetime.fromisoformat(record.pop("time"))
    assert at.utcoffset() is not None
    assert record == {"level": "warning", "logger": "ours", "message": "1 of 2", "n": 1, "none": None}
    time, _, rest = text().partition(" ")
    assert datetime.fromisoformat(time) == at
    assert rest == "WARNING ours: 1 of 2 n=1 none=null\n"


def test_texts_are_shown_only_where_they_are_asked_for(log: logging.Logger) -> None:
    quiet = [written(log, TextFormatter()), written(log, JsonFormatter())]
    loud = [written(log, TextFormatter(messages=True)), written(log, JsonFormatter(messages=True))]
    log.info("ended", extra={"texts": {"answer": "sesame" + "x" * 10_000}})
    assert not any("sesame" in read() for read in quiet)
    assert all("sesamexxx" in read() and "(10006 characters)" in read() and len(read()) < 4500 for read in loud)


async def test_the_run_of_a_record(log: logging.Logger) -> None:
    """Known in the block, and in tasks from there, but not in those that are apart."""
    lines = written(log, JsonFormatter())
    tasks = Tasks()

    async def say(what: str) -> None:
        log.info(what)

    log.info("before")
    with log_of_run("run_1", "ses_1"):
        log.info("within")
        mine, apart = tasks.spawn(say("mine")), tasks.spawn(say("apart"), apart=True)
        with log_of_run("run_2", "ses_2"):
            log.info("deeper")
    log.info("after")
    await asyncio.gather(mine, apart)
    runs = {record["message"]: (record.get("run_id"), record.get("session_id")) for record in as_json(lines())}
    none = (None, None)
    assert runs == {
        "before": none,
        "within": ("run_1", "ses_1"),
        "deeper": ("run_2", "ses_2"),
        "after": none,
        "mine": ("run_1", "ses_1"),
        "apart": none,
    }


@pytest.mark.parametrize(("format", "kind"), [("text", TextFormatter), ("json", JsonFormatter)])
@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_configuration_is_one_that_logging_takes(format: str, kind: type, level: str) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logging.config.dictConfig(configuration(format, level, messages=False))
        [handler] = root.handlers
        assert type(handler.formatter) is kind
        assert logging.getLogger("odysseus.runs").getEffectiveLevel() == getattr(logging, level.upper())
        others = "info" if level == "debug" else level  # what drivers say at `debug` holds every message
        assert logging.getLogger("aiosqlite").getEffectiveLevel() == getattr(logging, others.upper())
        assert logging.getLogger("alembic").getEffectiveLevel() == max(logging.WARNING, getattr(logging, level.upper()))
    finally:
        root.handlers[:], root.level = before
        for name in ("odysseus", "alembic"):
            logging.getLogger(name).setLevel(logging.NOTSET)
