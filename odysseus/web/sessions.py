"""Sessions: make, list, read, change, delete."""

from __future__ import annotations

from aiohttp import web

from odysseus.errors import InvalidField
from odysseus.messages import Session
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.rendered import message_out, messages_out
from odysseus.web.routes import LIMIT, SERVICE, Parameter, Route, limit_of, owner_of
from odysseus.web.schemas import MessageOut, SessionChange, SessionNew, SessionOut, Sessions, SessionWithMessages

__all__ = ["ROUTES"]

_MAX_PART = 200


async def create(request: web.Request) -> web.Response:
    body = await parse_body(request, SessionNew)
    if body.model is not None:
        await request.app[SERVICE].turns.catalog.find(body.model)
    session = await request.app[SERVICE].store.create_session(
        owner_of(request), title=body.title, model=body.model, system=body.system
    )
    return json_answer(SessionOut.model_validate(session), 201)


async def listing(request: web.Request) -> web.Response:
    part = request.query.get("q", "")
    if len(part) > _MAX_PART:
        raise InvalidField("q", f"must have at most {_MAX_PART} characters")
    sessions = await request.app[SERVICE].store.sessions(
        owner_of(request), limit=limit_of(request), before=request.query.get("before"), holding=part
    )
    return json_answer(Sessions(sessions=await _out(request, *sessions)))


async def read(request: web.Request) -> web.Response:
    session, messages = await request.app[SERVICE].session(owner_of(request), request.match_info["id"])
    shown = await messages_out(request, messages)
    [out] = await _out(request, session)
    return json_answer(SessionWithMessages(**out.model_dump(), messages=shown))


async def message(request: web.Request) -> web.Response:
    service, session_id = request.app[SERVICE], request.match_info["id"]
    await service.store.session(session_id, owner_of(request))
    found = await service.store.message(session_id, request.match_info["message_id"])
    return json_answer(await message_out(request, await service.fresh(found)))


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
        summary="List or search the sessions, the last used first",
        parameters=(
            LIMIT,
            Parameter("before", "query", "go on after this session's id"),
            Parameter("q", "query", "only those with this part of a title or of a message's text, in any case"),
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
        method="GET",
        path="/api/sessions/{id}/messages/{message_id}",
        handler=message,
        summary="One message of a session",
        answers={200: MessageOut},
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
