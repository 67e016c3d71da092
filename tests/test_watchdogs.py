"""What ends a run by itself: silence, its age, and that nobody watches."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from odysseus.run import Limits, Run
from odysseus.runs import IfBusy, Runs
from odysseus.states import StopReason
from tests.scenes import Client, Script, assert_at_rest, virtual, watch
from tests.virtual_time import now

LIFETIMES = pytest.mark.parametrize("direct", [False, True], ids=["detached", "direct"])
IDLE, WALL = StopReason.IDLE_TIMEOUT, StopReason.WALL_CLOCK_TIMEOUT
WATCHED: dict[str, tuple[Limits, dict[str, Any], StopReason | None, float]] = {
    "frames postpone": (Limits(idle_timeout_s=1), {"frames": "abcdef", "pause_s": 0.9}, None, 5.4),
    "silence at the start": (Limits(idle_timeout_s=1), {"pause_s": 9}, IDLE, 1),
    "silence in the middle": (Limits(idle_timeout_s=1), {"ends": ...}, IDLE, 1.3),
    "a late frame": (Limits(idle_timeout_s=1), {"pause_s": 0.95, "ends": ...}, IDLE, 3.85),
    "too long": (Limits(wall_clock_timeout_s=2), {"frames": "a" * 99, "pause_s": 0.3}, WALL, 2),
    "in time": (Limits(wall_clock_timeout_s=2), {"pause_s": 0.6}, None, 1.8),
    "whichever is first": (Limits(idle_timeout_s=1, wall_clock_timeout_s=1.25), {"ends": ...}, WALL, 1.25),
}


@pytest.mark.parametrize("case", WATCHED)
@LIFETIMES
@virtual
async def test_the_watchdogs(case: str, direct: bool) -> None:
    limits, what, reason, ended_at = WATCHED[case]
    runs, script = Runs[str](limits), Script(**what)
    if direct:
        await script.direct(runs, Client())
    else:
        await script.start(runs).task
    assert [ending.stop_reason for ending, _ in script.endings] == [reason]
    assert script.at("closed") == script.at("closing") == ended_at


@virtual
async def test_a_stuck_client_is_silence() -> None:
    runs, script = Runs[str](Limits(idle_timeout_s=1)), Script("abc")
    caller = asyncio.create_task(script.direct(runs, Client(pause_s=5)))
    await asyncio.sleep(7)
    assert [ending.stop_reason for ending, _ in script.endings] == [IDLE]
    assert script.at("closed") == 6.1  # opened after 5 s, the frame came 0.1 s later
    assert (await caller).ended.is_set()


@virtual
async def test_the_watchdogs_sleep_while_a_run_waits() -> None:
    runs = Runs[str](Limits(idle_timeout_s=1, wall_clock_timeout_s=2))
    Script("abc", pause_s=0.6, closing_s=30).start(runs, "first")
    second = Script("a", pause_s=0.9, opening_s=5).start(runs, if_busy=IfBusy.QUEUE)
    await second.task
    assert (second.stop_reason, now()) == (None, 32.7)
    await asyncio.sleep(5)  # nor do they stay when it has ended
    assert second.status == "done"


ALONE = Limits(unattended_limit_s=10)


async def visit(runs: Runs[str], run: Run[str], *, comes_s: float, stays_s: float) -> None:
    await asyncio.sleep(comes_s)
    with runs.reader(run):
        await asyncio.sleep(stays_s)


@pytest.mark.parametrize(
    ("visits", "ended_at"),
    [
        ([], 10),
        ([(0, 3)], 13),
        ([(9, 0.5)], 19.5),
        ([(9, 1000)], 1019),
        ([(1, 2), (2, 30), (5, 1)], 42),  # the last one counts, not the one that came last
        ([(0, 9), (18, 1), (28, 1)], 39),
        ([(0, 9), (20, 100)], 19),
    ],
)
@virtual
async def test_an_unattended_run_is_stopped(visits: list[tuple[float, float]], ended_at: float) -> None:
    """Its frames change nothing: it works for nobody."""
    runs, script = Runs[str](ALONE), Script("x" * 5000, pause_s=0.3)
    run = script.start(runs)
    coming = [asyncio.create_task(visit(runs, run, comes_s=comes, stays_s=stays)) for comes, stays in visits]
    await run.task
    assert (run.status, run.stop_reason, script.at("closed")) == ("stopped", "unattended", ended_at)
    await asyncio.gather(*coming)
    await assert_at_rest(runs)


@virtual
async def test_who_is_in_time_is_not_unattended() -> None:
    runs, script = Runs[str](ALONE), Script("x" * 50, pause_s=1)
    run = script.start(runs)
    visits = [asyncio.create_task(visit(runs, run, comes_s=9.5 * n, stays_s=0.1)) for n in range(1, 5)]
    await run.task
    await asyncio.gather(*visits)
    assert (run.status, now()) == ("stopped", 48.1)  # 10 s after the last visit
    short = Script("x" * 9, pause_s=1).start(runs, "short")
    await short.task
    await asyncio.sleep(100)
    assert short.status == "done"


@virtual
async def test_nobody_needs_to_attend_what_waits() -> None:
    """In line a run costs nothing; its time begins when it is pulled, whoever came and went before."""
    runs = Runs[str](ALONE)
    first = Script("x" * 500, pause_s=0.1).start(runs, "first")
    watching = asyncio.create_task(watch(runs, first))
    script = Script(ends=...)
    second = script.start(runs, "second", if_busy=IfBusy.QUEUE)
    await visit(runs, second, comes_s=1, stays_s=1)
    await second.task
    assert (first.status, second.stop_reason, script.at("closed")) == ("done", "unattended", 60)
    await watching


@pytest.mark.parametrize("limits", [ALONE, Limits()], ids=["direct", "off"])
@virtual
async def test_runs_that_are_never_unattended(limits: Limits) -> None:
    """A direct run, which has its one client; and every run, unless somebody wants it."""
    runs, script = Runs[str](limits), Script("x" * 100, pause_s=1)
    run = await script.direct(runs, Client(pause_s=1)) if limits is ALONE else script.start(runs)
    await run.ended.wait()
    assert run.status == "done"
