"""A session's line: busy sessions, refused openings, stops that overtake their run, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from odysseus.errors import Busy, Draining, StoppedBeforeStart, StoreError
from odysseus.runs import IfBusy, Runs
from odysseus.states import Ending, StopReason
from tests.scenes import Client, Script, Steps, assert_at_rest, at_every_step, collect, virtual, watch
from tests.virtual_time import now

QUEUE, REPLACE = IfBusy.QUEUE, IfBusy.REPLACE
LIFETIMES = pytest.mark.parametrize("direct", [False, True], ids=["detached", "direct"])


def launch(
    runs: Runs[str], script: Script, run_id: str, if_busy: IfBusy, *, direct: bool, client: Client | None = None
) -> asyncio.Task[object]:
    """Start a run in either lifetime; the task ends with it, and raises what its opening raised."""

    async def detached() -> None:
        run = script.start(runs, run_id, if_busy=if_busy)
        await asyncio.shield(run.task)
        await run.wait_accepted()

    if not direct:
        return asyncio.create_task(detached())
    return asyncio.create_task(script.direct(runs, client or Client(), run_id, if_busy=if_busy))


def assert_one_by_one(*scripts: Script) -> None:
    """None was pulled before the save of one that was pulled before it."""
    spans = sorted((script.at("pulled"), script.at("saved")) for script in scripts if "pulled" in script.notes)
    assert all(saved <= pulled for (_, saved), (pulled, _) in pairwise(spans))


@LIFETIMES
@virtual
async def test_reject(direct: bool) -> None:
    """The one that is pulled is named, and nothing has happened to it."""
    runs, refused = Runs[str](), Script()
    run, waiting = Script().start(runs), Script().start(runs, "w", if_busy=QUEUE)
    with pytest.raises(Busy) as busy:
        await launch(runs, refused, "no", IfBusy.REJECT, direct=direct)
    assert busy.value.run_id == "r"
    assert (refused.journal, runs.get("no"), runs.latest("s")) == ([], None, waiting)
    await waiting.task
    assert run.status == waiting.status == "done"


@LIFETIMES
@virtual
async def test_replace(direct: bool) -> None:
    """The predecessors stop at once, the new one is accepted at once and pulled when they are saved."""
    runs, first, second, third = Runs[str](), Script(ends=..., closing_s=5), Script(), Script()
    run, waiting = first.start(runs), second.start(runs, "w", if_busy=QUEUE)
    await asyncio.sleep(1)
    await launch(runs, third, "new", REPLACE, direct=direct)
    assert run.stop_reason == waiting.stop_reason == "replaced"
    assert first.at("closed") == first.at("closing") == third.at("opened") == second.at("saved") == 1
    assert first.at("saved") == third.at("pulled") == 6
    assert "pulled" not in second.notes
    assert [ending for ending, _ in third.endings] == [Ending()]
    await assert_at_rest(runs)


@LIFETIMES
@pytest.mark.parametrize("if_busy", [QUEUE, REPLACE])
@virtual
async def test_a_run_that_waits_can_be_stopped(if_busy: IfBusy, direct: bool) -> None:
    """It ends like any other, without its predecessor; the one behind it waits on."""
    runs, first, second, third = Runs[str](), Script(pause_s=1, closing_s=5), Script(), Script()
    first.start(runs)
    await asyncio.sleep(1.5)
    launched = launch(runs, second, "second", if_busy, direct=direct)
    await asyncio.sleep(0.5)
    waiting = runs.get("second")
    assert waiting is not None
    last = third.start(runs, "third", if_busy=QUEUE)
    reader = asyncio.create_task(watch(runs, waiting))
    assert runs.stop_run(waiting)
    await launched
    assert (await reader, now()) == (["last", "end user_stop"], 2)
    assert second.notes == ["opening", "opened", "closing", "saved"]
    await last.task
    assert third.at("pulled") == first.at("saved") == (8 if if_busy is QUEUE else 6.5)
    assert last.status == "done"


@virtual
async def test_the_head_of_the_line_is_current() -> None:
    runs = Runs[str]()
    line = [Script("1").start(runs, "1"), Script("2").start(runs, "2", if_busy=QUEUE)]
    assert (runs.live("s"), runs.current("s"), runs.latest("s")) == ((*line,), line[0], line[1])
    assert await collect(runs) == ["1", "last", "end None"]
    assert (runs.live("s"), runs.current("s")) == ((line[1],), line[1])
    assert await collect(runs) == ["2", "last", "end None"]
    await line[1].task


def _withdraw(runs: Runs[str], _: Script) -> None:
    if (run := runs.get("1")) is not None:
        runs.stop_run(run)


ACTS: dict[str, tuple[StopReason | None, Callable[[Runs[str], Script], object]]] = {
    "stop the session": (StopReason.USER_STOP, lambda runs, extra: runs.stop("s")),
    "withdraw the second": (StopReason.USER_STOP, _withdraw),
    "replace them": (StopReason.REPLACED, lambda runs, extra: extra.start(runs, "extra", if_busy=REPLACE)),
    "one more": (None, lambda runs, extra: extra.start(runs, "extra", if_busy=QUEUE)),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("refused", [None, 0, 1, 2])
@LIFETIMES
def test_a_line_at_every_step(act: str, refused: int | None, direct: bool) -> None:
    """Three runs in a line, any one of which may be refused: one at a time, in order, each saved once."""
    reason, do = ACTS[act]

    async def scene(steps: Steps) -> None:
        runs, extra = Runs[str](), Script("e", closing_s=0.1)
        scripts = [
            Script("ab", opening_s=0.15, closing_s=0.1, refuses=StoreError("no") if nth == refused else None)
            for nth in range(3)
        ]
        steps.arm(lambda: do(runs, extra))
        launched = [
            launch(runs, script, str(nth), QUEUE, direct=direct ^ (nth == 1)) for nth, script in enumerate(scripts)
        ]
        results = await asyncio.gather(*launched, return_exceptions=True)
        if (more := runs.get("extra")) is not None:
            await more.task
        steps.disarm()
        assert [isinstance(result, StoreError) for result in results] == [nth == refused for nth in range(3)]
        for script in [*scripts, extra]:
            pulled = ["pulled", "closed"] if "pulled" in script.notes else []
            assert script.notes in ([], ["opening"], ["opening", "opened", *pulled, "closing", "saved"])
            assert bool(script.notes) is (script is not extra or more is not None)
            assert (script.notes == ["opening"]) is (script.refuses is not None)
        assert_one_by_one(*scripts, extra)
        assert {ending.stop_reason for script in scripts for ending, _ in script.endings} <= {None, reason}
        assert [ending for ending, _ in extra.endings] == ([] if more is None else [Ending()])
        assert {run.id for run in runs.all()} == {"0", "1", "2", "extra"} - {str(refused)} - (
            {"extra"} if more is None else set()
        )
        await assert_at_rest(runs)

    assert at_every_step(scene) > 40


@LIFETIMES
@virtual
async def test_a_refused_opening(direct: bool) -> None:
    """Nothing has happened: no frame, no save, no run, no ending; the one before it is the latest again."""
    runs, refused = Runs[str](), Script(opening_s=1, refuses=StoreError("the disk is full"))
    run = Script().start(runs)
    await run.task
    launched = launch(runs, refused, "no", IfBusy.REJECT, direct=direct, client=(client := Client()))
    await asyncio.sleep(0.5)
    live = runs.latest("s")
    assert live is not None and live.id == "no"
    reader = asyncio.create_task(collect(runs))
    with pytest.raises(StoreError, match="the disk is full"):
        await launched
    assert await reader == []
    assert (refused.notes, client.calls) == (["opening"], [])
    assert (runs.get("no"), runs.latest("s"), runs.current("s"), runs.all()) == (None, run, run, (run,))
    assert runs.endings == {Ending(): 1}
    assert await collect(runs) == ["a", "b", "c", "last", "end None"]
    again = Script().start(runs, "no")
    await again.wait_accepted()
    await again.task
    await asyncio.sleep(1000)
    assert runs.all() == ()


@LIFETIMES
def test_a_stop_changes_nothing_about_a_refusal(direct: bool) -> None:
    async def scene(steps: Steps) -> None:
        runs, script = Runs[str](), Script(opening_s=0.1, refuses=StoreError("no"))
        steps.arm(lambda: runs.stop("s"))
        with pytest.raises(StoreError):
            await launch(runs, script, "r", IfBusy.REJECT, direct=direct)
        steps.disarm()
        assert script.notes == ["opening"]
        await assert_at_rest(runs)

    at_every_step(scene)


@LIFETIMES
@virtual
async def test_a_client_that_leaves_before_a_refusal(direct: bool) -> None:
    runs, script = Runs[str](), Script(opening_s=1, refuses=StoreError("no"))
    launched = launch(runs, script, "r", IfBusy.REJECT, direct=direct)
    await asyncio.sleep(0.5)
    launched.cancel()
    await asyncio.wait({launched})
    assert launched.cancelled()
    await asyncio.sleep(1)
    assert (script.notes, runs.all()) == (["opening"], ())
    await assert_at_rest(runs)


@LIFETIMES
@virtual
async def test_a_stop_that_overtakes_its_run(direct: bool) -> None:
    """It is remembered for a minute, for that id alone."""
    runs, script = Runs[str](), Script()
    runs.stop_unborn("early")
    for after_s in (0, 59.9):
        await asyncio.sleep(after_s)
        with pytest.raises(StoppedBeforeStart) as refused:
            await launch(runs, script, "early", IfBusy.REJECT, direct=direct)
        assert refused.value.run_id == "early"
    assert (script.journal, runs.all()) == ([], ())
    await Script().start(runs, "other").task
    await launch(runs, script, "early", IfBusy.REJECT, direct=direct)
    assert "saved" in script.notes


@virtual
async def test_early_stops_are_bounded_and_renewed() -> None:
    runs = Runs[str]()
    for name in ("renewed", "old", "renewed"):
        runs.stop_unborn(name)
        await asyncio.sleep(20)
    for nth in range(9_999):
        runs.stop_unborn(f"{nth}")
    for name in ("renewed", "0", "9998"):
        with pytest.raises(StoppedBeforeStart):
            Script().start(runs, name)
    await Script().start(runs, "old").task
    await asyncio.sleep(50)
    runs.stop_unborn("last")
    await Script().start(runs, "renewed").task
    await asyncio.sleep(50)
    runs.stop_unborn("last")
    assert len(runs._tombstones._until) == 1


# What runs of these lengths and saves of these lengths come to, with a grace of 5 s and a limit of 3 s:
# seconds a run takes, seconds its save takes, hurry at, -> its stop reason, drained, at
SHUTDOWN = StopReason.SHUTDOWN
DRAINS: dict[str, tuple[float, float, float | None, StopReason | None, bool, float]] = {
    "ends by itself": (4, 0.5, None, None, True, 4.5),
    "is saved within the grace": (4, 1, None, None, True, 5),
    "is still being saved at its end": (4.5, 2, None, None, True, 6.5),
    "takes too long": (9, 2, None, SHUTDOWN, True, 7),
    "can't be saved in time": (9, 4, None, SHUTDOWN, False, 8),
    "is hurried": (9, 2, 1, SHUTDOWN, True, 3),
    "is hurried, but being saved": (1, 2, 1.5, None, True, 3),
    "is hurried too late": (9, 2, 6, SHUTDOWN, True, 7),
    "is hurried when it is over": (1, 1, 2.5, None, True, 2),
}


@pytest.mark.parametrize("case", DRAINS)
@LIFETIMES
@virtual
async def test_drain(case: str, direct: bool) -> None:
    run_s, save_s, hurry_at, reason, drained, at = DRAINS[case]
    runs, script = Runs[str](), Script("a", pause_s=run_s, closing_s=save_s)
    if hurry_at is not None:
        asyncio.get_running_loop().call_at(hurry_at, runs.hurry)
    launched = launch(runs, script, "r", IfBusy.REJECT, direct=direct)
    await asyncio.sleep(0)
    assert not runs.draining
    assert await runs.drain(5, 3) is drained
    assert now() == at
    for if_busy in IfBusy:
        with pytest.raises(Draining):
            await launch(runs, Script(), "late", if_busy, direct=direct)
    await launched
    assert [ending.stop_reason for ending, _ in script.endings] == [reason]
    assert runs.draining
    await asyncio.sleep(9)


@virtual
async def test_drain_without_runs_is_done() -> None:
    runs = Runs[str]()
    runs.hurry()
    assert await runs.drain(60, 60)
    runs.hurry()
    assert (now(), runs.draining) == (0, True)


@virtual
async def test_a_second_drain_waits_for_nothing() -> None:
    """It is called twice at a stop: what has outlived the first one's limit isn't waited for again."""
    runs = Runs[str]()
    run = Script("a", closing_s=100).start(runs)
    assert not await runs.drain(1, 3)
    at = now()
    assert not await runs.drain(1, 3)
    assert now() == at
    await run.ended.wait()


@virtual
async def test_drain_ends_every_line() -> None:
    """Accepted means accepted: what waits is pulled while the grace lasts, then ends like the rest."""
    runs = Runs[str]()
    scripts = [Script("ab", pause_s=1, closing_s=0.5) for _ in range(4)]
    for nth, script in enumerate(scripts):
        script.start(runs, str(nth), if_busy=QUEUE)
    other = Script(ends=...).start(runs, "other", "other")
    assert await runs.drain(6, 1)
    assert [ending.stop_reason for script in scripts for ending, _ in script.endings] == [None, None, *[SHUTDOWN] * 2]
    assert ("pulled" in scripts[2].notes, "pulled" in scripts[3].notes, now()) == (True, False, 6.5)
    assert_one_by_one(*scripts)
    await other.task
    await asyncio.sleep(0)


def test_hurry_at_every_step_of_a_drain() -> None:
    """It may come at any time, and again: only the grace is cut."""

    async def scene(steps: Steps) -> None:
        runs, script = Runs[str](), Script("ab", ends=..., closing_s=1)

        def hurry_twice() -> None:
            runs.hurry()
            runs.hurry()

        steps.arm(hurry_twice)
        run = script.start(runs)
        assert await runs.drain(2, 2)
        assert (script.notes[-1], run.stop_reason) == ("saved", SHUTDOWN)
        await run.task

    assert at_every_step(scene) > 10
