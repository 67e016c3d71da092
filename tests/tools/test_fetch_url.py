"""Fetching a page: what it becomes, and what is said when the server, or the page, is at fault."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc

import pytest
from aiohttp import web

from odysseus.tools import Caller
from odysseus.tools.fetch_url import UrlFetcher
from odysseus.tools.functions import tool_of
from tests.tools.loopback import PRIVATE, PUBLIC, error_of, fetched, fetched_body, fetching, serving, trapped
from tests.waiting import at_once, soon


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<title> A \n page</title><h1>Head</h1><p>One <b>bold</b>\nword.</p>", "A page\nHead\nOne bold word."),
        ("<p>a<p>b<br>c<div><div>d</div></div>", "a\nb\nc\nd"),
        ("<html><head><title>t</title><body>no end of head", "t\nno end of head"),
        ("a<script>bad()</script><style>p{}</style><noscript>on!</noscript><template>x</template>b", "ab"),
        ("<nav>Home</nav><!-- note --><svg><text>v</text></svg>text<br>", "text"),
        ("<ul><li>one<li>two</ul>", "one\ntwo"),
        ("<table><tr><th>a<th>b<tr><td>1<td>2</table>", "| a | b\n| 1 | 2"),
        ("<pre>def f():\n    return 1\n</pre>then", "def f():\n    return 1\nthen"),
        ("1 &lt; 2 &amp; &eacute;<br>", "1 < 2 & é"),
        ('<?xml version="1.0"?><feed>x</feed>', "x"),
        ("page.html", "page.html"),
        ("<div>" * 5000 + "deep", "deep"),
    ],
    ids=lambda text: text[:20],
)
async def test_html_becomes_text(html: str, text: str) -> None:
    assert await fetched_body(html, "text/html; charset=utf-8") == text


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "text/xml", "application/atom+xml"])
async def test_other_text_stays_as_it_is(content_type: str) -> None:
    assert await fetched_body('{"a":\n\n  "<b>ü</b>"}\n', content_type) == '{"a":\n\n  "<b>ü</b>"}'


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("é".encode("latin-1"), "text/plain; charset=ISO-8859-1", "é"),
        ("<p>日本".encode("shift_jis"), "text/html; charset=Shift_JIS", "日本"),
        ("<meta charset=windows-1251><p>мир".encode("windows-1251"), "text/html", "мир"),
        ("é".encode("utf-16"), 'text/plain; charset="utf-16"', "é"),
        ("é".encode("utf-8-sig"), "text/plain", "é"),
        (b"a\xffb", "text/plain; charset=utf-8", "a�b"),
        ("é".encode(), "text/plain; charset=klingon", "é"),
        ("é".encode(), "text/plain; charset=hex", "é"),
        (b"a-b", "text/plain; charset=punycode", "a-b"),
        (b"<meta charset='a\0b'>x", "text/html", "x"),
    ],
    ids=lambda value: ascii(value[:40]),
)
async def test_charsets(body: bytes, content_type: str, text: str) -> None:
    assert await fetched_body(body, content_type) == text


@pytest.mark.parametrize("content_type", ["image/png", "application/pdf", "application/octet-stream", "video/text"])
async def test_what_is_not_text_is_refused_by_its_type(content_type: str) -> None:
    assert f"is {content_type}," in await error_of(fetched_body("x", content_type))


@pytest.mark.parametrize("html", ["", "<script>render()</script>"])
async def test_a_page_without_text_says_why(html: str) -> None:
    assert "JavaScript" in await error_of(fetched_body(html, "text/html"))


async def test_it_is_a_tool() -> None:
    fetcher = UrlFetcher()
    tool = tool_of(fetcher.fetch_url)
    try:
        said = await error_of(tool.call({"url": "http://127.0.0.1/"}, Caller("s", "ann")))
    finally:
        await fetcher.close()
    assert (tool.name, tool.parameters["required"]) == ("fetch_url", ["url"])
    assert said == "127.0.0.1 has no public address, so it isn't fetched"


async def test_asks_as_odysseus_and_keeps_no_cookies() -> None:
    async def handler(request: web.Request) -> web.Response:
        response = web.Response(text=f"{request.headers['User-Agent']} {request.headers.get('Cookie')}")
        response.set_cookie("id", "1")
        return response

    async with serving(handler) as server, fetching() as fetch:
        server_url = f"http://localhost:{server.port}/"
        for _ in range(2):
            assert await fetch(server_url) == "Odysseus None"


async def test_a_proxy_in_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with trapped() as trap:
        monkeypatch.setenv("http_proxy", f"http://{PRIVATE}:{trap.port}")
        assert await fetched_body("direct", "text/plain") == "direct"


@pytest.mark.parametrize("status", [304, 403, 404, 500])
async def test_a_bad_status_is_told(status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    assert str(status) in await error_of(fetched(handler))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nX: " + 100_000 * b"x" + b"\r\n\r\n",
    ],
    ids=["nothing", "no HTTP", "half", "no gzip", "endless header"],
)
async def test_a_broken_answer_is_told(answer: bytes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(break_off, PUBLIC, 0) as server, fetching() as fetch:
        port = server.sockets[0].getsockname()[1]
        assert "broke off" in await error_of(fetch(f"http://{PUBLIC}:{port}/"))


async def test_a_server_without_tls_is_told() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="plain")

    async with serving(answer) as server, fetching() as fetch:
        said = await error_of(fetch(f"https://{PUBLIC}:{server.port}/"))
    assert "no secure connection" in said


async def test_a_closed_port_is_told() -> None:
    with socket.create_server((PUBLIC, 0)) as closed:
        port = closed.getsockname()[1]
    async with fetching() as fetch:
        assert await error_of(fetch(f"http://{PUBLIC}:{port}/")) == f"{PUBLIC} can't be connected to"


@pytest.mark.parametrize("sends", [False, True])
async def test_the_whole_call_has_a_limit(sends: bool) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        if sends:
            await response.prepare(request)
            await response.write(b"a little")
        await asyncio.Event().wait()
        return response

    assert await soon(error_of(fetched(drip, limit_s=0.2))) == "the page took longer than 0.2 seconds"


async def test_a_long_page_is_cut() -> None:
    text = await fetched_body("é" * 1_500_000, "text/plain")
    assert text == "é" * 1_000_000 + "\n[cut after 2000000 bytes]"


async def test_a_bomb_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(100_000_000), 1)
    tracemalloc.start()
    try:
        text = await soon(fetched_body(bomb, "text/plain", **{"Content-Encoding": "gzip"}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(text) < 2_100_000
    assert peak < 30_000_000


async def test_html_that_would_take_hours_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odysseus.tools.page_text._PARSING_CPU_S", 0.1)
    assert "too large" in await soon(error_of(fetched_body("<!--" * 490_000, "text/html")))


async def test_html_of_too_many_elements_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("odysseus.tools.page_text._ELEMENTS", 20)
    assert await fetched_body("<b>x</b>" * 20, "text/html") == "x" * 20
    assert "too large" in await error_of(fetched_body("<b>x</b>" * 21, "text/html"))


async def test_html_the_parser_fails_on_is_told() -> None:
    assert "can't be read" in await error_of(fetched_body("<p>&#" + "9" * 5000 + ";", "text/html"))


async def test_cancelling_closes_the_connection_at_once() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nhalf")
        asked.set()
        assert await reader.read() == b""
        gone.set()
        writer.close()

    async with await asyncio.start_server(wait_for_the_end, PUBLIC, 0) as server, fetching() as fetch:
        port = server.sockets[0].getsockname()[1]
        call = asyncio.ensure_future(fetch(f"http://{PUBLIC}:{port}/"))
        await soon(asked.wait())
        with at_once():
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await soon(gone.wait())
