from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odysseus.tasks import Tasks
from tests.virtual_time import now, run_virtual


def test_spawned_work_is_held() -> None:
    """The work waits for a future that nobody else knows, so `Tasks` alone keeps the two from the collector."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def work(waits_for: asyncio.Future[str]) -> str:
            return await waits_for

        tasks = Tasks()
        known, task = weakref.ref(future), weakref.ref(tasks.spawn(work(future)))
        await asyncio.sleep(0)
        del future
        gc.collect()
        held = known()
        assert held is not None, "kept while it waits"
        held.set_result("done")
        await tasks.drain(1)
        gc.collect()
        assert task() is None, "let go when it has ended"

    run_virtual(main())


def test_spawn_returns_the_task() -> None:
    async def main() -> tuple[str, float]:
        return await Tasks().spawn(asyncio.sleep(3, "done")), now()

    assert run_virtual(main()) == ("done", 3)


def test_a_cancelled_caller_of_shielded_work_leaves_it_at_once() -> None:
    async def main() -> None:
        tasks = Tasks()
        ended: list[float] = []

        async def work() -> str:
            await asyncio.sleep(3)
            ended.append(now())
            return "done"

        assert await tasks.shielded(work()) == "done"
        caller = asyncio.create_task(tasks.shielded(work()))
        await asyncio.sleep(1)
        caller.cancel()
        await asyncio.wait({caller})
        assert (caller.cancelled(), now()) == (True, 4)
        await tasks.drain(10)
        assert ended == [3, 6]

    run_virtual(main())


def test_finish_gives_what_the_work_gives() -> None:
    async def main() -> tuple[str, float]:
        return await Tasks().finish(asyncio.sleep(3, "done")), now()

    assert run_virtual(main()) == ("done", 3)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), max_size=8).map(sorted), st.booleans())
def test_finish_outlives_any_cancels(cancels: list[int], fails: bool) -> None:
    """Cancels at any second, also the one in which the work ends: it ends once and in time, then they go on up."""
    ended: list[float] = []

    async def work() -> str:
        await asyncio.sleep(5)
        ended.append(now())
        if fails:
            raise LookupError
        return "done"

    async def main() -> tuple[str, float, bool]:
        caller = asyncio.create_task(Tasks().finish(work()))
        await asyncio.sleep(0)  # a task that is cancelled before its first step never runs
        cancelled = False
        for second in cancels:
            await asyncio.sleep(second - now())
            cancelled |= caller.cancel()
        await asyncio.wait({caller})
        if caller.cancelled():
            return "cancelled", now(), cancelled
        return "failed" if caller.exception() else caller.result(), now(), cancelled

    outcome, at, cancelled = run_virtual(main())
    assert outcome == ("cancelled" if cancelled else "failed" if fails else "done")
    assert (ended, at) == ([5], max(5, *cancels, 0))


def test_finish_raises_the_error_of_the_work() -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        raise LookupError("the work's")

    with pytest.raises(LookupError, match="the work's"):
        run_virtual(Tasks().finish(work()))


def test_finish_logs_the_error_of_the_work_when_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        await asyncio.sleep(1)
        raise LookupError("the work's")

    async def main() -> None:
        caller = asyncio.create_task(Tasks().finish(work()))
        await asyncio.sleep(0)
        caller.cancel("the caller's")
        with pytest.raises(asyncio.CancelledError, match="the caller's"):
            await caller

    run_virtual(main())
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], LookupError)


def test_a_time_limit_around_finish_is_obeyed_late() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await Tasks().finish(asyncio.sleep(3))
        return now()

    assert run_virtual(main()) == 3


def test_drain_waits_for_what_ends_in_time_and_cancels_the_late(caplog: pytest.LogCaptureFixture) -> None:
    log: list[tuple[str, float]] = []

    async def work(name: str, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            log.append((name, now()))
        except asyncio.CancelledError:
            log.append((f"{name} cancelled", now()))
            raise

    async def main() -> float:
        tasks = Tasks()
        for name, seconds in (("early", 1), ("in time", 9.9), ("late", 11)):
            tasks.spawn(work(name, seconds))
        await tasks.drain(10)
        return now()

    assert run_virtual(main()) == 10
    assert log == [("early", 1), ("in time", 9.9), ("late cancelled", 10)]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("seconds", "drained"), [((), 0), ((1, 2), 2)])
def test_drain_ends_as_soon_as_the_work(seconds: tuple[float, ...], drained: float) -> None:
    async def main() -> float:
        tasks = Tasks()
        for each in seconds:
            tasks.spawn(asyncio.sleep(each))
        await tasks.drain(10)
        return now()

    assert run_virtual(main()) == drained


@pytest.mark.parametrize(("cleanup", "drained"), [(0.5, 10.5), (60, 11)])
def test_drain_gives_the_late_a_second_to_clean_up(cleanup: float, drained: float) -> None:
    async def work() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(cleanup)

    async def main() -> float:
        tasks = Tasks()
        tasks.spawn(work())
        await tasks.drain(10)
        return now()

    assert run_virtual(main(), strict=False) == drained


def test_drain_is_not_hurt_by_failing_work() -> None:
    async def work() -> None:
        raise LookupError

    async def main() -> None:
        tasks = Tasks()
        failing = tasks.spawn(work())
        await tasks.drain(10)
        assert isinstance(failing.exception(), LookupError)

    run_virtual(main())


def test_drain_waits_for_what_was_spawned_meanwhile() -> None:
    async def main() -> None:
        tasks = Tasks()
        saved: list[float] = []

        async def save() -> None:
            await asyncio.sleep(1)
            saved.append(now())

        async def run() -> None:
            await asyncio.sleep(0.1)
            tasks.spawn(save())

        tasks.spawn(run())
        await tasks.drain(10)
        assert saved == [1.1]

    run_virtual(main())
