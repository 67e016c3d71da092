"""Compare: one prompt, several models, each streamed to the one client that keeps its stream open."""

from __future__ import annotations

from typing import Literal

from aiohttp import web

from odysseus.errors import NotFound
from odysseus.messages import Vote
from odysseus.ratings import rate
from odysseus.run import Run
from odysseus.service import Kept
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.fanout import send
from odysseus.web.rendered import aside, html_of
from odysseus.web.routes import COMPARES, LIMIT, SERVICE, STREAM, Parameter, Route, limit_of, owner_of
from odysseus.web.schemas import (
    CompareAccepted,
    CompareHeadOut,
    CompareOut,
    CompareRequest,
    ComparesOut,
    KeepOut,
    Leaderboard,
    PaneNew,
    PaneOut,
    PaneVoted,
    RatingOut,
    VoteOut,
    VoteRequest,
)
from odysseus.web.stream import EventStream

__all__ = ["ROUTES"]


async def create(request: web.Request) -> web.Response:
    body = await parse_body(request, CompareRequest)
    compare = await request.app[COMPARES].create(
        owner_of(request), body.message, body.models, body.mode, body.system, blind=body.blind
    )
    panes = [
        PaneNew(
            session_id=pane.session_id,
            model=pane.model if compare.revealed else None,
            label=pane.label,
            stream=f"/api/compare/{compare.id}/{pane.number}",
        )
        for pane in compare.panes
    ]
    return json_answer(CompareAccepted(compare_id=compare.id, panes=panes), 201)


async def pane(request: web.Request) -> web.StreamResponse:
    number = _number(request)
    stream = EventStream(request)
    try:
        started = await request.app[COMPARES].pane(owner_of(request), request.match_info["compare_id"], number, stream)
        if isinstance(started, Kept):
            with request.app[SERVICE].runs.reader(started.run, started.seq) as reader:
                await send(stream, reader)
    except ConnectionError:
        pass  # of a run that goes on: any other has ended with it
    finally:
        stream.end()
    return stream if started else web.Response(status=204)


async def keep(request: web.Request) -> web.Response:
    compare_id, number = request.match_info["compare_id"], _number(request)
    kept = await request.app[COMPARES].keep(owner_of(request), compare_id, number)
    run_id = kept.id if isinstance(kept, Run) else str(kept.run_id)
    path = f"/api/chat/resume/{kept.session_id}"
    return json_answer(KeepOut(session_id=kept.session_id, run_id=run_id, status=kept.status, stream=path))


def _number(request: web.Request) -> int:
    number = request.match_info["pane"]
    if len(number) > 3:  # Python refuses to read the longest ones
        raise NotFound("pane")
    return int(number)


async def results(request: web.Request) -> web.Response:
    compare, answers = await request.app[COMPARES].results(owner_of(request), request.match_info["compare_id"])
    panes = [
        PaneOut(
            session_id=pane.session_id,
            run_id=answer and answer.run_id,
            model=pane.model if compare.revealed else None,
            label=pane.label,
            status=answer and answer.status,
            stop_reason=answer and answer.stop_reason,
            text=answer.content if answer else "",
            html=html,
            usage=answer and answer.usage,
            timings=answer and answer.timings,
            kept=answer is not None and bool(answer.detached),
        )
        for pane, answer, html in zip(compare.panes, answers, await html_of(request, answers), strict=True)
    ]
    return json_answer(
        CompareOut(
            compare_id=compare.id,
            prompt=compare.prompt,
            blind=compare.blind,
            revealed=compare.revealed,
            winner=_winner(compare.vote),
            panes=panes,
        )
    )


async def listing(request: web.Request) -> web.Response:
    before = request.query.get("before")
    found = await request.app[SERVICE].store.compares(owner_of(request), limit=limit_of(request), before=before)
    heads = [
        CompareHeadOut(
            compare_id=head.id,
            prompt=head.prompt,
            blind=head.blind,
            winner=_winner(head.vote),
            created_at=head.created_at,
        )
        for head in found
    ]
    return json_answer(ComparesOut(compares=heads))


async def vote(request: web.Request) -> web.Response:
    body = await parse_body(request, VoteRequest)
    winner = None if body.winner == "tie" else body.winner
    compare = await request.app[COMPARES].vote(owner_of(request), request.match_info["compare_id"], winner)
    panes = [PaneVoted(pane=pane.number, label=pane.label, model=pane.model) for pane in compare.panes]
    return json_answer(VoteOut(compare_id=compare.id, winner=body.winner, panes=panes))


async def leaderboard(request: web.Request) -> web.Response:
    votes, records = await request.app[SERVICE].store.votes.records()
    ratings = await aside(request, lambda: rate(records))
    return json_answer(Leaderboard(votes=votes, models=[RatingOut.model_validate(rating) for rating in ratings]))


def _winner(vote: Vote | None) -> int | Literal["tie"] | None:
    if vote is None:
        return None
    return "tie" if vote.winner is None else vote.winner


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
        numbers=("pane",),
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
    Route(
        method="GET",
        path="/api/compare",
        handler=listing,
        summary="List the compares, the newest first",
        parameters=(LIMIT, Parameter("before", "query", "go on after this compare's id")),
        answers={200: ComparesOut},
        errors=(404, 422, 503),
    ),
    Route(
        method="POST",
        path="/api/compare/{compare_id}/vote",
        handler=vote,
        summary="Say which pane of a blind compare won, once, when all have ended; it reveals the models",
        body=VoteRequest,
        answers={200: VoteOut},
        errors=(400, 404, 409, 413, 415, 422, 503),
    ),
    Route(
        method="POST",
        path="/api/compare/{compare_id}/{pane}/keep",
        handler=keep,
        numbers=("pane",),
        summary="Make a chat of this pane: what it runs goes on, whoever leaves, and its session is listed",
        answers={200: KeepOut},
        errors=(404, 409, 503),
    ),
    Route(
        method="GET",
        path="/api/leaderboard",
        handler=leaderboard,
        summary="The models' ratings by all votes on blind compares",
        answers={200: Leaderboard},
        errors=(503,),
    ),
)
