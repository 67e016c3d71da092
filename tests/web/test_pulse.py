"""The one timer behind every stream's pings, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from odysseus.web.pulse import Pulse
from tests.virtual_time import Stuck, run_virtual

INTERVAL_S = 15.0


class Stream:
    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.pings: list[float] = []
        """When they came, in the loop's time."""
        self._then = then

    def ping(self) -> None:
        self.pings.append(asyncio.get_running_loop().time())
        self._then()


def timers() -> int:
    """Return how many timers the running loop has."""
    return len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


def test_each_stream_is_pinged_within_every_interval() -> None:
    """Whenever it came, from its first moment on; and not much more often, since a ping costs both sides."""

    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        joined: list[tuple[float, Stream]] = []
        for _ in range(101):  # over several intervals, at a different place in each
            stream = Stream()
            pulse.add(stream)
            joined.append((asyncio.get_running_loop().time(), stream))
            await asyncio.sleep(INTERVAL_S * 0.037)
        await asyncio.sleep(INTERVAL_S * 10)
        end = asyncio.get_running_loop().time()
        for since, stream in joined:
            first, *more = (after - before for before, after in pairwise([since, *stream.pings]))
            assert INTERVAL_S * 0.75 < first <= INTERVAL_S
            assert all(INTERVAL_S * 0.9 < gap <= INTERVAL_S for gap in more)
            assert end - stream.pings[-1] <= INTERVAL_S

    run_virtual(main())


def test_streams_that_came_one_by_one_are_not_pinged_together() -> None:
    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        streams = [Stream() for _ in range(80)]
        for stream in streams:
            pulse.add(stream)
            await asyncio.sleep(INTERVAL_S / 80)
        await asyncio.sleep(INTERVAL_S * 3)
        times = [time for stream in streams for time in stream.pings]
        assert max(times.count(time) for time in set(times)) <= 80 / 4

    run_virtual(main())


def test_one_timer_however_many_streams() -> None:
    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        for _ in range(1000):
            pulse.add(Stream())
            assert timers() == 1
        await asyncio.sleep(INTERVAL_S * 2)
        assert timers() == 1

    run_virtual(main())


def test_no_ping_after_the_stream_has_gone() -> None:
    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        gone, stays = Stream(), Stream()
        pulse.add(gone)
        await asyncio.sleep(INTERVAL_S / 3)
        pulse.add(stays)
        await asyncio.sleep(INTERVAL_S * 2)
        before = len(gone.pings)
        assert before == 2
        for _ in range(2):  # whoever ends twice, or never began, harms nobody
            pulse.discard(gone)
        pulse.discard(Stream())
        await asyncio.sleep(INTERVAL_S * 3)
        assert (len(gone.pings), len(stays.pings)) == (before, 5)

    run_virtual(main())


def test_no_timer_while_nobody_streams() -> None:
    """A process that has nothing to do sleeps; the next stream wakes it again."""
    woken: list[list[float]] = []

    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        assert timers() == 0
        for _ in range(3):
            stream = Stream()
            pulse.add(stream)
            await asyncio.sleep(INTERVAL_S)
            pulse.discard(stream)
            await asyncio.sleep(INTERVAL_S)
            assert timers() == 0
            woken.append(stream.pings)
        await asyncio.Event().wait()

    with pytest.raises(Stuck, match=f"nothing is scheduled at {INTERVAL_S * 6:.3f} s"):
        run_virtual(main())
    assert [len(pings) for pings in woken] == [1, 1, 1]


def test_the_last_goes_and_another_comes_before_the_timer_has_noticed() -> None:
    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        for _ in range(10):
            pulse.add(stream := Stream())
            pulse.discard(stream)
        pulse.add(stream)
        assert timers() == 1
        await asyncio.sleep(INTERVAL_S * 4)
        assert len(stream.pings) == 4

    run_virtual(main())


def test_a_stream_may_leave_or_come_in_the_middle_of_the_pings() -> None:
    async def main() -> None:
        pulse = Pulse(INTERVAL_S)
        late = Stream()
        leaving = [Stream(lambda place=place: pulse.discard(leaving[place])) for place in range(10)]  # type: ignore[misc]
        inviting = Stream(lambda: pulse.add(late))
        for stream in (*leaving, inviting):
            pulse.add(stream)
        await asyncio.sleep(INTERVAL_S * 1.5)
        assert [len(stream.pings) for stream in leaving] == [1] * 10
        assert (len(inviting.pings), len(late.pings)) == (1, 0)
        await asyncio.sleep(INTERVAL_S)
        assert (len(inviting.pings), len(late.pings)) == (2, 1)

    run_virtual(main())
