"""Who is told when a run has ended: once, when it is saved, and before those who wait for it."""

from __future__ import annotations

import asyncio

import pytest

from odysseus.errors import UpstreamError
from odysseus.run import Run
from odysseus.runs import IfBusy, Runs
from odysseus.states import StopReason
from tests.scenes import Script, collect, virtual


@pytest.mark.parametrize("ends", [None, UpstreamError("upstream_status", "503"), ValueError("ours")])
@virtual
async def test_it_is_told_once(ends: BaseException | None) -> None:
    told: list[tuple[str, str, bool, int]] = []

    def on_ended(run: Run[str]) -> None:
        told.append((run.id, run.status, run.ended.is_set(), len(run.log)))

    runs = Runs[str](on_ended=on_ended)
    script = Script(closing_s=0.2, ends=ends)
    run = script.start(runs)
    await run.task
    assert told == [(run.id, run.status, False, len(run.log))]
    assert script.journal[-1][0] == "saved"
    assert runs.endings.total() == 1


@virtual
async def test_a_refused_run_has_not_ended() -> None:
    told: list[Run[str]] = []
    runs = Runs[str](on_ended=told.append)
    run = Script(refuses=ValueError("no")).start(runs)
    with pytest.raises(ValueError, match="no"):
        await run.wait_accepted()
    await run.task
    assert told == []


@virtual
async def test_one_that_fails_holds_nobody_up(caplog: pytest.LogCaptureFixture) -> None:
    def on_ended(run: Run[str]) -> None:
        raise RuntimeError("sesame")

    runs = Runs[str](on_ended=on_ended)
    run = Script().start(runs)
    waiting = Script().start(runs, run_id="r2", if_busy=IfBusy.QUEUE)
    await run.task
    assert run.ended.is_set() and run.status == "done"
    await waiting.task
    assert waiting.status == "done"
    assert await collect(runs)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


@virtual
async def test_the_ledger_of_a_run() -> None:
    """What runs write by themselves, whatever they carry."""
    runs = Runs[str]()
    run = Script(closing_s=0.2, ends=...).start(runs)
    await asyncio.sleep(0.15)
    reading = asyncio.create_task(collect(runs))
    await asyncio.sleep(0.1)
    runs.stop("s")
    runs.stop("s", StopReason.SHUTDOWN)
    await run.task
    await reading
    entries = [{name: value for name, value in entry.items() if name != "at"} for entry in run.ledger.entries()]
    assert entries == [
        {"event": "accepted"},
        {"event": "subscriber_joined", "subscriber": 1},
        {"event": "stop_asked", "by": "user"},
        {"event": "ended", "status": "stopped", "stop_reason": "user_stop"},
        {"event": "subscriber_left", "subscriber": 1},
    ]
