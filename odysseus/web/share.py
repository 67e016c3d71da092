"""Watch links: whoever has one reads one run's stream, without an account, until the link expires."""

from __future__ import annotations

from datetime import timedelta

from aiohttp import web

from odysseus.accounts import Identity, links
from odysseus.messages import now
from odysseus.web.chat import LAST_EVENT_ID, resumed
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.routes import IDENTITY, SERVICE, STREAM, Route, owner_of
from odysseus.web.schemas import ShareOut, ShareRequest

__all__ = ["ROUTES", "SECRET"]

SECRET = web.AppKey("secret", bytes)
"""What links are signed with."""


async def share(request: web.Request) -> web.Response:
    body = await parse_body(request, ShareRequest)
    session_id = request.match_info["session_id"]
    run_id = await request.app[SERVICE].run_of(owner_of(request), session_id, body.run_id)
    expires_at = (now() + timedelta(seconds=body.expires_in_s)).replace(microsecond=0)
    link = links.sign(request.app[SECRET], session_id, run_id, expires_at)
    return json_answer(ShareOut(run_id=run_id, stream=f"/api/watch/{link}", expires_at=expires_at), 201)


async def watch(request: web.Request) -> web.StreamResponse:
    link = links.read(request.app[SECRET], request.match_info["link"], now())
    owner = await request.app[SERVICE].owner_of(link.session_id)
    request[IDENTITY] = Identity(owner, expires_at=link.expires_at)
    return await resumed(request, link.session_id, link.run_id)


ROUTES = (
    Route(
        method="POST",
        path="/api/chat/share/{session_id}",
        handler=share,
        summary="Make a link by which anybody can watch one run, and do nothing else, until it expires",
        body=ShareRequest,
        answers={201: ShareOut},
        errors=(400, 404, 413, 415, 422, 503),
    ),
    Route(
        method="GET",
        path="/api/watch/{link}",
        handler=watch,
        summary="Watch the run that a link is for, as EventSource does",
        parameters=LAST_EVENT_ID,
        answers={200: STREAM, 204: None},
        errors=(401, 404, 503),
        open=True,
    ),
)
