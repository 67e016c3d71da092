"""The client against a model server made of bare sockets, which notes what becomes of its connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from odysseus.errors import UpstreamError
from odysseus.upstream import Ask, Finish, Piece, Text, Tokens
from odysseus.upstream import client as client_module
from odysseus.upstream.chat_completions import request_body
from odysseus.upstream.client import Client
from tests.fake_upstream import Exchange, FakeUpstream, Script, breaks, chunk, in_turn, say, silent, status
from tests.waiting import at_once, soon, until

ASK = Ask(model="m", messages=[{"role": "user", "content": "Hi"}])
KEY = "sesame-0123456789"
USAGE = Tokens({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


@asynccontextmanager
async def client_of(
    url: str, *, key: str | None = None, connect_s: float = 30, silence_s: float = 30
) -> AsyncIterator[Client]:
    client = Client("main", url, key, connect_s=connect_s, silence_s=silence_s)
    try:
        yield client
    finally:
        await client.close()


async def hear(client: Client) -> tuple[str, UpstreamError | None]:
    """Return the text that came, and the error that ended it."""
    pieces: list[Piece] = []
    try:
        async with asyncio.timeout(30), aclosing(client.ask(ASK)) as reads:
            async for read in reads:
                pieces += read
    except UpstreamError as error:
        return text_of(pieces), error
    return text_of(pieces), None


def text_of(pieces: Sequence[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, Text))


def raw(*parts: bytes, abort: bool = False) -> Script:
    """Return a script that says *parts* as they are, then closes or resets the connection."""

    async def script(exchange: Exchange) -> None:
        for part in parts:
            await exchange.raw(part)
        exchange.abort() if abort else exchange.close()

    return script


def pauses(caplog: pytest.LogCaptureFixture) -> list[float]:
    """Return what was waited before each retry."""
    return [record.args[2] for record in caplog.records if "again in" in record.msg and isinstance(record.args, tuple)]  # type: ignore[misc]


@pytest.fixture(autouse=True)
def _all_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_PAUSES_S", [0.01 for _ in client_module._PAUSES_S])


async def test_an_answer() -> None:
    async with FakeUpstream(say("Hel", "lo")) as upstream, client_of(upstream.url + "/") as client:
        pieces = [piece async for read in client.ask(ASK) for piece in read]
    assert (text_of(pieces), pieces[-2:]) == ("Hello", [Finish("stop"), USAGE])
    exchange = upstream.exchanges[0]
    assert exchange.request_line == "POST /v1/chat/completions HTTP/1.1"
    assert exchange.body == client_module.orjson.loads(request_body(ASK))
    assert "authorization" not in exchange.headers
    assert [exchange.headers[name] for name in ("content-type", "accept")] == ["application/json", "text/event-stream"]


async def test_an_answer_ends_with_its_sentinel() -> None:
    """A model server that doesn't end its response holds nobody up, and its connection isn't kept."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk("Hi") + b"data: [DONE]\n\n")
        await asyncio.Event().wait()

    async with FakeUpstream(script) as upstream:
        async with client_of(upstream.url) as client:
            with at_once():
                assert await hear(client) == ("Hi", None)
        await soon(upstream.exchanges[0].closed.wait())


async def test_a_long_answer_to_a_slow_consumer() -> None:
    """What is read ahead is bounded, and nothing of it gets lost."""
    texts = [f"{number}:".ljust(64 * 1024, "x") for number in range(160)]
    sent = 0

    async def script(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.head()
        for text in texts:
            await exchange.send(chunk(text))
            sent += 1
        await exchange.send(b"data: [DONE]\n\n")
        await exchange.end()

    async with FakeUpstream(script) as upstream, client_of(upstream.url) as client, aclosing(client.ask(ASK)) as reads:
        pieces = list(await soon(anext(reads)))
        before = -1
        while before < sent:  # until the model server can't send any more
            before = sent
            await asyncio.sleep(0.2)
        assert sent < len(texts)
        pieces += [piece async for read in reads for piece in read]
    assert text_of(pieces) == "".join(texts)


async def test_a_connection_is_used_again_after_a_complete_answer() -> None:
    async with FakeUpstream(say("Hi"), keep_alive=True) as upstream:
        async with client_of(upstream.url) as client:
            for _ in range(3):
                assert await hear(client) == ("Hi", None)
            assert await client.models() == ["m"]
            assert upstream.accepted == 1
            upstream.script = breaks("Hi")
            await hear(client)
            upstream.script = say("Hi")
            assert await hear(client) == ("Hi", None)
            assert upstream.accepted == 2
        await until(lambda: not upstream.connections)


# Retries

UNREACHABLE = "upstream_unreachable: the model server can't be reached"
BROKEN = {
    "reset before headers": (raw(abort=True), UNREACHABLE),
    "closed before headers": (raw(), UNREACHABLE),
    "cut in the headers": (raw(b"HTTP/1.1 200 OK\r\nContent-"), UNREACHABLE),
    "429": (status(429), "upstream_status: the model server answered 429"),
    "503": (status(503, b"<html>", "text/html"), "upstream_status: the model server answered 503"),
}


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize(("broken", "problem"), BROKEN.values(), ids=BROKEN)
async def test_two_retries(broken: Script, problem: str, times: int) -> None:
    script = in_turn(*[broken] * times, say("Hi"))
    async with FakeUpstream(script) as upstream, client_of(upstream.url) as client:
        text, error = await hear(client)
        assert (text, error and str(error)) == (("Hi", None) if times < 3 else ("", problem))
        assert len(upstream.exchanges) == min(times + 1, 3)
        assert all(exchange.body == upstream.exchanges[0].body for exchange in upstream.exchanges)


@pytest.mark.usefixtures("_no_pauses")
async def test_a_refused_connection(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with client_of(f"http://127.0.0.1:{nobody.getsockname()[1]}/v1") as client:
            text, error = await hear(client)
    assert (text, str(error), len(pauses(caplog))) == ("", UNREACHABLE, 2)


def retry_after(asked: str | int) -> dict[str, str]:
    """Return the header that holds *asked*, a number as a date that is so many seconds away."""
    date = datetime.now(UTC) + timedelta(seconds=asked if isinstance(asked, int) else 0)
    return {"Retry-After": asked if isinstance(asked, str) else format_datetime(date, usegmt=True)}


@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [
        ("0", 0, 0),
        ("1", 1, 1),
        (-60, 0, 0),
        (2, 0.5, 2),
        *((junk, 0.25, 0.25) for junk in ("", "soon", "-1", "1.5s", "Wed, 99 Nov 2020 99:00:00 GMT")),
        ("\u00b2", 0.25, 0.25),
    ],
)
async def test_retry_after(asked: str | int, least_s: float, most_s: float, caplog: pytest.LogCaptureFixture) -> None:
    script = in_turn(status(503, **retry_after(asked)), say("Hi"))
    async with FakeUpstream(script) as upstream, client_of(upstream.url) as client:
        begun = time.monotonic()
        assert await hear(client) == ("Hi", None)
        [pause_s] = pauses(caplog)
        assert least_s <= pause_s <= most_s
        assert time.monotonic() - begun > pause_s * 0.9


@pytest.mark.parametrize("asked", ["3600", "21", "9" * 400, 3600])
async def test_a_long_retry_after_is_an_answer(asked: str | int) -> None:
    async with FakeUpstream(status(429, **retry_after(asked))) as upstream, client_of(upstream.url) as client:
        with at_once():
            text, error = await hear(client)
    assert (text, str(error), len(upstream.exchanges)) == ("", "upstream_status: the model server answered 429", 1)


# What isn't tried again


@pytest.mark.parametrize(
    ("script", "text", "code", "problem"),
    [
        (status(400), "", "upstream_status", "400"),
        (status(404, b"<html>", "text/html"), "", "upstream_status", "404"),
        (status(307, Location="/v1/elsewhere"), "", "upstream_status", "307"),
        (status(200, b"<html>", "text/html; charset=utf-8"), "", "upstream_protocol", "stream of events"),
        (status(200, b"{}", "application/problem+json"), "", "upstream_protocol", "stream of events"),
        (status(200, b'{"choices": []}'), "", "upstream_protocol", "complete"),
        (status(200, chunk("Hi"), "text/event-stream"), "Hi", "upstream_protocol", "complete"),
        (breaks(how=Exchange.close), "", "upstream_protocol", "broke"),
        (breaks(), "", "upstream_protocol", "broke"),
        (breaks("Hi", how=Exchange.close), "Hi", "upstream_protocol", "broke"),
        (breaks("Hi"), "Hi", "upstream_protocol", "broke"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_not_tried_again(
    script: Script, text: str, code: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with FakeUpstream(script) as upstream, client_of(upstream.url) as client:
        heard, error = await hear(client)
        assert (heard, error and error.code, len(upstream.exchanges), pauses(caplog)) == (text, code, 1, [])
        assert problem in str(error) and "sesame" not in str(error) and upstream.url not in str(error)
        await soon(upstream.exchanges[0].closed.wait())


@pytest.mark.parametrize("how", [Exchange.abort, Exchange.close])
async def test_what_came_before_a_break_reaches_a_slow_consumer(how: Callable[[Exchange], None]) -> None:
    """aiohttp raises a connection's error before it hands out the bytes that came before it (FACTS 4.7)."""
    broken = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk("a"))
        await broken.wait()
        for text in "bcd":
            await exchange.send(chunk(text))
        how(exchange)

    async with FakeUpstream(script) as upstream, client_of(upstream.url) as client, aclosing(client.ask(ASK)) as reads:
        pieces = list(await soon(anext(reads)))
        broken.set()
        await soon(upstream.exchanges[0].closed.wait())
        await asyncio.sleep(0.1)  # let the break arrive as well
        with pytest.raises(UpstreamError, match="upstream_protocol"):  # noqa: PT012
            async for read in reads:
                pieces += read
    assert text_of(pieces) == "abcd"


async def test_a_chunk_that_is_none() -> None:
    heard = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk("Hi"))
        await heard.wait()
        await exchange.raw(b"sesame\r\n")
        await silent(exchange)

    async with (
        FakeUpstream(script) as upstream,
        client_of(upstream.url, silence_s=0.3) as client,
        asyncio.timeout(30),
        aclosing(client.ask(ASK)) as reads,
    ):
        assert await anext(reads) == [Text("Hi")]
        heard.set()
        with pytest.raises(UpstreamError, match="upstream_protocol"):
            await anext(reads)


# Limits


@contextmanager
def full_backlog() -> Iterator[str]:
    """Give the URL of a server that takes no more connections: Linux drops what doesn't fit."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"


async def test_the_connect_limit() -> None:
    with full_backlog() as url:
        async with client_of(url, connect_s=0.2) as client:
            text, error = await hear(client)
    assert (text, error and error.code) == ("", "upstream_unreachable")


@pytest.mark.parametrize(("script", "text"), [(silent, ""), (say(done=False), ""), (say("Hi", done=False), "Hi")])
async def test_the_silence_limit(script: Script, text: str) -> None:
    async with FakeUpstream(script) as upstream, client_of(upstream.url, silence_s=0.3) as client:
        heard, error = await hear(client)
        assert (heard, error and error.code, len(upstream.exchanges)) == (text, "upstream_timeout", 1)
        await soon(upstream.exchanges[0].closed.wait())


async def test_a_model_that_goes_on_is_not_cut() -> None:
    async with FakeUpstream(say(*"abcdef", pause_s=0.3)) as upstream, client_of(upstream.url, silence_s=1.5) as client:
        assert await hear(client) == ("abcdef", None)


# The key


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (say("Hi"), None),
        (status(401, f"wrong key {KEY}".encode()), "upstream_status"),
        (status(401, KEY.encode() * 100), "upstream_status"),
        (breaks("Hi"), "upstream_protocol"),
        pytest.param(raw(b"sesame\r\n\r\n"), "upstream_unreachable"),
        pytest.param(status(401, b"x" * 1990 + KEY.encode()), "upstream_status"),
    ],
    ids=["an answer", "told back", "told back often", "broken off", "not HTTP", "told back and cut"],
)
@pytest.mark.usefixtures("_no_pauses")
async def test_the_key(script: Script, code: str | None, caplog: pytest.LogCaptureFixture) -> None:
    """It is the bearer token, and stands in no error and no log."""
    async with FakeUpstream(script) as upstream, client_of(upstream.url, key=KEY) as client:
        _, error = await hear(client)
        assert upstream.exchanges[0].headers["authorization"] == f"Bearer {KEY}"
    assert (error and error.code) == code
    written = f"{error!r} {''.join(traceback.format_exception(error)) if error else ''} {caplog.text}"
    assert KEY[:10] not in written


# Closing


async def test_closing_in_the_middle_of_a_silence() -> None:
    async with FakeUpstream(say("Hi", done=False)) as upstream, client_of(upstream.url) as client:
        reads = client.ask(ASK)
        assert await soon(anext(reads)) == [Text("Hi")]
        with at_once():
            await reads.aclose()
            await soon(upstream.exchanges[0].closed.wait())
        await until(lambda: not upstream.connections)


async def cancelled_at_once(task: asyncio.Task[object]) -> None:
    with at_once():
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize(
    ("script", "waited"),
    [(silent, []), (say(done=False), []), (say("Hi", done=False), []), (status(503, Retry_After="15"), [15])],
    ids=["no headers", "no text", "text", "a pause before a retry"],
)
async def test_cancelling(script: Script, waited: list[float], caplog: pytest.LogCaptureFixture) -> None:
    async with FakeUpstream(script) as upstream, client_of(upstream.url) as client:
        hearing = asyncio.create_task(hear(client))
        await until(lambda: upstream.exchanges and pauses(caplog) == waited)
        await cancelled_at_once(hearing)
        with at_once():
            await until(lambda: not upstream.connections)


async def test_closing_the_client_closes_every_connection() -> None:
    """Also of an answer that somebody still reads: the service closes its clients last."""
    async with FakeUpstream(say("Hi"), keep_alive=True) as upstream:
        async with client_of(upstream.url) as client:
            assert await hear(client) == ("Hi", None)
            upstream.script = say("Hi", done=False)
            reads = client.ask(ASK)
            assert await soon(anext(reads)) == [Text("Hi")]
            assert upstream.connections == 1
        await until(lambda: not upstream.connections)
        await reads.aclose()
