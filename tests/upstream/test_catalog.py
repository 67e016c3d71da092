"""Which models there are: over virtual time with scripted clients, and once over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import pytest

from odysseus.errors import InvalidField, ModelsUnknown, UpstreamError
from odysseus.upstream import Ask, Text
from odysseus.upstream.catalog import Catalog, Model
from odysseus.upstream.client import Client
from tests.fake_upstream import FakeUpstream, breaks, say, status
from tests.scenes import virtual
from tests.waiting import soon, until

_T = TypeVar("_T", Catalog, Client)

DOWN = UpstreamError("upstream_unreachable", "the model server can't be reached")


class Listing:
    """A client as the catalog sees it. *models* are what it lists, after *takes_s*; an error is raised instead."""

    def __init__(self, name: str, models: Sequence[str] | UpstreamError = (), takes_s: float = 0) -> None:
        self.name, self.listed, self.takes_s = name, models, takes_s
        self.asked = 0
        self.closed = False

    async def models(self) -> list[str]:
        self.asked += 1
        await asyncio.sleep(self.takes_s)
        if isinstance(self.listed, UpstreamError):
            raise self.listed
        return list(self.listed)

    async def close(self) -> None:
        self.closed = True


def catalog_of(*servers: Listing, **named: Sequence[str]) -> Catalog:
    """Return the catalog of *servers*; *named* has the models that the settings name, by server."""
    return Catalog([(server, named.get(server.name, ())) for server in servers])  # type: ignore[misc]


async def ids(catalog: Catalog) -> list[str]:
    return [model.id for model in await catalog.models()]


async def found(catalog: Catalog, model: str | None) -> tuple[str, Any]:
    name, upstream = await catalog.find(model)
    return name, upstream


@virtual
async def test_named_models_are_not_asked_for() -> None:
    a = Listing("a", ["x"])
    catalog = catalog_of(a, a=["m", "n"])
    assert await catalog.models() == [Model("m", "a", default=True), Model("n", "a", default=False)]
    assert await found(catalog, None) == ("m", a)
    assert await found(catalog, "n") == ("n", a)
    with pytest.raises(InvalidField, match="model: 'x' is not one of m, n"):
        await catalog.find("x")
    assert a.asked == 0


@virtual
async def test_two_servers() -> None:
    """The first that names a model serves it; the first model of all is the default."""
    a, b = Listing("a", ["m", "n"]), Listing("b", ["n", "o"])
    catalog = catalog_of(a, b)
    assert await catalog.models() == [
        Model("m", "a", default=True),
        Model("n", "a", default=False),
        Model("o", "b", default=False),
    ]
    for model, name, server in ((None, "m", a), ("m", "m", a), ("n", "n", a), ("o", "o", b)):
        assert await found(catalog, model) == (name, server)
    assert (a.asked, b.asked) == (1, 1)


@virtual
async def test_one_named_and_one_asked() -> None:
    a, b = Listing("a"), Listing("b", ["o"])
    assert await ids(catalog_of(a, b, a=["m"])) == ["m", "o"]
    assert (a.asked, b.asked) == (0, 1)


@virtual
async def test_servers_that_are_down() -> None:
    a, b = Listing("a", DOWN, takes_s=5), Listing("b", ["o"])
    catalog = catalog_of(a, b)
    assert await ids(catalog) == ["o"]
    assert await found(catalog, None) == ("o", b)
    a.listed = ["m"]
    await asyncio.sleep(60)
    assert await ids(catalog) == ["m", "o"]
    a.listed = b.listed = DOWN
    await asyncio.sleep(60)
    assert await ids(catalog) == ["m", "o"], "a server that doesn't answer keeps the models it had"
    assert await found(catalog, "o") == ("o", b)


@pytest.mark.parametrize("listed", [DOWN, ()])
@virtual
async def test_nobody_says_anything(listed: Any) -> None:
    catalog = catalog_of(Listing("a", listed))
    assert await catalog.models() == []
    for model in (None, "m"):
        with pytest.raises(ModelsUnknown):
            await catalog.find(model)


@virtual
async def test_lists_are_asked_for_again() -> None:
    a = Listing("a", ["m"])
    catalog = catalog_of(a)
    await catalog.models()
    a.listed = ["n", "m"]
    await asyncio.sleep(59)
    assert (await ids(catalog), a.asked) == (["m"], 1)
    await asyncio.sleep(1)
    assert (await ids(catalog), a.asked) == (["n", "m"], 2)
    assert await found(catalog, None) == ("n", a)
    a.listed = ["m"]
    await asyncio.sleep(60)
    with pytest.raises(InvalidField):
        await catalog.find("n")


@virtual
async def test_an_unknown_model_asks_again_but_not_for_ever() -> None:
    a = Listing("a", ["m"])
    catalog = catalog_of(a)
    await catalog.models()
    a.listed = ["m", "new"]
    await asyncio.sleep(2)
    assert (await found(catalog, "new"), a.asked) == (("new", a), 2)
    for _ in range(10):
        with pytest.raises(InvalidField, match="model"):
            await catalog.find("newer")
    assert a.asked == 2
    await asyncio.sleep(2)
    with pytest.raises(InvalidField):
        await catalog.find("newer")
    assert a.asked == 3


@virtual
async def test_all_share_one_asking_and_nobody_breaks_it() -> None:
    a = Listing("a", ["m"], takes_s=1)
    catalog = catalog_of(a)
    asking = [asyncio.ensure_future(ids(catalog)) for _ in range(5)]
    await asyncio.sleep(0.5)
    asking[0].cancel()
    assert await asyncio.gather(*asking[1:]) == [["m"]] * 4
    with pytest.raises(asyncio.CancelledError):
        await asking[0]
    assert a.asked == 1


@virtual
async def test_closing_ends_an_asking_and_closes_every_client() -> None:
    a, b = Listing("a", ["m"], takes_s=1000), Listing("b", ["o"])
    catalog = catalog_of(a, b)
    asking = asyncio.ensure_future(ids(catalog))
    await asyncio.sleep(1)
    await catalog.close()
    assert (a.closed, b.closed) == (True, True)
    await asyncio.wait({asking}, timeout=1)
    assert asking.done()


def client_of(name: str, url: str) -> Client:
    return Client(name, url, None, connect_s=30, silence_s=30)


@asynccontextmanager
async def closing(it: _T) -> AsyncIterator[_T]:
    try:
        yield it
    finally:
        await it.close()


async def test_over_real_sockets() -> None:
    async with FakeUpstream(say("A"), ("m", "n")) as a, FakeUpstream(say("B"), ("o",)) as b:
        catalog = Catalog([(client_of("a", a.url), ()), (client_of("b", b.url), ())])
        async with closing(catalog):
            assert await ids(catalog) == ["m", "n", "o"]
            for model, text in ((None, "A"), ("n", "A"), ("o", "B")):
                name, upstream = await catalog.find(model)
                reads = upstream.ask(Ask(model=name, messages=[{"role": "user", "content": "Hi"}]))
                pieces = [piece async for read in reads for piece in read]
                assert pieces[0] == Text(text)
        await until(lambda: not a.connections and not b.connections)


async def test_a_client_asks_for_models() -> None:
    async with FakeUpstream(say("Hi"), ("a", "b")) as upstream, closing(client_of("main", upstream.url)) as it:
        assert await it.models() == ["a", "b"]
        for script, code in (
            (status(500), "upstream_status"),
            (status(404), "upstream_status"),
            (status(200, b"<html>", "text/html"), "upstream_protocol"),
            (status(200, b"{"), "upstream_protocol"),
            (status(200, b"[]"), "upstream_protocol"),
            (status(200, b"{}"), "upstream_protocol"),
            (status(200, b'{"data": 1}'), "upstream_protocol"),
            (status(200, b'{"data": [1]}'), "upstream_protocol"),
            (status(200, b'{"data": [{"name": "m"}]}'), "upstream_protocol"),
            (breaks(), "upstream_unreachable"),
        ):
            upstream.listing = script
            with pytest.raises(UpstreamError) as raised:
                await soon(it.models())
            assert raised.value.code == code
