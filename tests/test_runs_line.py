"""A session's line: busy sessions, refused openings, stops that overtake their run, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from odysseus.errors import Busy, Draining, StoppedBeforeStart, StoreError
from odysseus.run import Run
from odysseus.runs import IfBusy, Runs
from odysseus.states import Ending, StopReason
from tests.scenes import Client, Script, Steps, assert_at_rest, at_every_step, collect, virtual, watch
from tests.virtual_time import now

QUEUE, REPLACE = IfBusy.QUEUE, IfBusy.REPLACE
LIFETIMES = pytest.mark.parametrize("direct", [False, True], ids=["detached", "direct"])


def launch(runs: Runs[str], script: Script, run_id: str, if_busy: IfBusy, *, direct: bool) -> asyncio.Task[object]:
    """Start a run in either lifetime; the task ends with it, and raises what its opening raised."""

    async def detached() -> None:
        run = script.start(runs, run_id, if_busy=if_busy)
        await asyncio.shield(run.task)
        await run.wait_accepted()

    return asyncio.create_task(script.direct(runs, Client(), run_id, if_busy=if_busy) if direct else detached())


def assert_one_by_one(*scripts: Script) -> None:
    """None was pulled before the save of one that was pulled before it."""
    spans = sorted((script.at("pulled"), script.at("saved")) for script in scripts if "pulled" in script.notes)
    assert all(saved <= pulled for (_, saved), (pulled, _) in zip(spans, spans[1:], strict=False))


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


def _withdraw(runs: Runs[str]) -> None:
    if (run := runs.get("1")) is not None:
        runs.stop_run(run)


ACTS: dict[str, Callable[[Runs[str]], object]] = {
    "stop the session": partial(Runs.stop, session_id="s"),
    "withdraw the second": _withdraw,
    "replace them": lambda runs: Script("new").start(runs, "new", if_busy=REPLACE),
    "one more": lambda runs: Script("new").start(runs, "new", if_busy=QUEUE),
}


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("refused", [None, 0, 1, 2])
@LIFETIMES
def test_a_line_at_every_step(act: str, refused: int | None, direct: bool) -> None:
    """Three runs in a line, any one of which may be refused: one at a time, in order, each saved once."""

    async def scene(steps: Steps) -> None:
        runs = Runs[str]()
        scripts = [
            Script("ab", opening_s=0.15, closing_s=0.1, refuses=StoreError("no") if nth == refused else None)
            for nth in range(3)
        ]
        over = False
        steps.arm(lambda: over or ACTS[act](runs))
        launched = [
            launch(runs, script, str(nth), QUEUE, direct=direct ^ (nth == 1)) for nth, script in enumerate(scripts)
        ]
        done = await asyncio.gather(*launched, return_exceptions=True)
        while (new := runs.latest("s")) is not None and not new.ended.is_set():
            await new.ended.wait()
        over = True
        for nth, script in enumerate(scripts):
            if nth == refused:
                assert script.notes == ["opening"]
                assert isinstance(done[nth], StoreError)
                assert runs.get(str(nth)) is None
            else:
                pulled = ["pulled", "closed"] if "pulled" in script.notes else []
                assert script.notes == ["opening", "opened", *pulled, "closing", "saved"]
        assert_one_by_one(*scripts)
        reasons = [ending.stop_reason for script in scripts for ending, _ in script.endings]
        assert set(reasons) <= {None, StopReason.USER_STOP, StopReason.REPLACED}
        if act == "one more":
            assert set(reasons) == {None}
        if runs.get("new") is not None:
            assert await collect(runs) == [*"new"]
        await assert_at_rest(runs)

    assert at_every_step(scene) > 60
