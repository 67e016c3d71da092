"""The one line of the log that every run leaves when it has ended."""

from __future__ import annotations

import logging

from odysseus.told import Told

__all__ = ["log_ended"]

_log = logging.getLogger(__name__)


def log_ended(told: Told) -> None:
    usage, timings = told.usage, told.timings
    fields = {
        "run_id": told.run_id,
        "session_id": told.session_id,
        **({"owner": told.owner} if told.owner else {}),
        "status": told.status,
        "stop_reason": told.stop_reason,
        "model": told.model,
        "mode": told.mode,
        "detached": told.detached,
        "prompt_tokens": None if usage is None else usage["prompt_tokens"],
        "completion_tokens": None if usage is None else usage["completion_tokens"],
        "events": told.events,
        "duration_ms": None if timings is None else timings["duration_ms"],
        "ttft_ms": None if timings is None else timings["ttft_ms"],
    }
    _log.info("run ended", extra={"fields": fields, "texts": {"user_message": told.text, "answer": told.answer}})
