"""Fetching a page: what it becomes, what is refused, and that nothing but an allowed address is ever connected to.

The servers are real, on loopback: 127.0.0.1 is allowed here and stands for the public internet, 127.0.0.2 is not.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, ip_address

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.test_utils import TestServer

from odysseus.tools import Caller, ToolError
from odysseus.tools.fetch_url import UrlFetcher
from odysseus.tools.functions import tool_of
from odysseus.tools.public_addresses import Address, is_public
from tests.waiting import at_once, soon

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def allowed(address: Address) -> bool:
    return address == IPv4Address(PUBLIC)


class Names(AbstractResolver):
    """Gives each question the next of its answers."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.asked: list[str] = []
        self._answers: Iterator[tuple[str, ...]] = iter(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)
            for address in next(self._answers)
        ]

    async def close(self) -> None:
        pass


class Trap:
    """A server on the private address that notes each connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections = 0


@asynccontextmanager
async def trapped(port: int = 0) -> AsyncIterator[Trap]:
    trap = Trap(port)

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trap.connections += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nsecret")
        writer.close()

    async with await asyncio.start_server(note, PRIVATE, port) as server:
        trap.port = server.sockets[0].getsockname()[1]
        yield trap


@asynccontextmanager
async def fetching(
    *, resolver: AbstractResolver | None = None, limit_s: float = 30, check: Callable[[Address], bool] = allowed
) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    fetcher = UrlFetcher(allowed=check, resolver=resolver, limit_s=limit_s)
    try:
        yield fetcher.fetch_url
    finally:
        await fetcher.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[TestServer]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    async with TestServer(app, host=PUBLIC) as server:
        yield server


async def fetched(handler: Handler, path: str = "/", *, limit_s: float = 30) -> str:
    async with serving(handler) as server, fetching(limit_s=limit_s) as fetch:
        return await fetch(str(server.make_url(path)))


async def fetched_body(body: str | bytes, content_type: str, **headers: str) -> str:
    async def handler(_: web.Request) -> web.Response:
        raw = body if isinstance(body, bytes) else body.encode()
        return web.Response(body=raw, headers={"Content-Type": content_type, **headers})

    return await fetched(handler)


async def error_of(awaitable: Awaitable[str]) -> str:
    with pytest.raises(ToolError) as refused:
        await awaitable
    return str(refused.value)


# What a page becomes


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
    tool = tool_of(UrlFetcher().fetch_url)
    assert tool.name == "fetch_url"
    assert tool.parameters["required"] == ["url"]
    assert "public" in await error_of(tool.call({"url": "http://127.0.0.1/"}, Caller("s")))


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


# What the server does wrong


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
        text = await soon(fetched_body(b"%b" % bomb, "text/plain", **{"Content-Encoding": "gzip"}))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(text) < 2_100_000
    assert peak < 30_000_000


@pytest.mark.parametrize("html", ["<!--" * 500_000, "<b>" * 600_000], ids=["hours", "elements"])
async def test_html_made_to_cost_is_given_up(html: str) -> None:
    assert "too large" in await soon(error_of(fetched_body(html, "text/html")))


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


# Which addresses may be connected to


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must begin with"),
        ("example.com", "must begin with"),
        ("//example.com/", "must begin with"),
        ("http:example.com", "must begin with"),
        ("http:///path", "must begin with"),
        ("ftp://example.com/", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("data:text/plain,x", "must begin with"),
        ("javascript:alert(1)", "must begin with"),
        ("http://user:password@example.com/", "user name or password"),
        ("http://user@example.com/", "user name or password"),
        ("http://:password@example.com/", "user name or password"),
        ("http://example.com\\@127.0.0.1/", "isn't a URL"),
        ("http://[::1", "isn't a URL"),
        ("http://example.com:99999/", "isn't a URL"),
        ("http://\ud800/", "isn't a URL"),
        ("http://a..b/", "isn't a URL"),
        (f"http://{'a' * 300}/", "isn't a URL"),
        ("http://\0/", ""),
        ("http://a b/", ""),
    ],
    ids=lambda text: ascii(text[:30]),
)
async def test_what_is_no_url_of_a_page_is_refused(url: str, said: str) -> None:
    async with fetching() as fetch:
        assert said in await error_of(fetch(url))


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::127.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1%25lo]",
        "10.0.0.1",
        "169.254.169.254",
        "168.63.129.16",
    ],
)
async def test_odd_names_of_private_hosts_are_refused(host: str) -> None:
    """A server waits on the port that all of these would reach, were they connected to."""
    connections = 0

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(note, "0.0.0.0", 0) as server, fetching(check=is_public) as fetch:
        port = server.sockets[0].getsockname()[1]
        said = await error_of(fetch(f"http://{host}:{port}/"))
    assert "no public address" in said or "isn't a URL" in said or "no host" in said
    assert connections == 0


async def test_redirects_are_followed_and_counted() -> None:
    async def countdown(request: web.Request) -> web.Response:
        left = int(request.match_info["path"])
        if left:
            raise web.HTTPFound(str(left - 1))
        return web.Response(text="arrived")

    assert await fetched(countdown, "/5") == "arrived"
    assert "more than 5 times" in await error_of(fetched(countdown, "/6"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_a_private_address_is_refused(status: int) -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"http://{PRIVATE}:{trap.port}/"})

    async with trapped() as trap:
        assert "no public address" in await error_of(fetched(redirect))
        assert trap.connections == 0


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("file:///etc/passwd", "must begin with"),
        ("http://user@127.0.0.1/", "user name or password"),
        ("http://[::1", "isn't a URL"),
    ],
)
async def test_where_a_redirect_leads_is_checked(location: str, said: str) -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    assert said in await error_of(fetched(redirect))


async def test_a_redirect_without_a_location_is_a_bad_status() -> None:
    async def redirect(_: web.Request) -> web.Response:
        return web.Response(status=302)

    assert "302" in await error_of(fetched(redirect))


async def test_a_name_that_changes_its_address_is_refused() -> None:
    """DNS rebinding: between two calls, and between a page and the page it redirects to."""

    async def page(request: web.Request) -> web.Response:
        if request.path == "/moved":
            raise web.HTTPFound("/")
        return web.Response(text="public")

    names = Names((PUBLIC,), (PRIVATE,), (PUBLIC,), (PRIVATE,))
    async with serving(page) as server, trapped(server.port or 0) as trap, fetching(resolver=names) as fetch:
        url = f"http://rebinding.example:{server.port}/"
        assert await fetch(url) == "public"
        assert "no public address" in await error_of(fetch(url))
        assert "no public address" in await error_of(fetch(f"{url}moved"))
        assert trap.connections == 0
    assert len(names.asked) == 4


@pytest.mark.parametrize("answer", [(PUBLIC, PRIVATE), (PRIVATE, PUBLIC), (PRIVATE, "127.0.0.3", PUBLIC)])
async def test_of_mixed_addresses_only_the_public_one_is_connected_to(answer: tuple[str, ...]) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="public")

    async with (
        serving(page) as server,
        trapped(server.port or 0) as trap,
        fetching(resolver=Names(answer)) as fetch,
    ):
        assert await fetch(f"http://mixed.example:{server.port}/") == "public"
        assert trap.connections == 0


async def test_private_ports_look_alike_and_addresses_stay_unsaid() -> None:
    with socket.create_server((PRIVATE, 0)) as closed:
        closed_port = closed.getsockname()[1]
    names = Names((PRIVATE,), (PRIVATE,))
    async with trapped() as trap, fetching(resolver=names) as fetch:
        said = [await error_of(fetch(f"http://inside.example:{port}/")) for port in (closed_port, trap.port)]
        assert trap.connections == 0
    assert said == ["inside.example has no public address, so it isn't fetched"] * 2


async def test_a_public_host_that_fails_keeps_its_address() -> None:
    with socket.create_server((PUBLIC, 0)) as closed:
        port = closed.getsockname()[1]
    async with fetching(resolver=Names((PUBLIC,))) as fetch:
        assert await error_of(fetch(f"http://name.example:{port}/")) == "name.example can't be connected to"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("172.15.0.1", True),
        ("192.0.1.1", True),
        ("168.63.129.17", True),
        ("2606:4700:4700::1111", True),
        ("2a00:1450:4001:80e::200e", True),
        ("64:ff9b::1.1.1.1", True),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("100.100.100.200", False),
        ("127.255.255.254", False),
        ("168.63.129.16", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.0.0.192", False),
        ("192.0.2.1", False),
        ("192.88.99.1", False),
        ("192.168.1.1", False),
        ("198.18.0.1", False),
        ("203.0.113.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::1.1.1.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:1.1.1.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b::168.63.129.16", False),
        ("64:ff9b:1::1.1.1.1", False),
        ("100::1", False),
        ("2001::7f00:1", False),
        ("2001:0:1:1:1:1:80ff:fffe", False),
        ("2001:db8::1", False),
        ("2002:7f00:1::1", False),
        ("2002:101:101::1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1", False),
        ("fe80::1%lo", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public
