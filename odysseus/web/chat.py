"""Chat: start a generation, come back to it, stop it, ask how it is, decide what its tools may do."""

from __future__ import annotations

from dataclasses import asdict

from aiohttp import web

from odysseus.approvals import Verdict
from odysseus.cluster.followed import Followed
from odysseus.feed import Feed
from odysseus.messages import Message
from odysseus.run import Run
from odysseus.snapshots import snapshot_of
from odysseus.stream_status import generation_of
from odysseus.turns import Request
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.fanout import follow
from odysseus.web.routes import SERVICE, STREAM, Parameter, Route, owner_of
from odysseus.web.schemas import Accepted, Approved, ApproveRequest, ChatRequest, StopOut, StreamStatusOut
from odysseus.web.stream import EventStream

__all__ = ["LAST_EVENT_ID", "ROUTES", "direct", "resumed"]


async def chat_stream(request: web.Request) -> web.StreamResponse:
    body = await parse_body(request, ChatRequest)
    as_json = _prefers_json(request)
    if body.compare_mode and as_json:
        raise web.HTTPNotAcceptable
    asked = Request(
        owner=owner_of(request),
        text=body.message,
        session_id=body.session_id,
        model=body.model,
        mode=body.mode,
        system=body.system,
        temperature=body.temperature,
        max_tokens=body.max_tokens,
        if_busy=body.if_busy,
        run_id=body.run_id,
    )
    if body.compare_mode:
        return await direct(request, asked)
    if not as_json:
        request.app[SERVICE].runs.check_room_for_subscriber()  # rather now than when the run has started
    found = await request.app[SERVICE].start(asked)
    if as_json:
        return json_answer(await _accepted(request, found), 202)
    return await _joined(request, found)


async def direct(request: web.Request, asked: Request) -> web.StreamResponse:
    """Stream *asked* to this client alone, and stop it with this client; or join the run that has its id."""
    stream = EventStream(request)
    try:
        found = await request.app[SERVICE].direct(asked, stream)
    finally:
        stream.end()
    return stream if found is None else await _joined(request, found)


async def _joined(request: web.Request, found: Feed[bytes] | Message) -> web.StreamResponse:
    return await follow(request, found, 0) if isinstance(found, Feed) else await _snapshot(request, found)


async def _snapshot(request: web.Request, message: Message) -> web.StreamResponse:
    frames = snapshot_of(message)
    stream = EventStream(request)
    assert message.run_id is not None
    try:
        await stream.begin(message.run_id, message.session_id)
        await stream.write(frames)
    except ConnectionError:
        pass  # a stream that can be asked for again
    finally:
        stream.end()
    return stream


async def resume(request: web.Request) -> web.StreamResponse:
    return await resumed(request, request.match_info["session_id"], request.query.get("run_id"))


async def resumed(request: web.Request, session_id: str, run_id: str | None) -> web.StreamResponse:
    """Stream what this client lacks of the session's run, or answer 204."""
    last_event_id = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
    found = await request.app[SERVICE].resume(owner_of(request), session_id, last_event_id, run_id)
    if found is None:
        return web.Response(status=204)
    return await _snapshot(request, found) if isinstance(found, Message) else await follow(request, *found)


async def stop(request: web.Request) -> web.Response:
    run_id = request.headers.get("X-Odysseus-Run-Id")
    receipt = await request.app[SERVICE].stop(owner_of(request), request.match_info["session_id"], run_id)
    if receipt is None:
        return json_answer(StopOut(stopped=False), exclude_unset=True)
    return json_answer(StopOut(stopped=True, **asdict(receipt)))


async def stream_status(request: web.Request) -> web.Response:
    status = await request.app[SERVICE].status(owner_of(request), request.match_info["session_id"])
    return json_answer(StreamStatusOut.model_validate(status))


async def approve(request: web.Request) -> web.Response:
    body = await parse_body(request, ApproveRequest)
    verdict = Verdict(body.decision, body.reason)
    await request.app[SERVICE].approve(owner_of(request), request.match_info["session_id"], body.call_id, verdict)
    return json_answer(Approved(call_id=body.call_id, decision=body.decision))


async def _accepted(request: web.Request, found: Run[bytes] | Followed | Message) -> Accepted:
    path = f"/api/chat/resume/{found.session_id}"
    if isinstance(found, Message):
        return Accepted(run_id=str(found.run_id), session_id=found.session_id, message_id=found.id, stream=path)
    if not await request.app[SERVICE].is_shown(found.session_id, found.id):
        path += f"?run_id={found.id}"  # it waits in line: the session's own stream is that of the run before it
    message_id = generation_of(found).turn.message_id if isinstance(found, Run) else found.message.id
    return Accepted(run_id=found.id, session_id=found.session_id, message_id=message_id, stream=path)


def _prefers_json(request: web.Request) -> bool:
    """Whether the Accept header names JSON, and likes it better than a stream. Without a word of either: a stream."""
    quality = {"application/json": 0.0, STREAM: 0.0}
    for entry in request.headers.get("Accept", "*/*").lower().split(","):
        media_type, *parameters = (part.strip() for part in entry.split(";"))
        if media_type in quality:
            quality[media_type] = max(quality[media_type], _q(parameters))
    return quality["application/json"] > quality[STREAM]


def _q(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


_RUN_ID = Parameter("X-Odysseus-Run-Id", "header", "stop this run only; remembered for a minute if it hasn't arrived")

LAST_EVENT_ID = (
    Parameter("Last-Event-ID", "header", "the id of the last event seen"),
    Parameter("last_event_id", "query", "the same, for a page that was reloaded"),
)

ROUTES = (
    Route(
        method="POST",
        path="/api/chat_stream",
        handler=chat_stream,
        summary="Start a generation, or join the one that has the same run_id",
        body=ChatRequest,
        answers={200: STREAM, 202: Accepted},
        errors=(400, 404, 406, 409, 413, 415, 422, 503),
    ),
    Route(
        method="GET",
        path="/api/chat/resume/{session_id}",
        handler=resume,
        summary="Replay the session's run after Last-Event-ID, then go on live; 204 when there is nothing more to get",
        parameters=(
            *LAST_EVENT_ID,
            Parameter("run_id", "query", "this run of the session, instead of its current one"),
        ),
        answers={200: STREAM, 204: None},
        errors=(404, 503),
    ),
    Route(
        method="POST",
        path="/api/chat/stop/{session_id}",
        handler=stop,
        summary="Stop the session's generation and withdraw its queued ones; answered when the partial answer is saved",
        parameters=(_RUN_ID,),
        answers={200: StopOut},
        errors=(404, 503),
    ),
    Route(
        method="GET",
        path="/api/chat/stream_status/{session_id}",
        handler=stream_status,
        summary="Describe the session's latest run",
        answers={200: StreamStatusOut},
        errors=(404, 503),
    ),
    Route(
        method="POST",
        path="/api/chat/approve/{session_id}",
        handler=approve,
        summary="Allow or deny a tool call that waits for approval",
        body=ApproveRequest,
        answers={200: Approved},
        errors=(400, 404, 409, 413, 415, 422, 503),
    ),
)
