"""Pages of other origins: what their browsers are told, and what a real browser makes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page

from tests.browser import chromium, visitor
from tests.fake_upstream import FakeUpstream, say
from tests.process.raw_client import until
from tests.web.conftest import Answer, Serve, Service
from tests.web.test_accounts import SECRET, bearer, cookie_of, login, token_of

APP = "https://app.example.com"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
TOLD = {"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers"}
STRANGERS = ["https://evil.example", "null", f"{APP}.evil.example", f"{APP}:8443", "http://app.example.com", "*", ""]


@pytest.fixture
async def service(serve: Serve) -> Service:
    return await serve(auth="jwt", auth_jwt_secret=SECRET, cors_origins=("https://other.example", APP))


def told(headers: Any) -> set[str]:
    return {name for name in headers if name.startswith("Access-Control-")}


def check_told(headers: Any) -> None:
    """All that a page of `APP` needs to read the answer, and no more."""
    assert told(headers) == TOLD
    assert headers.getall("Access-Control-Allow-Origin") == [APP]
    assert headers.getall("Access-Control-Allow-Credentials") == ["true"]
    exposed = {name.strip() for name in headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed == {"X-Odysseus-Run-Id", "X-Odysseus-Session-Id", "Retry-After"}
    assert headers.getall("Vary") == ["Origin"]


async def preflight(service: Service, origin: str | None, path: str = "/api/chat_stream") -> Answer:
    headers = PREFLIGHT | ({} if origin is None else {"Origin": origin})
    return await service.call("OPTIONS", path, headers=headers)


@pytest.mark.parametrize("path", ["/api/chat_stream", "/api/sessions/ses_1", "/api/nothing"])
async def test_a_preflight(service: Service, path: str) -> None:
    """It comes without cookie or token."""
    answer = await preflight(service, APP, path)
    assert (answer.status, answer.body) == (204, b"")
    headers = answer.headers
    assert headers["Access-Control-Allow-Origin"] == APP
    assert headers["Access-Control-Allow-Credentials"] == "true"
    assert set(headers["Access-Control-Allow-Methods"].split(", ")) == {"GET", "HEAD", "POST", "PATCH", "DELETE"}
    allowed = {"Authorization", "Content-Type", "Last-Event-ID", "X-Odysseus-Run-Id"}
    assert set(headers["Access-Control-Allow-Headers"].split(", ")) == allowed
    assert int(headers["Access-Control-Max-Age"]) > 0
    assert headers.getall("Vary") == ["Origin"]


async def test_what_only_looks_like_a_preflight(service: Service) -> None:
    answer = await service.call("OPTIONS", "/api/chat_stream", headers={"Origin": APP})
    assert answer.status == 405
    check_told(answer.headers)


@pytest.mark.parametrize("origin", [None, *STRANGERS])
async def test_strangers_are_told_nothing(service: Service, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    stream = await service.open("POST", "/api/chat_stream", {"message": "Hi"}, headers=headers | bearer("ann"))
    answers = [
        await preflight(service, origin),
        await service.call("GET", "/api/sessions", headers=headers | bearer("ann")),
        await service.call("GET", "/api/sessions", headers=headers),
    ]
    assert [answer.status for answer in answers] == [405, 200, 401]
    for answer in (*answers, stream):
        assert told(answer.headers) == set()
        assert answer.headers.getall("Vary") == ["Origin"]  # what a cache keeps isn't for APP either
    assert await stream.text() == "Hello world"


async def test_without_the_setting_nobody_is_told_anything(serve: Serve) -> None:
    service = await serve()
    answers = [await preflight(service, APP), await service.call("GET", "/api/sessions", headers={"Origin": APP})]
    assert [answer.status for answer in answers] == [405, 200]
    for answer in answers:
        assert told(answer.headers) == set()
        assert "Vary" not in answer.headers


async def test_answers_errors_and_streams(service: Service) -> None:
    own = {"Origin": APP, **bearer("ann")}
    calls: list[tuple[int, str, str, Any, dict[str, str]]] = [
        (200, "GET", "/api/sessions", None, own),
        (200, "HEAD", "/api/sessions", None, own),
        (201, "POST", "/api/sessions", {}, own),
        (401, "GET", "/api/sessions", None, {"Origin": APP}),
        (404, "GET", "/api/nothing", None, own),
        (405, "DELETE", "/api/sessions", None, own),
        (422, "POST", "/api/chat_stream", {}, own),
        (200, "GET", "/healthz", None, {"Origin": APP}),
    ]
    for status, method, path, body, headers in calls:
        answer = await service.call(method, path, body, headers=headers)
        assert answer.status == status, path
        check_told(answer.headers)
    stream = await service.open("POST", "/api/chat_stream", {"message": "Hi"}, headers=own)
    check_told(stream.headers)
    assert await stream.text() == "Hello world"
    direct = {"message": "Hi", "compare_mode": True}
    pane = await service.open("POST", "/api/chat_stream", direct, headers=own)
    check_told(pane.headers)
    assert await pane.text() == "Hello world"
    resumed = await service.open("GET", f"/api/chat/resume/{stream.session_id}", headers=own)
    check_told(resumed.headers)
    await resumed.rest()


async def test_the_cookie_from_another_origin(service: Service) -> None:
    """Its pages may log in and change things with it; those of an origin that isn't listed may not."""
    name = cookie_of(await login(service, token_of("ann"), Origin=APP)).partition(";")[0]
    for origin, status in ((APP, 201), *((stranger, 403) for stranger in STRANGERS)):
        answer = await service.call("POST", "/api/sessions", {}, headers={"Cookie": name, "Origin": origin})
        assert answer.status == status, origin


# A real browser

CALL = """async ([url, method, body]) => {
    const headers = body ? {"Content-Type": "application/json"} : {};
    try {
        const answer = await fetch(url, {method, headers, credentials: "include", body: body && JSON.stringify(body)});
        const ids = ["Run", "Session"].map(name => answer.headers.get(`X-Odysseus-${name}-Id`));
        return {status: answer.status, ids, text: await answer.text()};
    } catch (error) { return {error: error.name}; }
}"""
READ = """async url => {
    const headers = {"Content-Type": "application/json"}, body = JSON.stringify({message: "Hi", compare_mode: true});
    const answer = await fetch(url, {method: "POST", headers, credentials: "include", body});
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (!text.includes("Live")) text += (await reader.read()).value;
    reader.cancel();
    return text;
}"""
LISTEN = """url => {
    window.seen = []; window.broken = 0;
    window.source = new EventSource(url, {withCredentials: true});
    source.onmessage = event => seen.push(event.data);
    source.onerror = () => broken++;
}"""
LOOK = "() => ({broken, state: source.readyState, text: seen.join('')})"
CLOSED = 2


@asynccontextmanager
async def page_server() -> AsyncIterator[str]:
    """Serve an empty page; yield its origin."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>app</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/", page)
    async with TestServer(app) as server:
        yield f"http://127.0.0.1:{server.port}"


async def ask(page: Page, url: str, method: str = "GET", body: Any = None) -> dict[str, Any]:
    answer: dict[str, Any] = await page.evaluate(CALL, [url, method, body])
    return answer


async def test_in_a_browser(serve: Serve, upstream: FakeUpstream) -> None:
    async with page_server() as listed, page_server() as stranger, chromium() as browser, visitor(browser) as context:
        service = await serve(auth="jwt", auth_jwt_secret=SECRET, cors_origins=(listed,))
        url = str(service.client.make_url("")).rstrip("/")
        app = await context.new_page()
        await app.goto(listed)
        assert (await ask(app, f"{url}/api/sessions"))["status"] == 401  # an error that the page can read
        assert (await ask(app, f"{url}/api/login", "POST", {"token": token_of("ann")}))["status"] == 200
        made = await ask(app, f"{url}/api/sessions", "POST", {})
        assert made["status"] == 201

        streamed = await ask(app, f"{url}/api/chat_stream", "POST", {"message": "Hi"})
        run_id, session_id = streamed["ids"]
        assert streamed["status"] == 200 and run_id in streamed["text"]
        assert "Hello" in streamed["text"] and "[DONE]" in streamed["text"]
        renamed = await ask(app, f"{url}/api/sessions/{session_id}", "PATCH", {"title": "From afar"})
        assert renamed["status"] == 200

        upstream.script = say("Live", done=False)
        assert "Live" in await app.evaluate(READ, f"{url}/api/chat_stream")
        headers = {"Accept": "application/json"} | bearer("ann")
        run = (await service.call("POST", "/api/chat_stream", {"message": "Hi"}, headers=headers)).body
        await app.evaluate(LISTEN, url + run["stream"])
        await until(lambda: app.evaluate(LOOK), lambda seen: "Live" in seen["text"])
        await service.call("POST", f"/api/chat/stop/{run['session_id']}", headers=bearer("ann"))
        # The browser reconnects by itself, is answered 204, and stops.
        await until(lambda: app.evaluate(LOOK), lambda seen: "[DONE]" in seen["text"] and seen["state"] == CLOSED)

        before = (await service.call("GET", "/api/sessions", headers=bearer("ann"))).body
        other = await context.new_page()  # with the same cookies
        await other.goto(stranger)
        for method, path, body in (
            ("GET", "/api/sessions", None),
            ("POST", "/api/sessions", {}),
            ("POST", "/api/chat_stream", {"message": "Hi"}),
            ("POST", f"/api/chat/stop/{session_id}", None),  # a simple request: sent, and refused here
            ("DELETE", f"/api/sessions/{session_id}", None),
        ):
            assert await ask(other, url + path, method, body) == {"error": "TypeError"}, path
        await other.evaluate(LISTEN, f"{url}/api/chat/resume/{session_id}")
        await until(lambda: other.evaluate(LOOK), lambda seen: seen["state"] == CLOSED)
        assert (await other.evaluate(LOOK))["text"] == ""
        assert (await service.call("GET", "/api/sessions", headers=bearer("ann"))).body == before
