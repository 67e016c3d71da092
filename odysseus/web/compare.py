"""Compare: one prompt, several models, each streamed to the one client that keeps its stream open."""

from __future__ import annotations

from aiohttp import web

from odysseus.errors import NotFound
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.routes import COMPARES, STREAM, Route, owner_of
from odysseus.web.schemas import CompareAccepted, CompareOut, CompareRequest, PaneNew, PaneOut
from odysseus.web.stream import EventStream

__all__ = ["ROUTES"]


async def create(request: web.Request) -> web.Response:
    body = await parse_body(request, CompareRequest)
    compare = await request.app[COMPARES].create(owner_of(request), body.message, body.models, body.mode, body.system)
    panes = [
        PaneNew(session_id=pane.session_id, model=pane.model, stream=f"/api/compare/{compare.id}/{pane.number}")
        for pane in compare.panes
    ]
    return json_answer(CompareAccepted(compare_id=compare.id, panes=panes), 201)


async def pane(request: web.Request) -> web.StreamResponse:
    number = request.match_info["pane"]
    if not (number.isascii() and number.isdigit() and len(number) < 4):
        raise NotFound("pane")
    stream = EventStream(request)
    try:
        compare_id = request.match_info["compare_id"]
        started = await request.app[COMPARES].pane(owner_of(request), compare_id, int(number), stream)
    finally:
        stream.end()
    return stream if started else web.Response(status=204)


async def results(request: web.Request) -> web.Response:
    compare, answers = await request.app[COMPARES].results(owner_of(request), request.match_info["compare_id"])
    panes = [
        PaneOut(
            session_id=pane.session_id,
            model=pane.model,
            status=answer and answer.status,
            stop_reason=answer and answer.stop_reason,
            text=answer.content if answer else "",
            usage=answer and answer.usage,
            timings=answer and answer.timings,
        )
        for pane, answer in zip(compare.panes, answers, strict=True)
    ]
    return json_answer(CompareOut(compare_id=compare.id, prompt=compare.prompt, panes=panes))


ROUTES = (
    Route(
        method="POST",
        path="/api/compare",
        handler=create,
        summary="Prepare a compare: one session and one stream a model; nothing runs yet",
        body=CompareRequest,
        answers={201: CompareAccepted},
        errors=(400, 413, 415, 422, 503),
    ),
    Route(
        method="GET",
        path="/api/compare/{compare_id}/{pane}",
        handler=pane,
        summary="Start this pane's model and stream it; closing the stream stops it; every later GET is answered 204",
        answers={200: STREAM, 204: None},
        errors=(404, 409, 422, 503),
    ),
    Route(
        method="GET",
        path="/api/compare/{compare_id}",
        handler=results,
        summary="The panes' answers so far",
        answers={200: CompareOut},
        errors=(404, 503),
    ),
)
