"""Pages of other origins: what a browser must be told, so that those in `CORS_ORIGINS` may ask us and read the answers.

Whether a request that comes with a cookie may change something is decided in `accounts`: a browser sends some of them
without asking here first. Source: the Fetch standard, section 3.3, "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

__all__ = ["Origins"]

_PREFLIGHT = {
    hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, HEAD, POST, PATCH, DELETE",
    hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Authorization, Content-Type, Last-Event-ID, X-Odysseus-Run-Id",
    hdrs.ACCESS_CONTROL_MAX_AGE: "7200",  # Chromium keeps none longer
}
_EXPOSED = "X-Odysseus-Run-Id, X-Odysseus-Session-Id, Retry-After"


class Origins:
    """The pages' *origins* that are let in; others are told nothing, and their browser keeps the answer from them."""

    def __init__(self, origins: Collection[str]) -> None:
        self._origins = frozenset(origins)

    @web.middleware
    def answer_preflight(self, request: web.Request, handler: Handler) -> Awaitable[web.StreamResponse]:
        """Answer the question that a browser asks before it sends a request, and without its cookie or token.

        Not a coroutine, which each stream would keep for as long as it lasts.
        """
        asks = request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
        return _allowed() if asks and self._lets_in(request) else handler(request)

    async def tell(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add what must stand in every answer, an error's and a stream's too, before its headers leave."""
        if not self._origins:
            return
        response.headers.add(hdrs.VARY, hdrs.ORIGIN)  # also where there is none: a cache must not mix them up
        if self._lets_in(request):
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = request.headers[hdrs.ORIGIN]
            response.headers[hdrs.ACCESS_CONTROL_ALLOW_CREDENTIALS] = "true"
            response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED

    def _lets_in(self, request: web.Request) -> bool:
        return request.headers.get(hdrs.ORIGIN) in self._origins


async def _allowed() -> web.StreamResponse:
    return web.Response(status=204, headers=_PREFLIGHT)
