"""The proxy of the tests, between plain sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.process.proxy import Proxy, proxied
from tests.process.raw_client import LIMIT_S
from tests.waiting import soon, until

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Far:
    """A server that keeps its ends of the connections for the test to play with."""

    def __init__(self) -> None:
        self.ends: asyncio.Queue[Ends] = asyncio.Queue()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.ends.put_nowait((reader, writer))


@pytest.fixture
async def far() -> Far:
    return Far()


@pytest.fixture
async def proxy(far: Far) -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(far.take, "127.0.0.1", 0)
    async with proxied(server.sockets[0].getsockname()[1]) as proxy:
        yield proxy
    server.close()
    while not far.ends.empty():
        far.ends.get_nowait()[1].close()


async def connected(proxy: Proxy, far: Far) -> tuple[Ends, Ends]:
    """Return both ends of a connection through the proxy."""
    near = await asyncio.open_connection("127.0.0.1", proxy.port)
    return near, await soon(far.ends.get())


async def nothing_comes(reader: asyncio.StreamReader) -> asyncio.Task[bytes]:
    """Check that *reader* has nothing to read for a while; return what goes on reading."""
    reading = asyncio.ensure_future(reader.read(100))
    done, _ = await asyncio.wait({reading}, timeout=0.2)
    assert not done
    return reading


async def test_it_passes_both_ways_and_ends(proxy: Proxy, far: Far) -> None:
    (near_in, near_out), (far_in, far_out) = await connected(proxy, far)
    near_out.write(b"there")
    far_out.write(b"and back")
    assert await soon(far_in.readexactly(5)) == b"there"
    assert await soon(near_in.readexactly(8)) == b"and back"
    near_out.write_eof()
    assert await soon(far_in.read()) == b""
    far_out.write(b"bye")  # a half-closed connection still carries what comes the other way
    far_out.close()
    assert await soon(near_in.read()) == b"bye"
    near_out.close()
    await until(lambda: not proxy.connections)


async def test_much_at_once(proxy: Proxy, far: Far) -> None:
    (near_in, near_out), (_, far_out) = await connected(proxy, far)
    data = bytes(range(256)) * 20_000
    far_out.write(data)
    assert await soon(near_in.readexactly(len(data))) == data
    for writer in (near_out, far_out):
        writer.close()


async def test_a_cut(proxy: Proxy, far: Far) -> None:
    (near_in, near_out), (far_in, far_out) = await connected(proxy, far)
    proxy.cut()
    for reader in (near_in, far_in):
        try:
            assert await soon(reader.read()) == b""
        except ConnectionResetError:
            pass
    for writer in (near_out, far_out):
        writer.close()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
    await proxy.heal()
    (near_in, near_out), (_, far_out) = await connected(proxy, far)
    far_out.write(b"again")
    assert await soon(near_in.readexactly(5)) == b"again"
    for writer in (near_out, far_out):
        writer.close()


async def test_a_freeze(proxy: Proxy, far: Far) -> None:
    """Nothing passes, nothing breaks, and nothing is lost."""
    (near_in, near_out), (far_in, far_out) = await connected(proxy, far)
    proxy.freeze()
    near_out.write(b"there")
    far_out.write(b"and back")
    late_in, late_out = await asyncio.open_connection("127.0.0.1", proxy.port)
    readings = [await nothing_comes(reader) for reader in (near_in, far_in, late_in)]
    assert far.ends.empty()
    await proxy.heal()
    assert await asyncio.wait_for(asyncio.gather(*readings[:2]), LIMIT_S) == [b"and back", b"there"]
    _, later_out = await soon(far.ends.get())
    later_out.write(b"late")
    assert await soon(readings[2]) == b"late"
    for writer in (near_out, far_out, late_out, later_out):
        writer.close()


async def test_an_end_in_a_freeze(proxy: Proxy, far: Far) -> None:
    """Whoever leaves meanwhile is missed when it is over."""
    (_, near_out), (far_in, far_out) = await connected(proxy, far)
    proxy.freeze()
    near_out.close()
    reading = await nothing_comes(far_in)
    await proxy.heal()
    assert await soon(reading) == b""
    far_out.close()


async def test_a_cut_in_a_freeze(proxy: Proxy, far: Far) -> None:
    (near_in, near_out), (far_in, far_out) = await connected(proxy, far)
    proxy.freeze()
    proxy.cut()
    for reader in (near_in, far_in):
        try:
            assert await soon(reader.read()) == b""
        except ConnectionResetError:
            pass
    await until(lambda: not proxy.connections)
    for writer in (near_out, far_out):
        writer.close()


async def test_nobody_there(far: Far) -> None:
    """As a server that is down: the connection ends at once."""
    server = await asyncio.start_server(far.take, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with proxied(port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            assert await soon(reader.read()) == b""
        except ConnectionResetError:
            pass
        writer.close()
