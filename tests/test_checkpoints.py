from __future__ import annotations

import asyncio
from collections.abc import Container, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.checkpoints import Checkpoints
from odysseus.tasks import Tasks
from tests.virtual_time import now, run_virtual

KB = 1024
MB = 1024 * KB


class Growing:
    """An answer that only counts, and the checkpoints of it. The write number *n*, from 0, takes `takes_s[n]`."""

    def __init__(self, takes_s: Sequence[float] = (), fails: Container[int] = ()) -> None:
        self.size = 0
        self.begun: list[tuple[float, int]] = []
        """When each write began, and how long the answer was."""
        self.ended: list[float] = []
        self.most_at_once = 0
        self.tasks = Tasks()
        self.checkpoints = Checkpoints(lambda: self.tasks.spawn(self._write()))
        self._takes_s = takes_s
        self._fails = fails

    def grow(self, chars: int) -> None:
        self.size += chars
        self.checkpoints.grown(chars)

    async def grow_at(self, growth: Sequence[tuple[float, int]]) -> None:
        for at, chars in growth:
            await asyncio.sleep(at - now())
            self.grow(chars)

    async def _write(self) -> None:
        number = len(self.begun)
        self.begun.append((now(), self.size))
        self.most_at_once = max(self.most_at_once, len(self.begun) - len(self.ended))
        try:
            await asyncio.sleep(self._takes_s[number] if number < len(self._takes_s) else 0)
            if number in self._fails:
                raise ConnectionError("the store")
        finally:
            self.ended.append(now())


@pytest.mark.parametrize(
    ("growth", "takes_s", "writes"),
    [
        pytest.param([], (), [], id="nothing"),
        pytest.param([(0, 10)], (), [(1, 10)], id="after a second"),
        pytest.param([(0, 10), (0.9, 10)], (), [(1, 20)], id="a second after the first of it"),
        pytest.param([(0, 10), (5, 10)], (), [(1, 10), (6, 20)], id="a second after each pause"),
        pytest.param([(0, 2 * KB - 1)], (), [(1, 2 * KB - 1)], id="not yet 2 KB"),
        pytest.param([(0, 2 * KB)], (), [(0, 2 * KB)], id="2 KB at once"),
        pytest.param([(0, KB), (0.5, KB)], (), [(0.5, 2 * KB)], id="2 KB bit by bit"),
        pytest.param(
            [(0, 10), (0.5, 2 * KB), (0.6, 10)], (), [(0.5, 2 * KB + 10), (1.5, 2 * KB + 20)], id="2 KB, rest"
        ),
        pytest.param(
            [(0, 2 * KB), (1, 2 * KB), (2, 1)], (3,), [(0, 2 * KB), (3, 4 * KB + 1)], id="2 KB during a write"
        ),
        pytest.param([(0, 2 * KB), (1, 10)], (3,), [(0, 2 * KB), (4, 2 * KB + 10)], id="a little during a write"),
        pytest.param([(0, 126 * KB), (0.5, 2 * KB)], (), [(0, 126 * KB), (0.5, 128 * KB)], id="128 KB: still 2 KB"),
        pytest.param([(0, MB), (0.5, 16 * KB)], (), [(0, MB), (1.5, MB + 16 * KB)], id="1 MB: less than a 64th"),
        pytest.param([(0, MB), (0.5, 17 * KB)], (), [(0, MB), (0.5, MB + 17 * KB)], id="1 MB: more than a 64th"),
        pytest.param([(0, MB), (0.5, 1)], (), [(0, MB), (1.5, MB + 1)], id="1 MB: still each second"),
    ],
)
def test_when_it_writes(
    growth: list[tuple[float, int]], takes_s: tuple[float, ...], writes: list[tuple[float, int]]
) -> None:
    async def main() -> None:
        answer = Growing(takes_s)
        await answer.grow_at(growth)
        await asyncio.sleep(60)
        assert answer.begun == writes

    run_virtual(main())


def test_a_failing_write_is_retried_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        answer = Growing(fails=(0, 1))
        await answer.grow_at([(0, 2 * KB), (2, 10), (5, 2 * KB)])
        await asyncio.sleep(60)
        assert (answer.begun[0], answer.begun[-1]) == ((0, 2 * KB), (5, answer.size))

    run_virtual(main())
    assert len(caplog.records) == 2


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1500), st.sampled_from([1, 100, KB, 5 * KB, MB])), max_size=30),
    st.lists(st.integers(0, 4900), max_size=30),
)
def test_nothing_waits_longer_than_a_second(growth: list[tuple[int, int]], takes_ms: list[int]) -> None:
    """Any growth, any slow store: what has come is in a write that began a second later at most, or a second after
    the end of the write that was under way; and two writes never meet."""

    async def main() -> None:
        answer = Growing([each / 1000 for each in takes_ms])
        grown: list[tuple[float, int]] = []
        for pause_ms, chars in growth:
            await asyncio.sleep(pause_ms / 1000)
            answer.grow(chars)
            grown.append((now(), answer.size))
        await asyncio.sleep(60)
        assert answer.most_at_once <= 1
        for at, size in grown:
            written = next(begun for begun, held in answer.begun if held >= size)
            under_way = [end for (begun, _), end in zip(answer.begun, answer.ended, strict=True) if begun <= at <= end]
            assert written <= max([at, *under_way]) + 1.001

    run_virtual(main())


@pytest.mark.parametrize(
    ("grown", "writes"), [(10, []), (2 * KB, [(0, 2 * KB)])], ids=["a timer waits", "a write is under way"]
)
def test_close(grown: int, writes: list[tuple[float, int]]) -> None:
    """Nothing begins after it, whatever still comes; what is under way ends by itself."""

    async def main() -> None:
        answer = Growing(takes_s=(3,))
        answer.grow(grown)
        await asyncio.sleep(0.5)
        answer.grow(2 * KB if writes else 10)
        answer.checkpoints.close()
        answer.checkpoints.close()
        answer.grow(4 * KB)
        await asyncio.sleep(60)
        assert answer.begun == writes
        assert answer.ended == [begun + 3 for begun, _ in writes]

    run_virtual(main())


def test_a_write_is_held_by_its_owner() -> None:
    async def main() -> None:
        answer = Growing(takes_s=(3,))
        answer.grow(2 * KB)
        answer.checkpoints.close()
        await answer.tasks.drain(10)
        assert answer.ended == [3]

    run_virtual(main())


def test_a_write_that_failed_is_tried_again_without_growth() -> None:
    async def main() -> None:
        answer = Growing(fails=(0, 1))
        answer.grow(2 * KB)
        await asyncio.sleep(60)
        assert answer.begun == [(0, 2 * KB), (1, 2 * KB), (2, 2 * KB)]

    run_virtual(main())


def test_a_cancelled_write_begins_no_other() -> None:
    async def main() -> None:
        answer = Growing(takes_s=(4, 4))
        answer.grow(2 * KB)
        await asyncio.sleep(0.1)
        answer.grow(2 * KB)
        await answer.tasks.drain(0)
        assert len(answer.begun) == 1

    run_virtual(main())
