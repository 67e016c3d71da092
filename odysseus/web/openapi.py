"""The API's own description, made from the routes and the models that its handlers use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

import odysseus
from odysseus.events import StreamEvent
from odysseus.web.routes import STREAM, Route
from odysseus.web.schemas import ErrorOut

__all__ = ["describe"]

_REF = "#/components/schemas/{model}"
_PHRASES = {200: "OK", 201: "Created", 202: "Accepted", 204: "Nothing (more) to get", 503: "Not ready"}


# Before OpenAPI 3.2 there is no word for the items of a stream; tools take a stream's schema for that of each event.
_EVENT = {
    "type": "object",
    "description": "one event; its data is JSON, as x-event-data says, or [DONE]",
    "properties": {"id": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
_SECURITY = {
    "token": {"type": "http", "scheme": "bearer"},
    "cookie": {"type": "apiKey", "in": "cookie", "name": "odysseus_token"},
}


def describe(routes: Sequence[Route]) -> bytes:
    """Return the OpenAPI 3.1 document of those *routes* that are part of the API, as JSON."""
    routes = [route for route in routes if route.described]
    models = {model for route in routes for model in _models(route)} | {ErrorOut}
    modes = {
        model: "validation" if any(route.body is model for route in routes) else "serialization" for model in models
    }
    ordered = sorted(modes.items(), key=lambda entry: entry[0].__name__)
    _, schemas = models_json_schema(ordered, ref_template=_REF)  # type: ignore[arg-type]
    events = TypeAdapter(StreamEvent).json_schema(ref_template=_REF)
    components = {**schemas.get("$defs", {}), **events.pop("$defs"), "StreamEvent": events}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {"title": "Odysseus", "version": odysseus.__version__, "description": odysseus.__doc__},
            "paths": paths,
            "components": {"schemas": components, "securitySchemes": _SECURITY},
        },
        option=orjson.OPT_INDENT_2,
    )


def _models(route: Route) -> list[type[BaseModel]]:
    answers = [answer for answer in route.answers.values() if isinstance(answer, type)]
    return answers if route.body is None else [*answers, route.body]


def _operation(route: Route) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    others = [
        {"name": it.name, "in": it.where, "description": it.meaning, "schema": {"type": it.type}}
        for it in route.parameters
    ]
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub(r'[^A-Za-z0-9]+', '_', route.path)}".rstrip("_"),
        "summary": route.summary,
        "parameters": in_path + others,
        "responses": {
            **{str(status): _error() for status in (*route.errors, *_refusals(route))},
            **{str(status): _answer(status, answer) for status, answer in route.answers.items()},
        },
    }
    if not route.open:
        operation["security"] = [{}, *({name: []} for name in _SECURITY)]
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.body)}
    return operation


def _refusals(route: Route) -> Sequence[int]:
    """What is answered before the handler is asked."""
    slow = (408,) if route.body is not None else ()
    if route.open:
        return slow
    return (401, 429) if route.method == "GET" else (401, 403, *slow, 429)


def _answer(status: int, answer: type[BaseModel] | str | None) -> dict[str, Any]:
    described: dict[str, Any] = {"description": _PHRASES[status]}
    if answer is not None:
        described["content"] = _content(answer)
    return described


def _error() -> dict[str, Any]:
    return {"description": "Refused", "content": _content(ErrorOut)}


def _content(what: type[BaseModel] | str) -> dict[str, Any]:
    if what == STREAM:
        return {STREAM: {"schema": _EVENT, "x-event-data": {"$ref": _REF.format(model="StreamEvent")}}}
    if isinstance(what, str):
        return {what: {"schema": {"type": "object" if what == "application/json" else "string"}}}
    return {"application/json": {"schema": {"$ref": _REF.format(model=what.__name__)}}}
