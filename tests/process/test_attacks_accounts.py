"""Who isn't let in, over bare sockets: forged tokens, cookies sent by other pages, and ids that name another's things.

What a token may look like is the subject of `tests/accounts`, whose things are whose that of `tests/web/test_accounts`.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from odysseus.accounts.api_tokens import new_token
from odysseus.settings import Settings
from odysseus.store import Database, database_url
from odysseus.store.tokens import Tokens
from tests.accounts.forge import SECRET, b64, claims, hs256, none
from tests.process.attacks import LEFT_ALONE, Reply, error_of, head, replies
from tests.process.models import Models, words
from tests.process.service import Process, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

CLOSE = "Connection: close"
JSON = "Content-Type: application/json"
ANN = hs256(claims(sub="ann"))
BOB = hs256(claims(sub="bob"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def webs(models: Models, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Process]:
    """The service with JSON web tokens."""
    folder = tmp_path_factory.mktemp("jwt")
    async with serving(models, folder, auth="jwt", auth_jwt_secret=SECRET, **LEFT_ALONE) as process:
        yield process
        assert not process.faults, "\n".join(process.faults)


async def ask(service: Process, request: bytes) -> Reply:
    answers = await replies(service, request)
    assert len(answers) == 1, answers
    return answers[0]


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# Forgeries

PARTS = ANN.split(".")
FORGED: dict[str, list[str | bytes]] = {
    "nothing": [],
    "alg none": [bearer(none(claims(sub="ann")))],
    "alg none, with the signature of another": [bearer(none(claims(sub="ann"), PARTS[2]))],
    "another secret": [bearer(hs256(claims(sub="ann"), key="x" * 32))],
    "the payload of another": [bearer(f"{PARTS[0]}.{BOB.split('.')[1]}.{PARTS[2]}")],
    "expired": [bearer(hs256(claims(sub="ann", exp=int(time.time()) - 60)))],
    "without an end": [bearer(hs256(claims(sub="ann", exp=None)))],
    "nobody's": [bearer(hs256(claims(sub=None)))],
    "an owner of no characters": [bearer(hs256(claims(sub="")))],
    "an owner with a line end": [bearer(hs256(claims(sub="ann\r\nX-A: b")))],
    "a key by address": [bearer(hs256(claims(sub="ann"), key="x" * 32, jku="http://127.0.0.1:1/keys", kid="../x"))],
    "a key in it": [
        bearer(hs256(claims(sub="ann"), key="x" * 32, jwk={"kty": "oct", "k": b64("x" * 32)}))],
    "longer than any": [bearer("a" * 8000)],
    "an API token": [bearer("ody_000000000000_" + "A" * 43)],
    "a name and a password": [f"Authorization: Basic {base64.b64encode(b'ann:' + ANN.encode()).decode()}"],
    "another scheme": [f"Authorization: Token {ANN}"],
    "no scheme": [f"Authorization: {ANN}"],
    "good, then bad": [bearer(ANN), bearer("x")],
    "two of two owners": [bearer(ANN), bearer(BOB)],
    "two in one header": [f"Authorization: Bearer {ANN}, Bearer {BOB}"],
    "bytes that aren't text": [b"Authorization: Bearer " + ANN.encode() + b"\xff\xfe"],
    "by another header": [f"X-Authorization: Bearer {ANN}"],
    "as a proxy would name the user": ["X-Forwarded-User: ann"],
    "a bad cookie": [f"Cookie: odysseus_token={PARTS[0]}.{PARTS[1]}."],
    "a bad header and a good cookie": [bearer("x"), f"Cookie: odysseus_token={ANN}"],
    "by a cookie of another name": [f"Cookie: Odysseus_Token={ANN}"],
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
async def test_a_forgery(webs: Process, what: str) -> None:
    answer = await ask(webs, head("GET", "/api/sessions", *FORGED[what], CLOSE))
    assert (answer.status, error_of(answer.body)["code"]) == (401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "x-a" not in answer.headers


@pytest.mark.parametrize("query", ["access_token", "token", "authorization", "odysseus_token"])
async def test_a_token_in_the_address_is_none(webs: Process, query: str) -> None:
    answer = await ask(webs, head("GET", f"/api/sessions?{query}={ANN}", CLOSE))
    assert answer.status == 401


async def test_api_tokens_that_are_almost_right(models: Models, tmp_path: Any) -> None:
    async with serving(models, tmp_path, auth="token") as service:
        database = Database(database_url(Settings(data_dir=tmp_path).database()))
        tokens = Tokens(database)
        (good, stored), (other, revoked) = new_token("ann"), new_token("ann")
        for token in (stored, revoked):
            await tokens.add(token)
        await tokens.revoke(revoked.id)
        await database.close()
        kind, token_id, secret = good.split("_", 2)
        _, other_id, other_secret = other.split("_", 2)
        wrong = {
            "revoked": other,
            "the secret of another": f"{kind}_{token_id}_{other_secret}",
            "the id of another": f"{kind}_{other_id}_{secret}",
            "one character changed": good[:-1] + ("A" if good[-1] != "A" else "B"),
            "cut": good[:-1],
            "longer": good + "A",
            "upper case": good.upper(),
            "the hash": f"{kind}_{token_id}_{stored.hash[:43]}",
            "the hash alone": stored.hash,
            "a pattern": f"{kind}_{token_id[:-1]}%_{secret}",
            "SQL": "ody_' OR ''='_" + secret,
            "the id alone": token_id,
            "a web token": ANN,
        }
        for what, token in wrong.items():
            answer = await ask(service, head("GET", "/api/sessions", bearer(token), CLOSE))
            assert answer.status == 401, what
        assert (await ask(service, head("GET", "/api/sessions", bearer(good), CLOSE))).status == 200
        assert not service.faults
        said = "\n".join(service.log)
        assert secret not in said and other_secret not in said


# Pages of others that let the browser send its cookie

COOKIE = f"Cookie: odysseus_token={ANN}"
OTHERS = "Origin: http://evil.example"


class Forged(NamedTuple):
    """A request with a cookie, as a page of another origin can make it."""

    method: str
    path: str
    lines: tuple[str, ...]
    status: int
    body: bytes = b"{}"


CROSS: dict[str, Forged] = {
    "a form": Forged("POST", "/api/sessions", (OTHERS, "Content-Type: text/plain"), 403),
    "a form without an origin": Forged("POST", "/api/sessions", ("Content-Type: text/plain",), 403),
    "a referer instead": Forged("POST", "/api/sessions", ("Referer: http://odysseus/", JSON), 403),
    "ours and another's": Forged("POST", "/api/sessions", ("Origin: http://odysseus, http://evil.example", JSON), 403),
    "ours, then another's": Forged("POST", "/api/sessions", ("Origin: http://odysseus", OTHERS, JSON), 403),
    "another port": Forged("POST", "/api/sessions", ("Origin: http://odysseus:81", JSON), 403),
    "by another host's name": Forged("POST", "/api/sessions", (OTHERS, "X-Forwarded-Host: evil.example", JSON), 403),
    "by a scheme it claims": Forged(
        "POST", "/api/sessions", ("Origin: wss://odysseus", "X-Forwarded-Proto: wss", JSON), 403),
    "a method in a header": Forged("GET", "/api/sessions/{id}", ("X-HTTP-Method-Override: DELETE", OTHERS), 200),
    "a method in the query": Forged("GET", "/api/sessions/{id}?_method=DELETE", (OTHERS,), 200),
    "a DELETE": Forged("DELETE", "/api/sessions/{id}", (OTHERS,), 403),
    "a PATCH": Forged("PATCH", "/api/sessions/{id}", (OTHERS, JSON), 403, b'{"title": "evil"}'),
    "a chat": Forged("POST", "/api/chat_stream", (OTHERS, JSON), 403, b'{"message": "Hi"}'),
    "a stop": Forged("POST", "/api/chat/stop/{id}", (OTHERS,), 403, b""),
    "a share": Forged("POST", "/api/chat/share/{id}", (OTHERS, JSON), 403),
    "a login": Forged("POST", "/api/login", (OTHERS, JSON), 403, b'{"token": "' + BOB.encode() + b'"}'),
    "a login by a form": Forged("POST", "/api/login", (OTHERS, "Content-Type: text/plain"), 415,
                                b'{"token": "' + BOB.encode() + b'"}'),
    "a question before": Forged("OPTIONS", "/api/sessions", (OTHERS, "Access-Control-Request-Method: POST"), 405, b""),
    "our own page": Forged("POST", "/api/sessions", ("Origin: http://odysseus", JSON), 201),
}  # fmt: skip


@pytest.mark.parametrize("what", CROSS)
async def test_a_cookie_sent_by_another_page(webs: Process, what: str) -> None:
    forged = CROSS[what]
    made = await webs.post("/api/sessions", {"title": "mine"}, Authorization=f"Bearer {ANN}")
    path = forged.path.format(id=made.json["id"])
    lines = (*forged.lines, COOKIE, f"Content-Length: {len(forged.body)}", CLOSE)
    answer = await ask(webs, head(forged.method, path, *lines, body=forged.body))
    assert answer.status == forged.status, answer
    assert "access-control-allow-origin" not in answer.headers
    assert answer.status < 300 or "set-cookie" not in answer.headers
    kept = await webs.get(f"/api/sessions/{made.json['id']}", Authorization=f"Bearer {ANN}")
    assert (kept.status, kept.json["title"], kept.json["messages"]) == (200, "mine", [])


# Ids and paths that shall lead to what is ann's

TRICKS: dict[str, str] = {
    "by her name before it": "/api/sessions/ann/{id}",
    "dots": "/api/sessions/x/../{id}",
    "encoded dots": "/api/sessions/x/%2e%2e/{id}",
    "an encoded slash": "/api/sessions/x%2f..%2f{id}",
    "an encoded slash, twice": "/api/sessions/x%252f..%252f{id}",
    "a backslash": "/api/sessions/x\\..\\{id}",
    "two slashes": "//api/sessions/{id}",
    "two slashes inside": "/api/sessions//{id}",
    "out of what is open": "/healthz/../api/sessions/{id}",
    "a parameter of the path": "/api/sessions/{id};owner=ann",
    "a NUL behind": "/api/sessions/{id}%00",
    "a NUL, then another": "/api/sessions/{id}%00.json",
    "a space behind": "/api/sessions/{id}%20",
    "a line end behind": "/api/sessions/{id}%0d%0aX-A:%20b",
    "a slash behind": "/api/sessions/{id}/",
    "upper case": "/api/sessions/{ID}",
    "the path in upper case": "/API/SESSIONS/{id}",
    "wide letters": "/api/sessions/%EF%BD%93%EF%BD%85%EF%BD%93{rest}",
    "wide letters as they are": "/api/sessions/\uff53\uff45\uff53{rest}",
    "bytes that aren't UTF-8": "/api/sessions/%ff{id}",
    "half an escape": "/api/sessions/{id}%",
    "letters that aren't hexadecimal": "/api/sessions/{id}%zz",
    "an overlong slash": "/api/sessions/x%c0%af{id}",
    "a pattern": "/api/sessions/%25",
    "a pattern for one": "/api/sessions/ses%5f________________________",
    "SQL": "/api/sessions/{id}'%20OR%20'1'='1",
    "very long": "/api/sessions/" + "x" * 7000,
    "an owner in the query": "/api/sessions/{id}?owner=ann&user=ann",
    "the whole address": "http://odysseus/api/sessions/{id}",
    "the address of another": "http://ann@evil.example/api/sessions/{id}",
    "a fragment": "/api/sessions/{id}#/healthz",
    "in the query instead of the path": "/api/sessions?id={id}&before={id}",
    "the list by a pattern": "/api/sessions?before=%25",
    "by resume": "/api/chat/resume/{id}%00?run_id=x",
    "by resume, in the query": "/api/chat/resume/x?session_id={id}",
    "by its status": "/api/chat/stream_status/{id}%2f",
    "a pane of minus one": "/api/compare/{id}/-1",
    "a pane in other digits": "/api/compare/{id}/\u0660",
    "a pane past all": "/api/compare/{id}/" + "9" * 400,
}  # fmt: skip


@pytest.mark.parametrize("what", TRICKS)
async def test_a_path_that_shall_lead_to_anothers(webs: Process, what: str) -> None:
    """To who isn't the owner it is as if it weren't there; to who is nobody it is closed, or not there."""
    made = await webs.post("/api/sessions", {"title": "sesame"}, Authorization=f"Bearer {ANN}")
    session_id = made.json["id"]
    path = TRICKS[what].format(id=session_id, ID=session_id.upper(), rest=session_id[3:])
    for method in ("GET", "DELETE"):
        lines = (CLOSE, "X-Original-URL: /api/sessions", "X-Rewrite-URL: /healthz")
        for who, statuses in ((bearer(BOB), {400, 404, 405}), ("X-User: ann", {400, 401, 404, 405})):
            answer = await ask(webs, head(method, path.encode(), *lines, who))
            assert answer.status in statuses, (method, who, answer)
            assert b"sesame" not in answer.body and "x-a" not in answer.headers
            assert not any(word in answer.body.lower() for word in (b"traceback", b"<html", b".py"))
    kept = await webs.get(f"/api/sessions/{session_id}", Authorization=f"Bearer {ANN}")
    assert (kept.status, kept.json["title"]) == (200, "sesame")


async def test_a_watch_link_leads_nowhere_else(webs: Process) -> None:
    made = await webs.post("/api/sessions", {"title": "sesame"}, Authorization=f"Bearer {ANN}")
    for link in (f"..%2f..%2fsessions%2f{made.json['id']}", made.json["id"], f"{made.json['id']}.x.9999999999.AAAA"):
        answer = await ask(webs, head("GET", f"/api/watch/{link}", CLOSE))
        assert answer.status == 401 and b"sesame" not in answer.body


async def test_what_is_open_stays_what_it_is(webs: Process, models: Models) -> None:
    """No dots lead out of it, and it tells nothing of what runs for whom."""
    script, _ = words(1)
    body = {"message": models.plan(script), "run_id": "anns-run-1"}
    asked = await webs.post("/api/chat_stream", body, Authorization=f"Bearer {ANN}", Accept="application/json")
    assert asked.status == 202
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        answer = await webs.get(path)
        told = str(answer.json)
        assert not any(name in told for name in ("anns-run-1", asked.json["session_id"], asked.json["message_id"]))
