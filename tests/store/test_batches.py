"""Group commit, in virtual time: each write is told when to end by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from odysseus.store.batches import Batches
from odysseus.tasks import Tasks
from tests.virtual_time import now, run_virtual

WRITE_S = 1.0


class Disk:
    """Takes `WRITE_S` for each write, and fails those that hold an item from `bad`, with *error*."""

    def __init__(self, *bad: str, error: type[OSError] = OSError) -> None:
        self.bad = set(bad)
        self.error = error
        self.writes: list[tuple[float, list[str]]] = []
        """When each began, and what it was given."""
        self.ended: list[float] = []
        self._busy = False

    async def write(self, items: Sequence[str]) -> Sequence[str]:
        assert not self._busy, "one time after the other"
        self._busy = True
        self.writes.append((now(), list(items)))
        try:
            await asyncio.sleep(WRITE_S)
            if failing := self.bad.intersection(items):
                raise self.error(*failing)
            return [item.upper() for item in items]
        finally:
            self._busy = False
            self.ended.append(now())


class Desk:
    """Adds items, each from a task of its own, and notes what became of it."""

    def __init__(self, disk: Disk) -> None:
        self.tasks = Tasks()
        self.batches = Batches(disk.write, self.tasks)
        self.outcomes: dict[str, tuple[float, str]] = {}
        self._adding: list[asyncio.Task[None]] = []

    def add(self, *items: str) -> list[asyncio.Task[None]]:
        tasks = [asyncio.create_task(self._add(item)) for item in items]
        self._adding += tasks
        return tasks

    async def all(self) -> dict[str, tuple[float, str]]:
        """Wait for everything that was added; return when each came back, and how."""
        await asyncio.gather(*self._adding, return_exceptions=True)
        return self.outcomes

    async def _add(self, item: str) -> None:
        try:
            assert await self.batches.add(item) == item.upper()
            outcome = "written"
        except OSError as error:
            outcome = f"failed with {error}"
        except asyncio.CancelledError:
            outcome = "cancelled"
        self.outcomes[item] = now(), outcome


def test_what_comes_during_a_write_goes_together_in_the_next() -> None:
    async def main() -> None:
        disk = Disk()
        desk = Desk(disk)
        desk.add("a")
        for item in "bcd":
            await asyncio.sleep(0.25)
            desk.add(item)
        assert await desk.all() == {"a": (1, "written")} | dict.fromkeys("bcd", (2, "written"))
        assert disk.writes == [(0, ["a"]), (1, ["b", "c", "d"])]

    run_virtual(main())


def test_what_comes_at_once_goes_in_hundreds() -> None:
    """In the order it came in, which says which of an answer's checkpoints is the newest."""

    async def main() -> None:
        disk = Disk()
        desk = Desk(disk)
        items = [f"{number}" for number in range(250)]
        desk.add(*items)
        await desk.all()
        assert disk.writes == [(0, items[:100]), (WRITE_S, items[100:200]), (2 * WRITE_S, items[200:])]

    run_virtual(main())


def test_nothing_is_written_before_it_came_or_twice() -> None:
    """Many items over many writes: each is in exactly one, which begins after it came, and none of them is held up."""

    async def main() -> None:
        disk = Disk()
        desk = Desk(disk)
        came: dict[str, float] = {}
        for number in range(200):
            came[item := f"{number}"] = now()
            desk.add(item)
            await asyncio.sleep(0.037)
        outcomes = await desk.all()
        assert [item for _, items in disk.writes for item in items] == list(came)
        for begun, items in disk.writes:
            for item in items:
                assert came[item] <= begun <= came[item] + WRITE_S
                assert outcomes[item] == (round(begun + WRITE_S, 3), "written")

    run_virtual(main())


def test_a_write_alone_waits_for_nobody() -> None:
    async def main() -> None:
        disk = Disk()
        batches = Batches(disk.write, Tasks())
        for item in "abc":
            await batches.add(item)
            await asyncio.sleep(5)
        assert disk.writes == [(0, ["a"]), (6, ["b"]), (12, ["c"])]

    run_virtual(main())


def test_one_that_cannot_be_written_takes_no_other_down() -> None:
    """Each of its write is then written alone, and the next write goes its way."""

    async def main() -> None:
        disk = Disk("c")
        desk = Desk(disk)
        desk.add("a")
        await asyncio.sleep(0.5)
        desk.add("b", "c", "d")
        await asyncio.sleep(1)
        desk.add("e", "f")
        outcomes = await desk.all()
        assert [outcomes[item] for item in "abcd"] == [
            (1, "written"),
            (3, "written"),
            (4, "failed with c"),
            (5, "written"),
        ]
        assert {outcomes[item] for item in "ef"} == {(6, "written")}
        assert disk.writes[1:] == [(1, ["b", "c", "d"]), (2, ["b"]), (3, ["c"]), (4, ["d"]), (5, ["e", "f"])]

    run_virtual(main())


def test_a_write_that_takes_too_long_is_not_repeated_for_each() -> None:
    async def main() -> None:
        disk = Disk("c", error=TimeoutError)
        desk = Desk(disk)
        desk.add("b", "c", "d")
        assert await desk.all() == dict.fromkeys("bcd", (1, "failed with c"))
        assert len(disk.writes) == 1

    run_virtual(main())


@pytest.mark.parametrize("bad", ["", "a", "b"])
@pytest.mark.parametrize("when_s", [0, 0.5, 1.5], ids=["at once", "waiting", "writing"])
def test_a_cancelled_add_leaves_the_write_alone(when_s: float, bad: str) -> None:
    """It returns at once; what it added is written all the same, and its neighbours notice nothing. That also holds for
    the one whose call began the write, as this one's did."""

    async def main() -> None:
        disk = Disk(bad, error=TimeoutError)
        desk = Desk(disk)
        desk.add("first")
        await asyncio.sleep(0.25)
        leaving, _, _ = desk.add("a", "b", "c")
        await asyncio.sleep(when_s)
        leaving.cancel()
        outcomes = await desk.all()
        assert disk.writes == [(0, ["first"]), (1, ["a", "b", "c"])]
        assert outcomes["a"] == (0.25 + when_s, "cancelled")
        assert {outcomes[item] for item in "bc"} == {(2, f"failed with {bad}" if bad else "written")}

    run_virtual(main())


@pytest.mark.parametrize("bad", ["", "a"])
def test_everybody_has_left(bad: str) -> None:
    """A write that fails then is no complaint of asyncio's, which `run_virtual` would raise."""

    async def main() -> None:
        disk = Disk(bad, error=TimeoutError)
        desk = Desk(disk)
        leaving = desk.add("a", "b")
        await asyncio.sleep(0.5)
        for task in leaving:
            task.cancel()
        await desk.all()
        assert (now(), disk.ended) == (0.5, [])
        await desk.batches.add("c")
        assert disk.writes == [(0, ["a", "b"]), (1, ["c"])]

    run_virtual(main())


def test_nobody_waits_for_a_write_that_is_cancelled() -> None:
    """As it is when the service goes down and the database doesn't answer: also those come back whose turn was next."""

    async def main() -> None:
        disk = Disk()
        desk = Desk(disk)
        desk.add("a", "b")
        await asyncio.sleep(0.25)
        desk.add("c")
        await asyncio.sleep(0.25)
        await desk.tasks.drain(0.25)
        assert await desk.all() == dict.fromkeys("abc", (0.75, "cancelled"))
        await desk.batches.add("d")
        assert disk.writes[-1][1][-1] == "d"

    run_virtual(main())
