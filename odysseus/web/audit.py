"""A run's ledger, as JSON."""

from __future__ import annotations

from aiohttp import web

from odysseus.audit import audit
from odysseus.web.errors import json_answer
from odysseus.web.routes import SERVICE, Route, owner_of
from odysseus.web.schemas import AuditOut

__all__ = ["ROUTES"]


async def of_run(request: web.Request) -> web.Response:
    found = await audit(request.app[SERVICE], owner_of(request), request.match_info["run_id"])
    return json_answer(AuditOut.model_validate(found), exclude_unset=True)


ROUTES = (
    Route(
        method="GET",
        path="/api/runs/{run_id}/audit",
        handler=of_run,
        summary="What happened to a run, and when: accepted, asked, watched, stopped by whom, saved, ended",
        answers={200: AuditOut},
        errors=(404, 503),
    ),
)
