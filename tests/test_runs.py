"""Runs as their readers see them: the contract, replay from anywhere, subscribers of all kinds, limits, eviction."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, aclosing
from typing import Any

import pytest

from odysseus.errors import NotFound, TooMany, UpstreamError
from odysseus.replay import Frame, event_id
from odysseus.run import Limits, Run
from odysseus.runs import Runs
from odysseus.states import Ending, StopReason
from tests.scenes import Client, Script, Steps, assert_at_rest, at_every_step, collect, virtual, watch
from tests.virtual_time import now

ALL = ["a", "b", "c", "last", "end None"]


async def spoken(frames: Iterable[Frame], error: BaseException | None = None) -> AsyncGenerator[Frame, None]:
    for frame in frames:
        await asyncio.sleep(0.1)
        yield frame
    if error is not None:
        raise error


@pytest.mark.parametrize("frames", [["Hel", "lo"], [b"Hel", b"lo"]], ids=["str", "bytes"])
@virtual
async def test_the_contract(frames: list[Frame]) -> None:
    """DESIGN, section 4, line by line."""
    runs = Runs[Frame]()
    agen = spoken(frames)
    run = runs.start("session", agen)
    assert (run.status, run.session_id, run.task.done()) == ("streaming", "session", False)
    got = []
    async for frame in runs.subscribe("session"):
        got.append(frame)
    assert got == frames
    await run.task
    assert run.status == "done"
    assert runs.stop("session") is False
    assert await collect(runs, "session") == frames


@virtual
async def test_the_contract_of_a_stop_and_of_an_error() -> None:
    runs = Runs[str]()
    run = runs.start("s", spoken("abc"))
    async for _ in runs.subscribe("s"):
        break
    assert run.status == "streaming"
    assert runs.stop("s") is True
    await run.task
    assert (run.status, run.stop_reason) == ("stopped", "user_stop")
    assert await collect(runs) == ["a"]
    run = runs.start("s", spoken("ab", UpstreamError("upstream_status", "503")))
    await run.task
    assert (run.status, run.stop_reason) == ("error", "upstream_error")
    assert await collect(runs) == ["a", "b"]


@virtual
async def test_ids_are_new_unless_given() -> None:
    runs = Runs[str]()
    made = [runs.start(f"s{n}", spoken("")) for n in range(9)]
    named = runs.start("s", spoken(""), run_id="mine")
    assert len({run.id for run in made}) == 9
    assert named.id == "mine"
    with pytest.raises(ValueError, match="mine"):
        runs.start("other", spoken(""), run_id="mine")
    assert runs.latest("other") is None
    await asyncio.wait({run.task for run in (*made, named)})


@pytest.mark.parametrize("asked_at", [0.05, 0.15, 0.25, 0.35, 0.45, 9])
@pytest.mark.parametrize("seen", range(-1, 5))
@virtual
async def test_cut_at_every_event(seen: int, asked_at: float) -> None:
    """Whoever comes back with an id gets what stands after it, once, and everything for an id not given out yet."""
    runs = Runs[str]()
    run = Script(closing_s=0.2).start(runs)
    await asyncio.sleep(asked_at)
    given_out = len(run.log)
    rest = ALL[seen + 1 :] if seen < given_out else ALL
    assert await collect(runs, last_event_id=event_id(run.id, seen) if seen >= 0 else None) == rest
    await run.task


@pytest.mark.parametrize(
    "last_event_id", ["other.1", "r.9", "r.-1", "r.01", "r", "r.end", ".1", "", "1", "R.1", "r.1.1"]
)
@virtual
async def test_a_foreign_id_replays_from_the_start(last_event_id: str) -> None:
    runs = Runs[str]()
    run = Script().start(runs)
    await asyncio.sleep(0.25)
    assert await collect(runs, last_event_id=last_event_id) == ALL
    assert await collect(runs, last_event_id=last_event_id) == ALL
    await run.task


@pytest.mark.parametrize("cut", range(6))
@virtual
async def test_leaving_and_coming_back(cut: int) -> None:
    runs = Runs[str]()
    run = Script().start(runs)
    got: list[str] = []
    async with aclosing(runs.subscribe("s")) as frames:
        async for frame in frames:
            if len(got) == cut:
                break
            got.append(frame)
    assert run.subscribers == runs.subscribers == 0
    got += await collect(runs, last_event_id=event_id(run.id, len(got) - 1))
    assert got == ALL
    await run.task


def test_a_reader_vanishes_at_every_step() -> None:
    """Its run, and whoever else reads, see no difference."""

    async def scene(steps: Steps) -> None:
        runs, script = Runs[str](), Script(pause_s=0, closing_s=0.1)
        leaver: asyncio.Task[list[str]] | None = None
        steps.arm(lambda: leaver and leaver.cancel())
        run = script.start(runs)
        stayer, leaver = asyncio.create_task(watch(runs, run)), asyncio.create_task(collect(runs))
        await asyncio.wait({leaver})
        await run.task
        assert await stayer == ALL
        assert leaver.cancelled() or leaver.result() == ALL
        assert (now(), script.notes[-2:]) == (0.1, ["closing", "saved"])
        assert not run._waiters
        await assert_at_rest(runs)

    assert at_every_step(scene) > 20


@virtual
async def test_many_readers_of_every_pace() -> None:
    """Each gets everything, in its own time; the run ends when it would have ended alone."""
    runs, script = Runs[str](), Script("abcdefghij", pause_s=0.1)

    async def read(nth: int) -> list[str]:
        await asyncio.sleep(nth * 0.013)
        got = []
        async for frame in runs.subscribe("s"):
            await asyncio.sleep(nth % 7)
            got.append(frame)
        return got

    run = script.start(runs)
    readers = [asyncio.create_task(read(nth)) for nth in range(100)]
    await run.task
    assert now() == 1.0
    results = await asyncio.gather(*readers)
    assert all(result == [*"abcdefghij", "last", "end None"] for result in results)
    await assert_at_rest(runs)


@virtual
async def test_a_reader_that_never_reads_costs_nothing() -> None:
    """No queue, no waiter, no task: it is a number."""
    runs, tasks = Runs[str](), asyncio.all_tasks()
    run = Script("x" * 1000, pause_s=0.001).start(runs)
    with ExitStack() as stack:
        readers = [stack.enter_context(runs.reader(run)) for _ in range(500)]
        assert run.subscribers == runs.subscribers == 500
        await run.task
        assert now() == 1.0
        assert all(vars(reader) == {"feed": run, "seq": 0} for reader in readers)
        assert not run._waiters
        assert asyncio.all_tasks() == tasks
        assert len(await readers[7].read()) == 1002
    assert run.subscribers == runs.subscribers == 0


@virtual
async def test_a_long_backlog_comes_in_slices() -> None:
    """Few large reads, yet no second copy of a long log; a read that is cancelled has taken nothing."""
    runs = Runs[bytes]()
    frames = [b"%06d" % nth * 10_000 for nth in range(20)]  # 60 kB each
    run = runs.start("s", spoken(frames))
    with runs.reader(run) as reader:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read()
        assert not run._waiters
        await run.task
        slices = []
        while part := await reader.read():
            slices.append(list(part))
        assert [frame for part in slices for frame in part] == frames
        assert max(len(part) for part in slices) == 4
        assert not await reader.read()


@virtual
async def test_one_wake_up_a_burst() -> None:
    """Frames that come together are read together."""
    runs = Runs[str]()
    run = Script("abcdef", pause_s=0).start(runs)
    run_of_ten = runs.start("ten", spoken_at_once("0123456789"))
    with runs.reader(run_of_ten) as reader:
        assert await reader.read() == [*"0123456789"]
    await run.task
    await run_of_ten.task


async def spoken_at_once(frames: str) -> AsyncGenerator[str, None]:
    await asyncio.sleep(1)
    for frame in frames:
        yield frame


@virtual
async def test_finding_runs() -> None:
    runs = Runs[str]()
    with pytest.raises(NotFound):
        await collect(runs)
    assert (runs.get("r"), runs.latest("s"), runs.current("s"), runs.live("s"), runs.all()) == (
        None,
        None,
        None,
        (),
        (),
    )
    run = Script().start(runs)
    assert (runs.get("r"), runs.latest("s"), runs.current("s"), runs.live("s")) == (run, run, run, (run,))
    assert runs.all() == (run,)
    assert run.detached
    assert not runs.endings
    await run.task
    assert (runs.get("r"), runs.latest("s"), runs.current("s"), runs.live("s")) == (run, run, run, ())
    assert run.ended_at is not None
    assert run.started_at <= run.ended_at
    about = object()
    direct = await runs.direct("s", spoken("x"), Client(), about=about)
    assert (direct.about, direct.detached, runs.latest("s")) == (about, False, direct)
    assert runs.endings == {Ending(): 2}


@virtual
async def test_the_number_of_runs_is_bounded() -> None:
    """Live ones count, and only those."""
    runs = Runs[str](Limits(max_runs=2))
    assert runs.has_room
    first = [Script().start(runs, name, name) for name in "ab"]
    assert not runs.has_room
    with pytest.raises(TooMany) as refused:
        Script().start(runs, "c", "c")
    with pytest.raises(TooMany):
        await Script().direct(runs, Client(), "c", "c")
    assert refused.value.code == "too_many_runs"
    assert (runs.get("c"), runs.latest("c")) == (None, None)
    await first[0].task
    await asyncio.wait({run.task for run in first})
    await asyncio.wait({Script().start(runs, name, name).task for name in "cd"})


@virtual
async def test_the_number_of_subscribers_is_bounded() -> None:
    runs = Runs[str](Limits(max_subscribers=2))
    run, other = Script().start(runs), Script().start(runs, "o", "other")
    with runs.reader(run), runs.reader(other):
        with pytest.raises(TooMany) as refused, runs.reader(run):
            pass
        with pytest.raises(TooMany):
            await collect(runs)
        assert refused.value.code == "too_many_subscribers"
        assert (run.subscribers, other.subscribers, runs.subscribers) == (1, 1, 2)
    assert await collect(runs) == ALL
    await other.task


@virtual
async def test_a_log_is_freed_after_the_grace_time() -> None:
    runs = Runs[str](Limits(replay_grace_s=180))
    run = Script(pause_s=100).start(runs)
    await run.task
    await asyncio.sleep(179)
    assert await collect(runs) == ALL
    await asyncio.sleep(2)
    assert (runs.get("r"), runs.latest("s"), runs.all()) == (None, None, ())
    with pytest.raises(NotFound):
        await collect(runs)


@pytest.mark.parametrize("fails", [False, True])
@virtual
async def test_somebody_is_told_of_each_end(fails: bool) -> None:
    """When it is saved and counted; of a run that was refused, never. Whatever they do, the run has ended."""
    told: list[tuple[str, str | None, float, int]] = []

    def on_ended(run: Run[str]) -> None:
        told.append((run.id, run.stop_reason, now(), runs.endings.total()))
        if fails:
            raise ZeroDivisionError

    runs = Runs[str](on_ended=on_ended)
    stopped = Script(ends=..., closing_s=2).start(runs, "stopped")
    runs.stop("s")
    await stopped.task
    with pytest.raises(ValueError, match="no"):
        await Script(refuses=ValueError("no")).direct(runs, Client(), "refused")
    await Script(closing_s=1).direct(runs, Client(), "direct")
    assert told == [("stopped", "user_stop", 2, 1), ("direct", None, 3.3, 2)]
    await assert_at_rest(runs)


@virtual
async def test_nothing_holds_a_run_after_that() -> None:
    """No timer and no reader that left, however long the watchdogs' limits are."""
    runs = Runs[str](Limits(idle_timeout_s=10**6, wall_clock_timeout_s=10**6))
    run: weakref.ref[Any] = weakref.ref(Script().start(runs))
    await collect(runs)
    gc.collect()
    assert run() is not None
    await asyncio.sleep(200)
    gc.collect()
    assert run() is None


@virtual
async def test_a_log_is_never_freed_under_a_subscriber() -> None:
    runs = Runs[str](Limits(replay_grace_s=180))
    run = Script().start(runs)
    with runs.reader(run) as slow:
        with runs.reader(run):
            await asyncio.sleep(1000)
        assert runs.get("r") is runs.latest("s") is run
        assert await collect(runs) == ALL
        assert await slow.read() == ALL
    assert (runs.get("r"), runs.latest("s"), runs.all()) == (None, None, ())


@virtual
async def test_an_older_log_goes_first() -> None:
    runs = Runs[str](Limits(replay_grace_s=180))
    await Script().start(runs, "old").task
    await asyncio.sleep(100)
    new = Script().start(runs, "new")
    await asyncio.sleep(100)
    assert (runs.get("old"), runs.latest("s"), runs.all()) == (None, new, (new,))


@virtual
async def test_a_deleted_session_is_forgotten() -> None:
    """What has ended at once; what is live ends first."""
    runs = Runs[str]()
    await Script().start(runs, "old").task
    run = Script(ends=...).start(runs)
    runs.forget_session("s")
    assert (runs.all(), runs.latest("s")) == ((run,), run)
    assert runs.stop("s", StopReason.SHUTDOWN)
    await run.task
    runs.forget_session("s")
    assert (runs.all(), runs.latest("s")) == ((), None)
    await asyncio.sleep(1000)


@virtual
async def test_an_id_is_free_again_when_its_run_is_forgotten() -> None:
    """The forgotten run's grace time must not end the new one's."""
    runs = Runs[str](Limits(replay_grace_s=180))
    await Script().start(runs, "again").task
    runs.forget_session("s")
    await asyncio.sleep(100)
    run = Script(ends=...).start(runs, "again", "other")
    await asyncio.sleep(100)
    assert runs.get("again") is runs.latest("other") is run
    runs.stop("other")
    await run.task
