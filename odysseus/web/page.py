"""The web page: its two documents, and the modules, styles and pictures they are made of.

They are the same for everybody and hold no secret, so they need no account; what they show comes from the API.
"""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from odysseus.web.routes import Route

__all__ = ["ROUTES"]

_FOLDER = Path(__file__).parent / "static"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""Named here because what the system's own table says of them differs from machine to machine."""
_FILES = frozenset(path.name for path in _FOLDER.iterdir() if path.suffix in _TYPES)

_HEADERS = {
    # Nothing inline: what a model says can't become code even if it got past everything else.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "font-src 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked again each time, and answered 304: an update is never half there
}


async def index(request: web.Request) -> web.StreamResponse:
    return _file("index.html")


async def leaderboard(request: web.Request) -> web.StreamResponse:
    return _file("leaderboard.html")


async def static(request: web.Request) -> web.StreamResponse:
    name = request.match_info["file"]
    if name not in _FILES:
        raise web.HTTPNotFound
    return _file(name)


def _file(name: str) -> web.FileResponse:
    path = _FOLDER / name
    return web.FileResponse(path, headers={**_HEADERS, "Content-Type": _TYPES[path.suffix]})


ROUTES = (
    Route(
        method="GET",
        path="/",
        handler=index,
        summary="The page: chat and compare",
        answers={200: "text/html"},
        open=True,
        described=False,
    ),
    Route(
        method="GET",
        path="/leaderboard",
        handler=leaderboard,
        summary="The page: what blind compares were won by",
        answers={200: "text/html"},
        open=True,
        described=False,
    ),
    Route(
        method="GET",
        path="/static/{file}",
        handler=static,
        summary="What the page is made of",
        answers={200: None},
        open=True,
        described=False,
    ),
)
