"""What a route is: how it is called, what it takes and answers. The router and `openapi` are both made of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from odysseus.accounts import Identity
from odysseus.compares import Compares
from odysseus.errors import InvalidField
from odysseus.service import Service
from odysseus.settings import Settings

__all__ = [
    "COMPARES",
    "IDENTITY",
    "LIMIT",
    "SERVICE",
    "SETTINGS",
    "STREAM",
    "STREAMING",
    "Parameter",
    "Route",
    "add_routes",
    "is_open",
    "is_stream",
    "limit_of",
    "owner_of",
]

COMPARES = web.AppKey("compares", Compares)
SERVICE = web.AppKey("service", Service)
SETTINGS = web.AppKey("settings", Settings)

IDENTITY = web.RequestKey("identity", Identity)
"""Who asks. Only a route that is open to everybody can do without."""

STREAMING = web.RequestKey("streaming", bool)
"""Set when the answer has begun: an error can't be answered any more."""

STREAM = "text/event-stream"
"""Stands for a stream of events among a route's answers."""


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    where: str
    """`query` or `header`; those in the path are read off it."""
    meaning: str
    type: str = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    method: str
    path: str
    handler: Handler
    summary: str
    answers: Mapping[int, type[BaseModel] | str | None]
    """By status: a model for JSON, a media type for anything else, None for no body. Errors are `ErrorOut`."""
    body: type[BaseModel] | None = None
    parameters: Sequence[Parameter] = field(default=())
    errors: Sequence[int] = ()
    numbers: Sequence[str] = ()
    """The parts of the path that are digits: with a word in its place, it may be another route's."""
    open: bool = False
    """Whether it answers everybody: the rest wants to know who asks."""
    described: bool = True
    """Whether `openapi` tells of it: the page isn't part of the API."""

    @property
    def streams(self) -> bool:
        """Whether the client's going away must cancel the handler. Every other handler is carried through."""
        return STREAM in self.answers.values()


_LIMIT, _MAX_LIMIT = 50, 500

LIMIT = Parameter("limit", "query", f"how many, up to {_MAX_LIMIT}; default {_LIMIT}", "integer")


def limit_of(request: web.Request) -> int:
    """Return how many things of a list are asked for. Raises `InvalidField`."""
    limit = request.query.get("limit", str(_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 6 and 1 <= int(limit) <= _MAX_LIMIT):
        raise InvalidField("limit", f"must be a number from 1 to {_MAX_LIMIT}")
    return int(limit)


_STREAMS: web.AppKey[frozenset[Handler]] = web.AppKey("streams", frozenset)
_OPEN: web.AppKey[frozenset[Handler]] = web.AppKey("open", frozenset)


def add_routes(app: web.Application, routes: Sequence[Route]) -> None:
    """Put *routes* on the router. A GET also answers HEAD, but not where it streams: that would start a run."""
    for route in routes:
        path = route.path
        for name in route.numbers:
            path = path.replace(f"{{{name}}}", f"{{{name}:[0-9]+}}")
        app.router.add_route(route.method, path, route.handler)
        if route.method == "GET" and not route.streams:
            app.router.add_route("HEAD", path, route.handler)
    app[_STREAMS] = frozenset(route.handler for route in routes if route.streams)
    app[_OPEN] = frozenset(route.handler for route in routes if route.open)


def is_stream(request: web.Request) -> bool:
    return request.match_info.handler in request.app[_STREAMS]


def is_open(request: web.Request) -> bool:
    """Also what no route answers: that there is nothing is no secret."""
    return request.match_info.http_exception is not None or request.match_info.handler in request.app[_OPEN]


def owner_of(request: web.Request) -> str:
    return request[IDENTITY].owner
