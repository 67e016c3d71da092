"""Sessions: make, list, read, change, delete."""

from __future__ import annotations

from aiohttp import web

from odysseus.errors import InvalidField
from odysseus.messages import Session
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.routes import SERVICE, Parameter, Route, owner_of
from odysseus.web.schemas import MessageOut, SessionChange, SessionNew, SessionOut, Sessions, SessionWithMessages

__all__ = ["ROUTES"]

_LIMIT, _MAX_LIMIT = 50, 500


async def create(request: web.Request) -> web.Response:
    body = await parse_body(request, SessionNew)
    if body.model is not None:
        await request.app[SERVICE].turns.catalog.find(body.model)
    session = await request.app[SERVICE].store.create_session(
        owner_of(request), title=body.title, model=body.model, system=body.system
    )
    return json_answer(SessionOut.model_validate(session), 201)


async def listing(request: web.Request) -> web.Response:
    limit = request.query.get("limit", str(_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= _MAX_LIMIT):
        raise InvalidField("limit", f"must be a number from 1 to {_MAX_LIMIT}")
    store = request.app[SERVICE].store
    sessions = await store.sessions(owner_of(request), limit=int(limit), before=request.query.get("before"))
    return json_answer(Sessions(sessions=await _out(request, *sessions)))


async def read(request: web.Request) -> web.Response:
    session, messages = await request.app[SERVICE].session(owner_of(request), request.match_info["id"])
    [out] = await _out(request, session)
    return json_answer(
        SessionWithMessages(**out.model_dump(), messages=[MessageOut.model_validate(message) for message in messages])
    )


async def change(request: web.Request) -> web.Response:
    body = await parse_body(request, SessionChange)
    service = request.app[SERVICE]
    if body.model is not None:
        await service.turns.catalog.find(body.model)
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    session = await service.store.change_session(request.match_info["id"], owner_of(request), **changes)
    [out] = await _out(request, session)
    return json_answer(out)


async def delete(request: web.Request) -> web.Response:
    await request.app[SERVICE].delete_session(owner_of(request), request.match_info["id"])
    return web.Response(status=204)


async def _out(request: web.Request, *found: Session) -> list[SessionOut]:
    active = await request.app[SERVICE].active_runs([session.id for session in found])
    return [
        SessionOut.model_validate(session).model_copy(update={"active_run": active.get(session.id)})
        for session in found
    ]


ROUTES = (
    Route(
        method="POST",
        path="/api/sessions",
        handler=create,
        summary="Make a session",
        body=SessionNew,
        answers={201: SessionOut},
        errors=(400, 413, 415, 422, 503),
    ),
    Route(
        method="GET",
        path="/api/sessions",
        handler=listing,
        summary="List the sessions, the last used first",
        parameters=(
            Parameter("limit", "query", f"how many, up to {_MAX_LIMIT}; default {_LIMIT}", "integer"),
            Parameter("before", "query", "go on after this session's id"),
        ),
        answers={200: Sessions},
        errors=(404, 422, 503),
    ),
    Route(
        method="GET",
        path="/api/sessions/{id}",
        handler=read,
        summary="A session with its messages",
        answers={200: SessionWithMessages},
        errors=(404, 503),
    ),
    Route(
        method="PATCH",
        path="/api/sessions/{id}",
        handler=change,
        summary="Change a session's title, model or system prompt",
        body=SessionChange,
        answers={200: SessionOut},
        errors=(400, 404, 413, 415, 422, 503),
    ),
    Route(
        method="DELETE",
        path="/api/sessions/{id}",
        handler=delete,
        summary="Stop the session's run, then delete the session and its messages",
        answers={204: None},
        errors=(404, 503),
    ),
)
