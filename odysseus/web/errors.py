"""The one mapping of errors to answers, and the two middlewares every request passes.

Nothing of the inside leaves: no traceback, no driver's words, no HTML.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from json import JSONDecodeError
from typing import TypeVar

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware
from pydantic import BaseModel, ValidationError

from odysseus.errors import (
    AlreadyDecided,
    AlreadyVoted,
    Busy,
    Concealed,
    Draining,
    Forbidden,
    InvalidField,
    LogUnreachable,
    ModelsUnknown,
    NodeExpelled,
    NodeUnreachable,
    NotBlind,
    NotEnded,
    NotFound,
    NotStarted,
    RequestError,
    RunExists,
    StoppedBeforeStart,
    StoreError,
    TooMany,
    TooManyRequests,
    Unauthorized,
    Whose,
)
from odysseus.tasks import Tasks
from odysseus.web.metrics import METRICS
from odysseus.web.routes import STREAMING, is_stream
from odysseus.web.schemas import ErrorOut, Problem

__all__ = ["errors_as_json", "json_answer", "parse_body", "until_answered"]

_log = logging.getLogger(__name__)

_Body = TypeVar("_Body", bound=BaseModel)

_STATUS: Mapping[type[RequestError], int] = {
    Unauthorized: 401,
    Forbidden: 403,
    InvalidField: 422,
    NotFound: 404,
    AlreadyDecided: 409,
    AlreadyVoted: 409,
    Busy: 409,
    Concealed: 409,
    NotBlind: 409,
    NotEnded: 409,
    NotStarted: 409,
    StoppedBeforeStart: 409,
    TooMany: 429,
    TooManyRequests: 429,
    Draining: 503,
    RunExists: 409,
    NodeExpelled: 503,
    NodeUnreachable: 503,
    LogUnreachable: 503,
    ModelsUnknown: 503,
}
_RETRY_AFTER_S = 5
_AT_A_LIMIT = (413, 429, 503)
_BODY_S = 60.0  # for the whole of a request's body; a proxy in front has it all before it asks us

_CODES = {
    400: ("bad_request", "the request can't be read"),
    404: ("not_found", "there is nothing at this path; /openapi.json lists what there is"),
    405: ("method_not_allowed", "this path doesn't take that method"),
    406: ("not_acceptable", "this can't be answered in a form the Accept header names"),
    408: ("body_too_slow", "the request's body doesn't come; send it again"),
    413: ("too_large", "the request's body is too large"),
    415: ("not_json", "the body must be JSON: send Content-Type: application/json"),
}


def json_answer(answer: BaseModel, status: int = 200, *, exclude_unset: bool = False) -> web.Response:
    text = answer.model_dump_json(exclude_unset=exclude_unset)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


async def parse_body(request: web.Request, model: type[_Body]) -> _Body:
    """Return the request's JSON object as *model*. Raises `InvalidField` and the HTTP errors 400, 413, 415."""
    if request.content_type != "application/json" and not request.content_type.endswith("+json"):
        raise web.HTTPUnsupportedMediaType
    body = await request.read()
    try:
        value = orjson.loads(body)
    except (orjson.JSONDecodeError, JSONDecodeError) as error:
        raise web.HTTPBadRequest(text=f"the body isn't JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidField(None, "the body must be a JSON object")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        message = "no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise InvalidField(".".join(str(part) for part in first["loc"]), message) from error


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        answer = _http_error(error)
    except RequestError as error:
        answer = _request_error(error)
    except (HttpProcessingError, web.RequestPayloadError):
        answer = _error(400, "bad_request", "the request's body can't be read: its length or encoding is wrong")
    except StoreError:
        _log.exception("%s %s: the store failed", request.method, request.path)
        answer = _error(503, "store_unavailable", "the database can't be reached; try again soon")
    except Exception:
        if request.get(STREAMING):
            raise  # an answer has begun; another one in the middle of it would only break it worse
        _log.exception("%s %s failed", request.method, request.path)
        answer = _error(500, "internal_error", "the service failed")
    if answer.status in _AT_A_LIMIT and isinstance(answer.body, bytes):
        request.app[METRICS].refused(orjson.loads(answer.body)["error"]["code"])
    return answer


def until_answered(tasks: Tasks, let_in: Callable[[web.Request], Awaitable[None]]) -> Middleware:
    """Return the middleware that carries handlers through although their client has left, all but the streams.

    The server cancels a handler whose client goes away, which is what a stream needs and what would cut everything
    else in two. *let_in* is asked first, before a stranger's body is read, and from here: another middleware would take
    half a kilobyte of each stream, for as long as it lasts.
    """

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        await let_in(request)
        if request.body_exists:
            await _read(request)  # also where nobody wants it: a body left unread can hide that the client has gone
        if is_stream(request):
            return await handler(request)
        return await tasks.shielded(_answer(request, handler))

    return middleware


async def _read(request: web.Request) -> None:
    """Read the body. Behind a bad chunk that comes late, aiohttp (3.14) would wait for the rest of it for ever."""
    try:
        async with asyncio.timeout(_BODY_S):
            await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await handler(request)


def _request_error(error: RequestError) -> web.Response:
    status = _STATUS[type(error)]
    if isinstance(error, TooMany) and error.whose is Whose.SERVICE:
        status = 503
    if isinstance(error, InvalidField):
        return _error(status, error.code, error.problem, field=error.field)
    if isinstance(error, Busy):
        return _error(status, error.code, str(error), run_id=error.run_id)
    if isinstance(error, TooManyRequests):
        return _error(status, error.code, str(error), retry_after_s=math.ceil(error.retry_after_s))
    return _error(status, error.code, str(error))


def _http_error(error: web.HTTPException) -> web.Response:
    code, message = _CODES.get(error.status, ("http_error", error.reason))
    if error.status == 400 and error.text is not None:
        message = error.text
    answer = _error(error.status, code, message)
    if isinstance(error, web.HTTPMethodNotAllowed):
        answer.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    return answer


def _error(
    status: int,
    code: str,
    message: str,
    *,
    field: str | None = None,
    run_id: str | None = None,
    retry_after_s: int = _RETRY_AFTER_S,
) -> web.Response:
    extra = {name: value for name, value in (("field", field), ("run_id", run_id)) if value is not None}
    answer = json_answer(ErrorOut(error=Problem(code=code, message=message, **extra)), status, exclude_unset=True)
    if status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        answer.headers["Retry-After"] = str(retry_after_s)
    return answer
