"""What is used of an answer's body before anybody is woken, and the connection that is given back."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.upstream.wire import Wire
from tests.virtual_time import run_virtual

BROKEN = aiohttp.ClientPayloadError("broken")


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
