"""What `test_client` can't show of an answer's body: the order in memory and in time, and how a connection ends.

Time is virtual where it matters: there, aiohttp's own reader is fed by hand in place of its parser.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from odysseus.upstream.arrived import Arrived
from tests.fake_upstream import Exchange, FakeUpstream, Script, say
from tests.virtual_time import now, run_virtual
from tests.waiting import at_once, soon, until

SILENCE_S = 60.0
AHEAD = 1024 * 1024
BROKEN = aiohttp.ClientPayloadError("broken")


class Protocol:
    """The connection, as far as a body has to do with it. *more* is what its parser still has when it may go on."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.read_timeout: float | None = 5.0
        self.calls: list[str] = []
        self.more: Callable[[], None] = lambda: None

    def data_received(self, data: bytes) -> None:
        self.more()

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self, resume_parser: bool = True) -> None:
        if resume_parser:
            self.calls.append("resume")
            more, self.more = self.more, lambda: None
            more()

    def eof_received(self) -> None: ...

    def connection_lost(self, error: Exception | None) -> None: ...

    pause_writing = resume_writing = eof_received


class Wire:
    """An answer whose body the tests feed."""

    def __init__(self, *early: bytes, protocol: Protocol | None = None) -> None:
        self.protocol = protocol or Protocol()
        self.content = aiohttp.StreamReader(self.protocol, 2**18, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        for data in early:
            self.content.feed_data(data)
        self.aborted = 0
        self.ends: list[str] = []
        """How the response was let go, each time."""
        self.tapped: Any = None
        """What gets the connection's bytes."""
        transport = SimpleNamespace(abort=self._abort, get_extra_info=self._no_socket, set_protocol=self._set_protocol)
        self.response: Any = SimpleNamespace(
            content=self.content,
            connection=SimpleNamespace(protocol=self.protocol, transport=transport),
            release=lambda: self.ends.append("released"),
            close=lambda: self.ends.append("closed"),
        )
        self.protocol.calls.clear()
        self.used: list[bytes] = []
        self.arrived = Arrived(self.response, SILENCE_S, self._use)
        self.uses = False
        """Whether what is offered is used."""

    def feed(self, *parts: bytes) -> None:
        """One read of the connection brings *parts*, each in a chunk of its own."""
        more, self.protocol.more = self.protocol.more, lambda: self.parse(*parts)
        self.tapped.data_received(b"")
        self.protocol.more = more

    def parse(self, *parts: bytes) -> None:
        for data in parts:
            self.content.feed_data(data)

    def _use(self, data: bytes) -> bool:
        if self.uses:
            self.used.append(data)
        return self.uses

    def _set_protocol(self, protocol: Any) -> None:
        self.tapped = protocol

    def _no_socket(self, _: str) -> None:
        raise OSError("closed already")

    def _abort(self) -> None:
        self.aborted += 1


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


# What is used before anybody is woken


def test_a_read_is_offered_whole_to_one_that_can_use_it() -> None:
    """In one piece, and nobody is woken; what can't be used goes to whoever waits."""

    async def main() -> None:
        wire = Wire()
        taking = asyncio.create_task(wire.arrived.take())
        await asyncio.sleep(0)
        wire.uses = True
        wire.feed(b"a", b"b")
        wire.feed(b"c")
        await asyncio.sleep(1)
        assert (wire.used, taking.done()) == ([b"ab", b"c"], False)
        wire.uses = False
        wire.feed(b"d", b"e")
        assert await taking == b"de"

    run_virtual(main())


def test_nothing_is_offered_past_what_still_waits() -> None:
    """Nor while nobody waits: who has been woken, or has gone, is to see what came in its order."""

    async def main() -> None:
        wire = Wire(b"a")
        wire.uses = True
        wire.feed(b"b")
        assert await wire.arrived.take() == b"ab"
        taking = asyncio.create_task(wire.arrived.take())
        await asyncio.sleep(0)
        wire.uses = False
        wire.feed(b"c")
        wire.uses = True
        wire.feed(b"d")
        assert await taking == b"cd"
        taking = asyncio.create_task(wire.arrived.take())
        await asyncio.sleep(0)
        taking.cancel()
        wire.feed(b"e")
        assert (await wire.arrived.take(), wire.used) == (b"e", [])

    run_virtual(main())


def test_use_that_fails() -> None:
    """It is the waiting one's failure, not aiohttp's, and nothing is handed out a second time."""

    async def main() -> None:
        def fail(data: bytes) -> bool:
            raise ValueError(data)

        wire = Wire()
        wire.arrived._use = fail
        taking = asyncio.create_task(wire.arrived.take())
        await asyncio.sleep(0)
        wire.feed(b"a")
        for waiting in (taking, wire.arrived.take()):
            with pytest.raises(ValueError, match="a"):
                await waiting
        wire.arrived.close()
        assert wire.aborted == 1

    run_virtual(main())


@pytest.mark.parametrize("end", ["eof", "error", "close"])
def test_the_connection_is_given_back(end: str) -> None:
    """The next answer on it may begin at once."""

    async def main() -> None:
        wire = Wire()
        assert wire.tapped is not wire.protocol
        if end == "close":
            wire.arrived.close()
        elif end == "error":
            wire.content.set_exception(BROKEN)
        else:
            wire.content.feed_eof()
        assert wire.tapped is wire.protocol
        wire.tapped = None
        wire.arrived.close()
        assert wire.tapped is None

    run_virtual(main())
