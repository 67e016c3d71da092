"""The API's own description is valid, complete, and true: real answers and events are held against it."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from odysseus.application import ROUTES, drain
from odysseus.web.routes import SERVICE
from tests.fake_upstream import Exchange, FakeUpstream, breaks, chunk, in_turn, say, silent, wants
from tests.waiting import until
from tests.web.conftest import MODELS, Answer, Serve, Service, Stream

SES, MESSAGE = "/api/sessions/{id}", "/api/sessions/{id}/messages/{message_id}"
CMP, VOTE = "/api/compare/{compare_id}", "/api/compare/{compare_id}/vote"


class Description:
    """The document, made strict: what it doesn't name may not be there."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.seen: set[tuple[str, str, str]] = set()
        """Method, path and status of every answer that was checked."""
        self.kinds: set[str] = set()
        """Every type of event that was checked."""
        self._components = copy.deepcopy(document["components"])
        for schema in self._components["schemas"].values():
            if "properties" in schema:
                schema["additionalProperties"] = False

    def validate(self, value: Any, schema: dict[str, Any]) -> None:
        whole = {**schema, "components": self._components}
        jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker()).validate(value)

    def check(self, method: str, path: str, answer: Answer) -> None:
        operation = self.document["paths"][path][method.lower()]
        assert str(answer.status) in operation["responses"], f"{method} {path}: {answer.status} isn't described"
        self.seen.add((method, path, str(answer.status)))
        content = operation["responses"][str(answer.status)].get("content", {})
        if not content:
            assert answer.body == b""
            return
        [(media_type, described)] = content.items()
        assert answer.headers["Content-Type"].split(";")[0] == media_type
        if media_type == "application/json":
            self.validate(answer.body, described["schema"])

    def check_stream(self, method: str, path: str, stream: Stream) -> None:
        """Check every event; `[DONE]` must be the last."""
        answer = self.document["paths"][path][method.lower()]["responses"]["200"]["content"]["text/event-stream"]
        assert answer["schema"]["required"] == ["data"]
        self.seen.add((method, path, "200"))
        *events, done = stream.seen
        assert done == "[DONE]"
        for event in events:
            self.validate(event, answer["x-event-data"])
            self.kinds.add(event["type"])


@pytest.fixture
async def description(service: Service) -> Description:
    return Description(await service.get("/openapi.json"))


async def test_it_is_valid(description: Description) -> None:
    OpenAPIV31SpecValidator(description.document).validate()
    assert description.document["openapi"].startswith("3.1")
    operations = [operation for path in description.document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] for operation in operations)


async def test_it_describes_every_route_and_no_other(service: Service, description: Description) -> None:
    page = {(method, route.path) for route in ROUTES if not route.described for method in (route.method, "HEAD")}
    routed = {(route.method, route.resource.canonical) for route in service.app.router.routes() if route.resource}
    assert all(path == "/" or path.startswith(("/static/", "/leaderboard")) for _, path in page)
    described = {
        (method.upper(), path) for path, operations in description.document["paths"].items() for method in operations
    }
    heads = {("HEAD", path) for method, path in routed if method == "GET"}
    assert described == routed - heads - page


async def test_every_body_is_strict(description: Description) -> None:
    """What a request may hold is what the handlers take: a misspelt field is an error."""
    schemas = description.document["components"]["schemas"]
    for operations in description.document["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                assert schemas[reference.rpartition("/")[2]]["additionalProperties"] is False


def test_the_check_can_fail() -> None:
    """Else all below says nothing."""
    schema = {"$ref": "#/components/schemas/X"}
    x = {"type": "object", "properties": {"at": {"type": "string", "format": "date-time"}}, "required": ["at"]}
    it = Description({"paths": {}, "components": {"schemas": {"X": x}}})
    it.validate({"at": "2025-01-01T00:00:00Z"}, schema)
    for wrong in ({}, {"at": 1}, {"at": "yesterday"}, {"at": "2025-01-01T00:00:00Z", "more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            it.validate(wrong, schema)


class Checked:
    """Makes calls, and checks each answer."""

    def __init__(self, service: Service, description: Description) -> None:
        self.service, self.description = service, description

    async def __call__(self, expected: int, method: str, template: str, json: Any = None, **options: Any) -> Any:
        names = {
            name: options.pop(name)
            for name in ("id", "session_id", "compare_id", "message_id", "pane", "link", "run_id")
            if name in options
        }
        query = options.pop("query", "")
        answer = await self.service.call(method, template.format(**names) + query, json, **options)
        assert answer.status == expected, answer.body
        self.description.check(method, template, answer)
        return answer.body


AS_JSON = {"headers": {"Accept": "application/json"}}
CHAT, RESUME, STOP = "/api/chat_stream", "/api/chat/resume/{session_id}", "/api/chat/stop/{session_id}"
STATUS, APPROVE = "/api/chat/stream_status/{session_id}", "/api/chat/approve/{session_id}"
AUDIT = "/api/runs/{run_id}/audit"
SHARE, WATCH = "/api/chat/share/{session_id}", "/api/watch/{link}"
BAD = ((400, {"data": b"{", "headers": {"Content-Type": "application/json"}}), (415, {"data": b"{}"}))


async def thinks(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm") + b"data: [DONE]\n\n")
    await exchange.end()


async def test_answers_are_as_described(
    serve: Serve, upstream: FakeUpstream, description: Description, tmp_path: Path
) -> None:
    service = await serve(data_dir=tmp_path / "other", tools_need_approval=("calculator",))
    call = Checked(service, description)
    # Sessions
    session = await call(201, "POST", "/api/sessions", {"title": "T", "model": "m", "system": "S"})
    own = {"id": session["id"], "session_id": session["id"]}
    await call(201, "POST", "/api/sessions", {})
    await call(200, "GET", "/api/sessions")
    await call(200, "PATCH", SES, {"title": None}, **own)
    for status, body in BAD:
        for method, path in (("POST", "/api/sessions"), ("PATCH", SES), ("POST", CHAT), ("POST", "/api/compare")):
            await call(status, method, path, **body, **({"id": session["id"]} if "{id}" in path else {}))
    await call(422, "POST", "/api/sessions", {"title": 1})
    await call(422, "PATCH", SES, {"model": "x"}, **own)
    await call(422, "GET", "/api/sessions", query="?limit=0")
    await call(404, "GET", "/api/sessions", query="?before=ses_9")
    for method, json in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        await call(404, method, SES, json, id="ses_9")
    # A chat
    await call(404, "GET", STATUS, **own)
    await call(204, "GET", RESUME, **own)
    upstream.script = say("Hi", done=False)
    run = await call(202, "POST", CHAT, {"message": "Hi", "session_id": session["id"]}, **AS_JSON)
    await call(409, "POST", CHAT, {"message": "Hi", "session_id": session["id"]})
    await call(404, "POST", CHAT, {"message": "Hi", "session_id": "ses_9"})
    await call(406, "POST", CHAT, {"message": "Hi", "compare_mode": True}, **AS_JSON)
    await call(422, "POST", CHAT, {"message": "Hi", "model": "x"})
    await until(lambda: upstream.exchanges)
    await call(200, "GET", SES, **own)
    await call(200, "GET", STATUS, **own)
    assert (await call(200, "POST", STOP, **own))["run_id"] == run["run_id"]
    await call(200, "GET", AUDIT, run_id=run["run_id"])
    await call(404, "GET", AUDIT, run_id="run_9")
    await call(200, "POST", STOP, **own)
    await call(200, "POST", STOP, session_id=session["id"], headers={"X-Odysseus-Run-Id": "my-run-1"})
    await call(409, "POST", CHAT, {"message": "Hi", "run_id": "my-run-1"})
    for method, path in (("GET", RESUME), ("POST", STOP), ("GET", STATUS)):
        await call(404, method, path, session_id="ses_9")
    upstream.script = say("Hi")
    await (await service.chat(session_id=session["id"])).rest()
    for template in (SES, STATUS):
        await call(200, "GET", template, **own)
    for message in await service.messages(session["id"]):
        await call(200, "GET", MESSAGE, message_id=message["id"], **own)
    await call(404, "GET", MESSAGE, message_id="msg_9", **own)
    await call(200, "GET", "/api/sessions", query="?q=hi")
    # Links and cookies
    shared = await call(201, "POST", SHARE, {}, **own)
    await call(404, "POST", SHARE, {}, session_id="ses_9")
    await call(422, "POST", SHARE, {"expires_in_s": 0}, **own)
    await (await service.open("GET", shared["stream"])).rest()
    last = {"headers": {"Last-Event-ID": (await service.status(session["id"]))["last_event_id"]}}
    await call(204, "GET", WATCH, link=shared["stream"].rpartition("/")[2], **last)
    await call(401, "GET", WATCH, link="x")
    await call(422, "POST", "/api/login", {"token": "x"})
    await call(204, "POST", "/api/logout")
    for path in (SHARE, "/api/login"):
        for status, body in BAD:
            await call(status, "POST", path, **body, **own)
    # A compare
    compare = await call(201, "POST", "/api/compare", {"message": "Hi", "models": ["m", "n"]})
    await call(422, "POST", "/api/compare", {"message": "Hi", "models": ["m"]})
    it = {"compare_id": compare["compare_id"]}
    await call(200, "GET", CMP, **it)
    await (await service.open("GET", compare["panes"][0]["stream"])).rest()
    await call(204, "GET", CMP + "/{pane}", pane=0, **it)
    await call(404, "GET", CMP + "/{pane}", pane=2, **it)
    for pane, status in ((0, 200), (1, 409), (2, 404)):
        await call(status, "POST", CMP + "/{pane}/keep", pane=pane, **it)
    await call(200, "GET", CMP, **it)
    await call(404, "GET", CMP, compare_id="cmp_9")
    upstream.script = silent
    pane = await service.accepted(session_id=compare["panes"][1]["session_id"])
    await call(409, "GET", CMP + "/{pane}", pane=1, **it)
    await service.stop(pane["session_id"])
    # A blind one
    upstream.script = say("Hi")
    blind = await call(201, "POST", "/api/compare", {"message": "Hi", "models": ["m", "n"], "blind": True})
    it = {"compare_id": blind["compare_id"]}
    await call(409, "POST", VOTE, {"winner": 0}, **it)
    for one in blind["panes"]:
        await (await service.open("GET", one["stream"])).rest()
        await call(409, "POST", CHAT, {"message": "Hi", "session_id": one["session_id"]})
    for winner in (0, 0, "tie"):
        await call(409 if winner == "tie" else 200, "POST", VOTE, {"winner": winner}, **it)
        await call(200, "GET", CMP, **it)
    await call(404, "POST", VOTE, {"winner": 0}, compare_id="cmp_9")
    await call(422, "POST", VOTE, {"winner": 2}, **it)
    for status, body in BAD:
        await call(status, "POST", VOTE, **body, **it)
    await call(200, "GET", "/api/compare")
    await call(404, "GET", "/api/compare", query="?before=cmp_9")
    await call(422, "GET", "/api/compare", query="?limit=0")
    await call(200, "GET", "/api/leaderboard")
    # An agent
    await call(404, "POST", APPROVE, {"call_id": "c1", "decision": "allow"}, session_id="ses_9")
    await call(422, "POST", APPROVE, {"call_id": "c1"}, session_id="ses_9")
    for status, body in BAD:
        await call(status, "POST", APPROVE, **body, session_id="ses_9")
    upstream.script = in_turn(wants(("c1", "calculator", '{"expression": "1"}')), say("1"))
    stream = await service.chat(mode="agent")
    await stream.until("approval_request")
    await call(200, "GET", STATUS, session_id=stream.session_id)
    for status in (200, 409):
        await call(status, "POST", APPROVE, {"call_id": "c1", "decision": "allow"}, session_id=stream.session_id)
    await stream.rest()
    await call(200, "GET", SES, id=stream.session_id)
    # The rest
    for path in ("/api/models", "/api/tools", "/healthz", "/readyz", "/metrics", "/openapi.json"):
        await call(200, "GET", path)
    await call(204, "DELETE", SES, **own)
    await call(404, "GET", WATCH, link=shared["stream"].rpartition("/")[2])
    await drain(service.app)
    await call(503, "GET", "/readyz")
    await call(503, "POST", CHAT, {"message": "Hi"})
    statuses = {status for _, _, status in description.seen}
    assert statuses == {"200", "201", "202", "204", "400", "401", "404", "406", "409", "415", "422", "503"}
    described = {
        (method.upper(), path, status)
        for path, operations in description.document["paths"].items()
        for method, operation in operations.items()
        for status in operation["responses"]
        if status not in ("403", "408", "413", "429", "503")  # see test_accounts and test_errors
        if status != "401" or path == WATCH
    }
    streams = {
        (method, path, "200")
        for method, path in (("POST", CHAT), ("GET", RESUME), ("GET", CMP + "/{pane}"), ("GET", WATCH))
    }
    login = {("POST", "/api/login", "200")}  # see test_accounts
    gone = {("GET", CMP + "/{pane}", "422")}  # see test_a_pane_whose_model_has_gone
    assert described - description.seen <= streams | gone | login, "described, but never seen"


async def test_a_body_that_is_too_large_is_as_described(serve: Serve, description: Description, tmp_path: Path) -> None:
    service = await serve(max_body_bytes=10, data_dir=tmp_path / "other")
    call = Checked(service, description)
    for method, path in (("POST", "/api/sessions"), ("PATCH", SES), ("POST", CHAT), ("POST", "/api/compare")):
        await call(413, method, path, {"message": "too long"}, **({"id": "ses_1"} if "{id}" in path else {}))


async def test_a_pane_whose_model_has_gone(serve: Serve, service: Service, description: Description) -> None:
    compare = await service.compare("m", "n")
    await service.close()
    call = Checked(await serve(upstream_models=("m",)), description)
    answer = await call.service.call("GET", compare["panes"][1]["stream"])
    description.check("GET", CMP + "/{pane}", answer)


async def test_events_are_as_described(
    serve: Serve, upstream: FakeUpstream, description: Description, tmp_path: Path
) -> None:
    service = await serve(data_dir=tmp_path / "other", tools_need_approval=("calculator",))
    upstream.script = wants(("c1", "calculator", '{"expression": "1"}'), ("c2", "current_time", "{}"))
    agent = await service.chat(mode="agent")
    await agent.until("approval_request")
    await service.stop(agent.session_id)
    await agent.rest()
    description.check_stream("POST", CHAT, agent)
    for script in (say("Hi"), thinks, breaks("Hi")):
        upstream.script = script
        stream = await service.chat()
        await stream.rest()
        description.check_stream("POST", CHAT, stream)
    upstream.script = silent
    pane = await service.open("GET", (await service.compare(*MODELS))["panes"][0]["stream"])
    stream = await service.chat()
    await asyncio.gather(pane.said(""), stream.said(""))
    await asyncio.gather(service.stop(pane.session_id), service.stop(stream.session_id))
    await asyncio.gather(pane.rest(), stream.rest())
    description.check_stream("GET", CMP + "/{pane}", pane)
    resumed = await service.resume(stream.session_id)
    await resumed.rest()
    description.check_stream("GET", RESUME, resumed)
    service.app[SERVICE].runs.forget_session(stream.session_id)
    snapshot = await service.resume(stream.session_id)
    await snapshot.rest()
    description.check_stream("GET", RESUME, snapshot)
    agents = {"tool_call", "tool_result", "approval_request"}
    assert description.kinds == {"started", "delta", "reasoning", "usage", "error", "ended", "snapshot"} | agents
