"""What `test_client` can't show of an answer's body: the order in memory and in time, and how a connection ends.

Time is virtual where it matters: there, aiohttp's own reader is fed by hand in place of its parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from odysseus.upstream.arrived import Arrived
from tests.fake_upstream import Exchange, FakeUpstream, Script, say
from tests.upstream.wire import SILENCE_S, Wire
from tests.virtual_time import now, run_virtual
from tests.waiting import at_once, soon, until

AHEAD = 1024 * 1024
BROKEN = aiohttp.ClientPayloadError("broken")


def timers() -> int:
    """Return how many timers the running loop still has to obey."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return sum(not timer.cancelled() for timer in scheduled)


async def rest(arrived: Arrived) -> bytes:
    """Take until the end."""
    body = b""
    while data := await arrived.take():
        body += data
    return body


# What comes, in which order


def test_all_that_came_since_the_last_call() -> None:
    """What came with the headers is the first of it."""

    async def main() -> None:
        wire = Wire(b"a", b"b")
        wire.feed(b"c")
        assert await wire.arrived.take() == b"abc"
        wire.feed(b"d")
        assert await wire.arrived.take() == b"d"
        wire.feed(b"e", b"", b"f")
        wire.content.feed_eof()
        assert [await wire.arrived.take() for _ in range(3)] == [b"ef", b"", b""]

    run_virtual(main())


def test_whoever_waits_is_woken_once() -> None:
    async def main() -> None:
        wire = Wire()
        taking = asyncio.create_task(wire.arrived.take())
        await asyncio.sleep(1)
        assert not taking.done()
        wire.feed(b"a", b"b", b"c")
        wire.content.feed_eof()
        assert (await taking, await wire.arrived.take()) == (b"abc", b"")

    run_virtual(main())


def test_a_cancelled_take_loses_nothing() -> None:
    async def main() -> None:
        wire = Wire()
        for cancel_first in (True, False):
            taking = asyncio.create_task(wire.arrived.take())
            await asyncio.sleep(0)
            for act in (taking.cancel, lambda: wire.feed(b"a"))[:: 1 if cancel_first else -1]:
                act()
            with pytest.raises(asyncio.CancelledError):
                await taking
            assert await wire.arrived.take() == b"a"

    run_virtual(main())


@pytest.mark.parametrize("waits", [True, False])
def test_what_came_before_an_error_is_handed_out_first(waits: bool) -> None:
    """Also to one that waits as both arrive in the same turn; the error stays."""

    async def main() -> None:
        wire = Wire(b"" if waits else b"a")
        taking = asyncio.create_task(wire.arrived.take())
        if waits:
            await asyncio.sleep(0)
        wire.feed(b"b", b"c")
        wire.content.set_exception(BROKEN)
        assert await taking == (b"bc" if waits else b"abc")
        for _ in range(2):
            with pytest.raises(aiohttp.ClientPayloadError, match="broken"):
                await wire.arrived.take()

    run_virtual(main())


def test_a_connection_that_closes_and_tells_nobody() -> None:
    async def main() -> None:
        wire = Wire()
        wire.feed(b"a")
        wire.protocol.closed.set_result(None)
        await asyncio.sleep(0)
        assert await wire.arrived.take() == b"a"
        with pytest.raises(aiohttp.ClientPayloadError, match="in the middle"):
            await wire.arrived.take()

    run_virtual(main())


def test_many_answers_on_one_connection_leave_nothing_behind() -> None:
    """Each adds to what the connection calls when it closes. An error there is taken notice of, for asyncio's sake."""

    async def main() -> None:
        wire = Wire()
        for _ in range(50):
            wire.content.feed_eof()
            wire.arrived.close()
            wire = Wire(protocol=wire.protocol)
        assert len(wire.protocol.closed._callbacks) == 2  # type: ignore[attr-defined]
        wire.arrived.close()
        wire.protocol.closed.set_exception(ConnectionResetError())
        await asyncio.sleep(0)

    run_virtual(main())


# A consumer that is slower than the model


def test_a_pause_beyond_a_megabyte() -> None:
    """Once, until all of it has been taken; what the parser still has comes then, and may be too much again."""

    async def main() -> None:
        wire = Wire()
        blocks = [b"%07d." % number * 8192 for number in range(64)]  # of 64 KB each
        wire.feed(*blocks[:16])
        assert wire.protocol.calls == []
        wire.feed(*blocks[16:20])
        assert wire.protocol.calls == ["pause"]
        wire.protocol.more = lambda: wire.parse(*blocks[20:40])
        assert await wire.arrived.take() == b"".join(blocks[:20])
        assert wire.protocol.calls == ["pause", "resume", "pause"]
        wire.protocol.more = lambda: wire.parse(*blocks[40:42])
        assert await wire.arrived.take() == b"".join(blocks[20:40])
        assert wire.protocol.calls == ["pause", "resume"] * 2
        wire.feed(*blocks[42:])
        wire.content.feed_eof()
        assert wire.protocol.calls == ["pause", "resume"] * 2 + ["pause"]
        assert await rest(wire.arrived) == b"".join(blocks[40:])

    run_virtual(main())


def test_no_pause_when_the_same_read_brings_the_end() -> None:
    """aiohttp's parser has no body then that could wait, and the connection may be another answer's."""

    async def main() -> None:
        wire = Wire()
        tapped = wire.tapped

        def all_of_it() -> None:
            wire.parse(b"x" * AHEAD, b"y")
            wire.content.feed_eof()

        wire.protocol.more = all_of_it
        tapped.data_received(b"whatever")
        assert wire.protocol.calls == []
        assert await rest(wire.arrived) == b"x" * AHEAD + b"y"
        assert wire.protocol.calls == []

    run_virtual(main())


def test_an_error_while_paused() -> None:
    async def main() -> None:
        wire = Wire()
        wire.feed(b"x" * AHEAD, b"y")
        wire.content.set_exception(BROKEN)
        assert await wire.arrived.take() == b"x" * AHEAD + b"y"
        with pytest.raises(aiohttp.ClientPayloadError):
            await wire.arrived.take()

    run_virtual(main())


# Silence


@pytest.mark.parametrize("gap_s", [0.01, 7, 59.9])
def test_silence_is_counted_from_the_last_byte(gap_s: float) -> None:
    """By one timer, however much comes; nobody has to take for it to be counted."""

    async def main() -> None:
        wire = Wire()
        body = b""
        for number in range(300):
            await asyncio.sleep(gap_s)
            wire.feed(b"x")
            if number % 3 == 0:
                body += await wire.arrived.take()
            assert timers() == 1
        last = now()
        with pytest.raises(TimeoutError):
            await rest(wire.arrived)
        assert (now(), body) == (round(last + SILENCE_S, 3), b"x" * len(body))
        assert timers() == 0

    run_virtual(main())


def test_what_came_before_a_silence_is_handed_out_first() -> None:
    async def main() -> None:
        wire = Wire()
        wire.feed(b"a")
        await asyncio.sleep(SILENCE_S * 3)
        assert await wire.arrived.take() == b"a"
        with pytest.raises(TimeoutError):
            await wire.arrived.take()

    run_virtual(main())


def test_our_own_pause_is_no_silence() -> None:
    """However long it takes; when it is over, the model has the whole time again."""

    async def main() -> None:
        wire = Wire()
        wire.feed(b"x" * AHEAD, b"y")
        await asyncio.sleep(SILENCE_S * 10.5)
        assert len(await wire.arrived.take()) == AHEAD + 1
        resumed = now()
        with pytest.raises(TimeoutError):
            await wire.arrived.take()
        assert now() == resumed + SILENCE_S

    run_virtual(main())


def test_no_timer_is_left_when_the_answer_has_ended() -> None:
    """And aiohttp's own, which it would set anew at every read, is off."""

    async def main() -> None:
        for end in (Wire.feed, lambda wire: wire.content.feed_eof(), lambda wire: wire.content.set_exception(BROKEN)):
            wire = Wire()
            assert (wire.protocol.read_timeout, timers()) == (None, 1)
            end(wire)
            if end is Wire.feed:
                wire.arrived.close()
            assert timers() == 0

    run_virtual(main())


# Closing


@pytest.mark.parametrize("ended", [True, False])
def test_closing_twice(ended: bool) -> None:
    async def main() -> None:
        wire = Wire(b"a")
        if ended:
            wire.content.feed_eof()
        for _ in range(2):
            wire.arrived.close()
        assert set(wire.ends) == {"released" if ended else "closed"}
        assert bool(wire.aborted) is not ended
        wire.protocol.closed.set_result(None)
        await asyncio.sleep(0)
        assert (wire.content.exception(), timers()) == (None, 0)

    run_virtual(main())


@pytest.mark.parametrize(("what", "after_s"), [("end", 0.5), ("error", 0.5), ("more", 1), ("nothing", 1)])
def test_lingering(what: str, after_s: float) -> None:
    """It takes what comes until the answer ends, and no longer than it may; then the connection is let go, once."""

    async def main() -> None:
        wire = Wire(b"x" * AHEAD, b"y")
        lingering = asyncio.create_task(wire.arrived.linger(1))
        await asyncio.sleep(0.5)
        if what == "end":
            wire.content.feed_eof()
        elif what == "error":
            wire.content.set_exception(BROKEN)
        for _ in range(4 if what == "more" else 0):
            wire.feed(b"z" * 1000)
            await asyncio.sleep(0.1)
        await lingering
        assert (round(now(), 1), timers()) == (after_s, 0)
        assert wire.ends == ["released" if what == "end" else "closed"]

    run_virtual(main())


def test_a_cancelled_linger_closes() -> None:
    async def main() -> None:
        wire = Wire()
        lingering = asyncio.create_task(wire.arrived.linger(1))
        await asyncio.sleep(0.5)
        lingering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lingering
        assert (wire.ends, wire.aborted) == (["closed"], 1)

    run_virtual(main())


# On real connections


@asynccontextmanager
async def answered(script: Script, *, keep_alive: bool = False) -> AsyncIterator[tuple[Arrived, FakeUpstream]]:
    async with FakeUpstream(script, keep_alive=keep_alive) as upstream, aiohttp.ClientSession() as session:
        response = await soon(session.post(f"{upstream.url}/chat/completions", json={"model": "m"}))
        yield Arrived(response, SILENCE_S), upstream


@pytest.mark.parametrize("how", [Exchange.abort, Exchange.close])
async def test_megabytes_before_a_break(how: Callable[[Exchange], None]) -> None:
    """Everything that the far side has sent arrives, in order, though its taker was away and reading was paused."""
    blocks = [b"%07d." % number * 1000 for number in range(500)]

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for block in blocks:
            await exchange.send(block)
        sent.set()
        await taken.wait()
        how(exchange)

    sent, taken = asyncio.Event(), asyncio.Event()
    async with answered(script) as (arrived, _):
        await until(lambda: arrived._paused)
        body = b""
        while len(body) < 8_000 * len(blocks):
            body += await soon(arrived.take())
            await asyncio.sleep(0.001)
        assert (body, sent.is_set()) == (b"".join(blocks), True)
        taken.set()
        with pytest.raises((aiohttp.ClientError, OSError)):
            await soon(arrived.take())
        arrived.close()


async def test_lingering_keeps_a_connection_and_closing_drops_it() -> None:
    async with answered(say("a"), keep_alive=True) as (arrived, upstream):
        with at_once():
            await arrived.linger(30)
        assert upstream.connections == 1
        arrived.close()
        assert upstream.connections == 1
    async with answered(say("a", done=False), keep_alive=True) as (arrived, upstream):
        with at_once():
            await arrived.linger(0.05)
            await until(lambda: not upstream.connections)
        arrived.close()
