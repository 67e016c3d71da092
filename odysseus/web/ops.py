"""For operators and programs: models, tools, health, metrics, and the API's own description."""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from odysseus.errors import StoreError
from odysseus.web.errors import json_answer
from odysseus.web.metrics import METRICS
from odysseus.web.routes import SERVICE, Route
from odysseus.web.schemas import Health, ModelOut, Models, Readiness, ToolOut, Tools, ToolServerOut

__all__ = ["OPENAPI", "ROUTES"]

OPENAPI = web.AppKey("openapi", bytes)
"""The document that `web.openapi` makes of all routes."""

_PING_S = 2.0


async def models(request: web.Request) -> web.Response:
    found = await request.app[SERVICE].turns.catalog.models()
    return json_answer(Models(models=[ModelOut.model_validate(model) for model in found]))


async def tools(request: web.Request) -> web.Response:
    toolbox = request.app[SERVICE].turns.toolbox
    found = [ToolOut.model_validate(tool) for tool in await toolbox.tools()]
    servers = [ToolServerOut.model_validate(server) for server in toolbox.servers]
    return json_answer(Tools(tools=found, servers=servers))


async def healthz(request: web.Request) -> web.Response:
    return json_answer(Health(status="ok"))


async def readyz(request: web.Request) -> web.Response:
    service = request.app[SERVICE]
    try:
        async with asyncio.timeout(_PING_S):
            await service.store.ping()
        store = True
    except (StoreError, TimeoutError):
        store = False
    ready = Readiness(
        ready=store and service.runs.has_room and not service.runs.draining,
        store=store,
        engine=service.runs.has_room,
        redis=service.elsewhere.figures().reached,
        draining=service.runs.draining,
    )
    return json_answer(ready, 200 if ready.ready else 503)


async def metrics(request: web.Request) -> web.Response:
    return web.Response(
        body=generate_latest(request.app[METRICS].registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
    )


async def openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


ROUTES = (
    Route(
        method="GET",
        path="/api/models",
        handler=models,
        summary="The models of all model servers; the first is the default",
        answers={200: Models},
    ),
    Route(
        method="GET",
        path="/api/tools",
        handler=tools,
        summary="The tools of agent mode, and where they come from",
        answers={200: Tools},
    ),
    Route(method="GET", path="/healthz", handler=healthz, summary="Alive", answers={200: Health}, open=True),
    Route(
        method="GET",
        path="/readyz",
        handler=readyz,
        summary="Ready for new runs",
        answers={200: Readiness, 503: Readiness},
        open=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="Prometheus metrics",
        answers={200: "text/plain"},
        open=True,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handler=openapi,
        summary="This description",
        answers={200: "application/json"},
        open=True,
    ),
)
