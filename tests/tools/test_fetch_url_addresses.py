"""Fetching a page connects to no address that isn't allowed, whatever the URL, the redirects and the DNS say."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web

from odysseus.tools.public_addresses import is_public
from tests.tools.loopback import PRIVATE, PUBLIC, Names, error_of, fetched, fetching, serving, trapped


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


async def test_an_answer_that_only_the_system_understands_is_refused() -> None:
    async with trapped() as trap, fetching(resolver=Names(("127.2",))) as fetch:  # the same as 127.0.0.2
        said = await error_of(fetch(f"http://odd.example:{trap.port}/"))
        assert trap.connections == 0
    assert said == "odd.example has no public address, so it isn't fetched"


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
