"""The one line of the log that every run leaves when it has ended."""

from __future__ import annotations

import logging

from odysseus.run import Run
from odysseus.stream_status import generation_of

__all__ = ["log_ended"]

_log = logging.getLogger(__name__)


def log_ended(run: Run[bytes]) -> None:
    generation = generation_of(run)
    usage, timings = generation.usage, generation.timings
    fields = {
        "run_id": run.id,
        "session_id": run.session_id,
        **({"owner": run.owner} if run.owner else {}),
        "status": run.status,
        "stop_reason": run.stop_reason,
        "model": generation.turn.model,
        "mode": generation.turn.mode,
        "detached": run.detached,
        "prompt_tokens": None if usage is None else usage["prompt_tokens"],
        "completion_tokens": None if usage is None else usage["completion_tokens"],
        "events": len(run.log),
        "duration_ms": None if timings is None else timings["duration_ms"],
        "ttft_ms": None if timings is None else timings["ttft_ms"],
    }
    texts = {"user_message": generation.turn.text, "answer": generation.answer.content}
    _log.info("run ended", extra={"fields": fields, "texts": texts})
