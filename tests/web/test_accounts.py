"""Whose things are whose, over HTTP: tokens, cookies, watch links, and streams that end with the right to them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import jwt
import pytest

from odysseus.accounts import Identity
from odysseus.accounts.api_tokens import new_token
from odysseus.errors import StoreError
from odysseus.settings import Settings
from odysseus.store import Database, database_url
from odysseus.store.tokens import Tokens
from odysseus.web.guard import Guard
from odysseus.web.stream import GUARD
from tests.fake_upstream import FakeUpstream, say
from tests.process.raw_client import until as repeat
from tests.waiting import soon, until
from tests.web.conftest import Answer, Serve, Service

SECRET = "sesame-" * 6
RUN = {"message": "Hi", "run_id": "ann-run-1"}
DIRECT: dict[str, Any] = {"message": "Hi", "compare_mode": True}


def token_of(owner: str, *, lives_s: float = 600) -> str:
    claims = {"sub": owner, "exp": datetime.now(UTC) + timedelta(seconds=lives_s)}
    return jwt.encode(claims, SECRET, "HS256")


def bearer(owner: str, **how: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token_of(owner, **how)}"}


@pytest.fixture
async def accounts(serve: Serve) -> Service:
    return await serve(auth="jwt", auth_jwt_secret=SECRET)


async def started(service: Service, owner: str, **fields: Any) -> dict[str, str]:
    headers = {"Accept": "application/json", **bearer(owner)}
    answer = await service.call("POST", "/api/chat_stream", RUN | fields, headers=headers)
    assert answer.status == 202, answer.body
    return answer.body


async def test_nobody_gets_in_without_a_token(accounts: Service) -> None:
    for method, path in (("GET", "/api/sessions"), ("POST", "/api/chat_stream"), ("GET", "/api/models")):
        answer = await accounts.call(method, path, None if method == "GET" else RUN)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert (await accounts.call("GET", path)).status == 200
    assert (await accounts.call("GET", "/api/nothing")).status == 404


# What belongs to somebody else isn't there, by whatever name it is called

FOREIGN: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "read": ("GET", "/api/sessions/{session}", None, {}),
    "rename": ("PATCH", "/api/sessions/{session}", {"title": "mine"}, {}),
    "delete": ("DELETE", "/api/sessions/{session}", None, {}),
    "go on": ("POST", "/api/chat_stream", {"message": "Hi", "session_id": "{session}"}, {}),
    "replace": ("POST", "/api/chat_stream", {"message": "Hi", "session_id": "{session}", "if_busy": "replace"}, {}),
    "compare in it": ("POST", "/api/chat_stream", DIRECT | {"session_id": "{session}"}, {}),
    "join its run": ("POST", "/api/chat_stream", RUN, {}),
    "join it directly": ("POST", "/api/chat_stream", DIRECT | RUN, {}),
    "resume": ("GET", "/api/chat/resume/{session}", None, {}),
    "resume its run": ("GET", "/api/chat/resume/{session}?run_id=ann-run-1", None, {}),
    "status": ("GET", "/api/chat/stream_status/{session}", None, {}),
    "stop": ("POST", "/api/chat/stop/{session}", None, {}),
    "stop its run": ("POST", "/api/chat/stop/{session}", None, {"X-Odysseus-Run-Id": "ann-run-1"}),
    "approve": ("POST", "/api/chat/approve/{session}", {"call_id": "c1", "decision": "allow"}, {}),
    "share": ("POST", "/api/chat/share/{session}", {}, {}),
    "share its run": ("POST", "/api/chat/share/{session}", {"run_id": "ann-run-1"}, {}),
    "list after it": ("GET", "/api/sessions?before={session}", None, {}),
    "compare": ("GET", "/api/compare/{compare}", None, {}),
    "a pane": ("GET", "/api/compare/{compare}/0", None, {}),
    "a pane's session": ("GET", "/api/sessions/{pane}", None, {}),
}  # fmt: skip


@pytest.mark.parametrize("ended", [False, True], ids=["live", "ended"])
@pytest.mark.parametrize("what", FOREIGN)
async def test_what_is_another_owners(accounts: Service, upstream: FakeUpstream, what: str, ended: bool) -> None:
    """It is 404, as what doesn't exist, and it hasn't changed."""
    upstream.script = say("Hello", done=ended)
    session = (await started(accounts, "ann"))["session_id"]
    both = {"message": "Hi", "models": ["m", "n"]}
    compare = (await accounts.call("POST", "/api/compare", both, headers=bearer("ann"))).body
    if ended:
        await (await accounts.open("GET", f"/api/chat/resume/{session}", headers=bearer("ann"))).rest()
    names = {"session": session, "compare": compare["compare_id"], "pane": compare["panes"][0]["session_id"]}

    async def seen() -> Any:
        return (await accounts.call("GET", f"/api/sessions/{session}", headers=bearer("ann"))).body

    await until_said(accounts, session)
    before = await seen()
    method, path, body, headers = FOREIGN[what]
    if isinstance(body, dict):
        body = {name: value.format(**names) if isinstance(value, str) else value for name, value in body.items()}
    for intruder in ("bob", "Ann", "anne"):
        told = await accounts.call(method, path.format(**names), body, headers={**bearer(intruder), **headers})
        assert (told.status, told.error["code"]) == (404, "not_found"), told.body
    assert await seen() == before
    listed = await accounts.call("GET", "/api/sessions", headers=bearer("bob"))
    assert listed.body == {"sessions": []}
    if not ended:
        assert (await accounts.call("POST", f"/api/chat/stop/{session}", headers=bearer("ann"))).body["stopped"]


async def until_said(service: Service, session: str) -> None:
    path = f"/api/sessions/{session}"
    await repeat(
        lambda: service.call("GET", path, headers=bearer("ann")),
        lambda answer: answer.body["messages"][1]["content"].startswith("Hello"),
    )


async def test_an_early_stop_is_its_owners(accounts: Service, upstream: FakeUpstream) -> None:
    """Nobody can keep another's run from starting by stopping it before it arrives."""
    stopped = await accounts.call(
        "POST", "/api/chat/stop/ses_1", headers={**bearer("bob"), "X-Odysseus-Run-Id": "ann-run-1"}
    )
    assert stopped.body == {"stopped": False}
    await started(accounts, "ann")
    own = await accounts.call("POST", "/api/chat_stream", RUN | {"run_id": "ann-run-1"}, headers=bearer("bob"))
    assert own.error["code"] in ("stopped_before_start", "not_found")


# Limits


async def test_runs_of_one_owner(serve: Serve, upstream: FakeUpstream) -> None:
    service = await serve(auth="jwt", auth_jwt_secret=SECRET, max_runs_per_owner=2)
    upstream.script = say("Hi", done=False)
    runs = [await started(service, "ann", run_id=f"ann-run-{number}") for number in range(2)]
    full = await service.call("POST", "/api/chat_stream", {"message": "Hi"}, headers=bearer("ann"))
    assert (full.status, full.error["code"], full.headers["Retry-After"]) == (429, "too_many_runs", "5")
    await started(service, "bob", run_id="bobs-run-1")
    await service.call("POST", f"/api/chat/stop/{runs[0]['session_id']}", headers=bearer("ann"))
    await started(service, "ann", run_id="ann-run-3")


# Cookies


async def login(service: Service, token: str, **headers: str) -> Answer:
    return await service.call("POST", "/api/login", {"token": token}, headers=headers)


def cookie_of(answer: Answer) -> str:
    return str(answer.headers["Set-Cookie"])


async def test_a_cookie_for_event_source(accounts: Service) -> None:
    answer = await login(accounts, token_of("ann"))
    assert (answer.status, answer.body["owner"]) == (200, "ann")
    name, *attributes = (part.strip() for part in cookie_of(answer).split(";"))
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(attributes)
    assert "Secure" not in attributes
    age = next(int(part.partition("=")[2]) for part in attributes if part.startswith("Max-Age="))
    assert 500 < age <= 611
    session = (await started(accounts, "ann"))["session_id"]
    stream = await accounts.open("GET", f"/api/chat/resume/{session}", headers={"Cookie": name})
    assert await stream.text() == "Hello world"
    left = await accounts.call("POST", "/api/logout", headers={"Cookie": name})
    assert left.status == 204
    assert 'odysseus_token=""' in cookie_of(left)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://{host}.evil.example"}, 403),
        ({"Origin": "http://evil.example/{host}"}, 403),
        ({"Origin": "http://evil.example@{host}"}, 403),
        ({"Origin": "ftp://{host}"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Origin": "http://{host}"}, 201),
        ({"Origin": "https://{host}"}, 201),
    ],
)
async def test_a_cookie_alone_changes_nothing(accounts: Service, headers: dict[str, str], status: int) -> None:
    name = cookie_of(await login(accounts, token_of("ann"))).partition(";")[0]
    host = f"{accounts.client.host}:{accounts.client.port}"
    headers = {key: value.replace("{host}", host) for key, value in headers.items()} | {"Cookie": name}
    assert (await accounts.call("POST", "/api/sessions", {}, headers=headers)).status == status
    listed = await accounts.call("GET", "/api/sessions", headers=headers)
    assert (listed.status, len(listed.body["sessions"])) == (200, int(status == 201))


async def test_behind_tls_the_cookie_is_secure(serve: Serve) -> None:
    service = await serve(auth="jwt", auth_jwt_secret=SECRET, trusted_proxies=("127.0.0.1",))
    answer = await login(service, token_of("ann"), **{"X-Forwarded-Proto": "https"})
    assert "Secure" in cookie_of(answer).split("; ")
    host = f"{service.client.host}:{service.client.port}"
    own = {"Cookie": cookie_of(answer).partition(";")[0], "X-Forwarded-Proto": "https"}
    for scheme, status in (("http", 403), ("https", 201)):
        headers = own | {"Origin": f"{scheme}://{host}"}
        assert (await service.call("POST", "/api/sessions", {}, headers=headers)).status == status


async def test_logins_that_fail(accounts: Service, serve: Serve, upstream: FakeUpstream) -> None:
    for token in ("x", token_of("ann", lives_s=-60), token_of("ann")[:-2], token_of("")):
        answer = await login(accounts, token)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
        assert "Set-Cookie" not in answer.headers
    foreign = await login(accounts, token_of("ann"), Origin="http://evil.example")
    assert (foreign.status, "Set-Cookie" in foreign.headers) == (403, False)


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic YTpi", "bearer  x y", "Token x", "Bearer a.b.c"])
async def test_headers_that_are_no_token(accounts: Service, value: str) -> None:
    answer = await accounts.call("GET", "/api/sessions", headers={"Authorization": value})
    assert (answer.status, answer.error["code"]) == (401, "unauthorized")


# A stream ends with the right to it; the run goes on


async def test_a_revoked_token_ends_its_streams(serve: Serve, upstream: FakeUpstream, tmp_path: Any) -> None:
    upstream.script = say("Hello", done=False)
    service = await serve(auth="token")
    database = Database(database_url(Settings(data_dir=tmp_path / "data").database()))
    tokens = Tokens(database)
    texts = {}
    for owner in ("ann", "ann", "bob"):
        text, stored = new_token(owner)
        await tokens.add(stored)
        texts[stored.id] = {"Authorization": f"Bearer {text}"}
    (first, one), (_, other), (_, bobs) = texts.items()
    stream = await service.open("POST", "/api/chat_stream", RUN, headers=one)
    await stream.said("Hello")
    watching = await service.open("GET", f"/api/chat/resume/{stream.session_id}", headers=other)
    await watching.said("Hello")
    bystander = await service.open("POST", "/api/chat_stream", {"message": "Hi"}, headers=bobs)
    await bystander.said("Hello")
    pane = await service.open("POST", "/api/chat_stream", {"message": "Hi", "compare_mode": True}, headers=one)
    await pane.said("Hello")
    await tokens.revoke(first)
    await database.close()
    await service.app[GUARD]._look()
    for cut in (stream, pane):
        with pytest.raises(aiohttp.ClientError):  # its connection is gone
            await soon(cut.rest())
    assert (await service.call("GET", "/api/sessions", headers=one)).status == 401
    status = await service.call("GET", f"/api/chat/stream_status/{stream.session_id}", headers=other)
    assert (status.body["status"], status.body["subscribers"]) == ("streaming", 1)
    await service.call("POST", f"/api/chat/stop/{stream.session_id}", headers=other)
    assert await watching.ended() == ("stopped", "user_stop")
    await service.call("POST", f"/api/chat/stop/{bystander.session_id}", headers=bobs)
    assert await bystander.ended() == ("stopped", "user_stop")


async def test_the_guard_looks_again_and_again() -> None:
    """Also when the store fails it once; what has left isn't asked about."""
    asked: list[set[str]] = []

    class Stream:
        cuts = 0

        def cut(self) -> None:
            self.cuts += 1

    async def revoked(ids: Any) -> set[str]:
        asked.append(set(ids))
        if len(asked) == 1:
            raise StoreError("down")
        if len(asked) == 2:
            raise ValueError("a bug")
        return {"a"} if len(asked) > 3 else set()

    guard = Guard(revoked, every_s=0.01)
    streams = {name: Stream() for name in ("a", "b", "expired", "lasting", "anybody")}
    time = datetime.now(UTC)
    guard.add(streams["a"], Identity("ann", token_id="a"))
    guard.add(streams["b"], Identity("ann", token_id="b"))
    guard.add(streams["expired"], Identity("ann", expires_at=time - timedelta(seconds=1)))
    guard.add(streams["lasting"], Identity("ann", expires_at=time + timedelta(hours=1)))
    guard.add(streams["anybody"], Identity(""))
    watching = asyncio.create_task(guard.watch())
    await until(lambda: len(asked) > 5)
    watching.cancel()
    assert {name: stream.cuts for name, stream in streams.items()} == {
        "a": 1, "b": 0, "expired": 1, "lasting": 0, "anybody": 0,
    }  # fmt: skip
    assert asked[0] == {"a", "b"}
    assert asked[-1] == {"b"}
    for stream in streams.values():
        guard.discard(stream)
    await guard._look()
    assert asked[-1] == {"b"}


# Watch links


async def shared(service: Service, session: str, **fields: Any) -> Any:
    answer = await service.call("POST", f"/api/chat/share/{session}", fields, headers=bearer("ann"))
    assert answer.status == 201, answer.body
    return answer.body


async def test_a_watch_link(accounts: Service, upstream: FakeUpstream) -> None:
    """It reads one run's stream, live and afterwards, and does nothing else."""
    upstream.script = say("Hello", done=False)
    session = (await started(accounts, "ann"))["session_id"]
    link = await shared(accounts, session)
    assert link["run_id"] == "ann-run-1"
    watching = await accounts.open("GET", link["stream"])
    await watching.said("Hello")
    for method in ("POST", "PATCH", "DELETE"):
        assert (await accounts.call(method, link["stream"])).status == 405
    name = link["stream"].rpartition("/")[2]
    for headers in ({"Authorization": f"Bearer {name}"}, {"Cookie": f"odysseus_token={name}"}):
        assert (await accounts.call("GET", f"/api/sessions/{session}", headers=headers)).status == 401
    await accounts.call("POST", f"/api/chat/stop/{session}", headers=bearer("ann"))
    assert await watching.ended() == ("stopped", "user_stop")
    upstream.script = say("Something secret")
    again = {"session_id": session, "run_id": "ann-run-2"}
    later = await accounts.open("POST", "/api/chat_stream", RUN | again, headers=bearer("ann"))
    assert await later.text() == "Something secret"
    replayed = await accounts.open("GET", link["stream"])
    assert await replayed.text() == "Hello"
    at = {"Last-Event-ID": replayed.ids[-1]}
    assert (await accounts.call("GET", link["stream"], headers=at)).status == 204


async def test_links_that_are_no_good(accounts: Service, upstream: FakeUpstream) -> None:
    session = (await started(accounts, "ann"))["session_id"]
    good = (await shared(accounts, session))["stream"]
    signed, _, signature = good.rpartition(".")
    for bad in (f"{signed}.{signature[::-1]}", good[:-1], good + "A", good.replace("ann-run-1", "ann-run-2"), signed):
        answer = await accounts.call("GET", bad)
        assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    short = await shared(accounts, session, expires_in_s=1)
    assert datetime.fromisoformat(short["expires_at"]) - datetime.now(UTC) <= timedelta(seconds=1)
    await repeat(lambda: accounts.call("GET", short["stream"]), lambda answer: answer.status == 401)
    await accounts.call("DELETE", f"/api/sessions/{session}", headers=bearer("ann"))
    assert (await accounts.call("GET", good)).status == 404


async def test_what_cannot_be_shared(accounts: Service) -> None:
    """A session in which nothing ran, and a direct run, which is its one client's."""
    empty = (await accounts.call("POST", "/api/sessions", {}, headers=bearer("ann"))).body["id"]
    direct = await accounts.open("POST", "/api/chat_stream", RUN | {"compare_mode": True}, headers=bearer("ann"))
    await direct.rest()
    for session in (empty, direct.session_id):
        answer = await accounts.call("POST", f"/api/chat/share/{session}", {}, headers=bearer("ann"))
        assert (answer.status, answer.error["code"]) == (404, "not_found")


# A proxy's word


async def test_a_proxys_word(serve: Serve) -> None:
    trusting = await serve(auth="proxy", trusted_proxies=("127.0.0.1",))
    user = {"X-Forwarded-User": "ann"}
    made = await trusting.call("POST", "/api/sessions", {}, headers=user)
    assert made.status == 201
    assert (await trusting.call("GET", f"/api/sessions/{made.body['id']}", headers=user)).status == 200
    other = {"X-Forwarded-User": "bob"}
    assert (await trusting.call("GET", f"/api/sessions/{made.body['id']}", headers=other)).status == 404
    assert (await trusting.call("GET", "/api/sessions")).status == 401


async def test_the_word_of_a_stranger(serve: Serve) -> None:
    service = await serve(auth="proxy", trusted_proxies=("10.0.0.1",))
    assert (await service.call("GET", "/api/sessions", headers={"X-Forwarded-User": "ann"})).status == 401
