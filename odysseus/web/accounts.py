"""Who asks: found out before a handler sees the request; and the cookie that lets an `EventSource` say so.

A cookie is sent by the browser whoever made the page, so a request that changes something must come from our own, or
from one in `CORS_ORIGINS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from aiohttp import web

from odysseus.accounts import Accounts, Identity
from odysseus.accounts.proxies import TrustedProxies
from odysseus.errors import Forbidden, InvalidField, TooManyRequests, Unauthorized
from odysseus.messages import now
from odysseus.rates import Rates
from odysseus.web.errors import json_answer, parse_body
from odysseus.web.routes import IDENTITY, SETTINGS, Route, is_open
from odysseus.web.schemas import LoginOut, LoginRequest

__all__ = ["ACCOUNTS", "PROXIES", "RATES", "ROUTES", "let_in"]

ACCOUNTS = web.AppKey("accounts", Accounts)
PROXIES = web.AppKey("proxies", TrustedProxies)
RATES = web.AppKey("rates", Rates)
"""How often each owner asks. What is nobody's has no limit here: addresses are for nginx to limit."""

_COOKIE = "odysseus_token"
_COOKIE_S = 30 * 24 * 3600  # of a token that doesn't expire by itself
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def let_in(request: web.Request) -> None:
    """Find out who asks, where the route wants to know. Raises `Unauthorized`, `Forbidden`, `TooManyRequests`."""
    if is_open(request):
        return
    bearer = _bearer(request)
    if bearer is None and (bearer := request.cookies.get(_COOKIE)) and request.method not in _SAFE:
        _check_origin(request, request.app[SETTINGS].cors_origins)
    request[IDENTITY] = await _identify(request, bearer)
    _check_rate(request)


async def login(request: web.Request) -> web.Response:
    body = await parse_body(request, LoginRequest)
    if request.app[SETTINGS].auth not in ("token", "jwt"):
        raise InvalidField("token", "this service knows no tokens")
    if "Origin" in request.headers:
        _check_origin(request, request.app[SETTINGS].cors_origins)
    identity = await _identify(request, body.token)
    answer = json_answer(LoginOut(owner=identity.owner, expires_at=identity.expires_at))
    left_s = _COOKIE_S if identity.expires_at is None else int((identity.expires_at - now()).total_seconds())
    answer.set_cookie(
        _COOKIE,
        body.token,
        max_age=left_s,
        httponly=True,
        samesite="Strict",
        secure=_proto(request) == "https",
    )
    return answer


async def logout(request: web.Request) -> web.Response:
    answer = web.Response(status=204)
    answer.del_cookie(_COOKIE)
    return answer


async def _identify(request: web.Request, bearer: str | None) -> Identity:
    users = request.headers.getall(request.app[SETTINGS].auth_proxy_header, [])
    return await request.app[ACCOUNTS].identify(bearer, users, request.remote)


def _check_rate(request: web.Request) -> None:
    """Raises `TooManyRequests`."""
    if owner := request[IDENTITY].owner:
        rates = request.app[RATES]
        if wait_s := rates.take(owner, asyncio.get_running_loop().time()):
            raise TooManyRequests(rates.per_minute, wait_s)


def _bearer(request: web.Request) -> str | None:
    """Return the token of the `Authorization` header. Source: RFC 6750, section 2.1."""
    values = request.headers.getall("Authorization", [])
    if not values:
        return None
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer":
        raise Unauthorized("the Authorization header must be: Bearer, and a token")
    return token.strip()


def _check_origin(request: web.Request, own_origins: Collection[str]) -> None:
    """Raises `Forbidden` unless the request comes from a page of ours."""
    origins = request.headers.getall("Origin", [])
    if not origins:
        raise Forbidden("a request with a cookie must say its Origin; send the token as Authorization: Bearer instead")
    proto = _proto(request)
    ours = {f"{scheme}://{request.host}" for scheme in ((proto,) if proto else ("http", "https"))}
    if any(origin not in ours and origin not in own_origins for origin in origins):
        raise Forbidden("the request comes from a page of another origin")


def _proto(request: web.Request) -> str | None:
    """Return how the client reached the proxy in front of us; None if there is none to say."""
    return request.app[PROXIES].forwarded_proto(request.remote, request.headers.getall("X-Forwarded-Proto", []))


ROUTES = (
    Route(
        method="POST",
        path="/api/login",
        handler=login,
        summary="Turn a token into a cookie that scripts can't read, for EventSource",
        body=LoginRequest,
        answers={200: LoginOut},
        errors=(400, 401, 403, 413, 415, 422, 503),
        open=True,
    ),
    Route(
        method="POST",
        path="/api/logout",
        handler=logout,
        summary="Take the cookie back",
        answers={204: None},
        open=True,
    ),
)
