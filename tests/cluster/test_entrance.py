"""A new run's way into a session of several nodes: who refuses it, whom it stops, and for whom it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from odysseus.cluster.cluster import Cluster
from odysseus.cluster.entrance import Entrance
from odysseus.errors import Busy, LogUnreachable, NodeExpelled, RunExists, StoppedBeforeStart, StoreError, TooMany
from odysseus.messages import Admit, Ahead
from odysseus.run import IfBusy, Run
from odysseus.states import StopReason
from tests.scenes import virtual
from tests.virtual_time import now

AHEAD = [Ahead("run_1", "b"), Ahead("run_2", "c")]


class Stage:
    """The cluster as the entrance sees it, and the store's `begin`."""

    node = "a"

    def __init__(self, ahead: Sequence[Ahead] = ()) -> None:
        self.ahead = ahead
        self.journal: list[str] = []
        self.no_logs = self.unborn = False
        self.fails = 0
        """How many calls of the store will fail."""
        self.ends = {run_id: asyncio.Event() for run_id, _ in ahead}

    def entrance(
        self, if_busy: IfBusy = IfBusy.QUEUE, line: Sequence[Run[bytes]] = (), max_queued: int = 10
    ) -> Entrance:
        return Entrance(
            cast(Cluster, self),
            self._begin,
            line,
            run_id="run_new",
            owner="ann",
            named=True,
            if_busy=if_busy,
            max_queued=max_queued,
        )

    async def _begin(self, admit: Admit) -> None:
        self.journal.append("begins")
        admit(self.ahead)
        self.journal.append("begun")

    async def check_logs(self) -> None:
        if self.no_logs:
            raise LogUnreachable

    async def is_stopped_unborn(self, owner: str, run_id: str) -> bool:
        assert (owner, run_id) == ("ann", "run_new")
        return self.unborn

    async def stop(self, run_id: str, node: str | None, reason: StopReason) -> None:
        self._store()
        self.journal.append(f"stop {run_id} at {node}: {reason}")

    async def ended(self, run_id: str) -> None:
        self._store()
        await self.ends[run_id].wait()
        self.journal.append(f"{run_id} ended")

    async def obey(self, run_id: str) -> None:
        self._store()
        self.journal.append(f"obey {run_id}")

    def _store(self) -> None:
        if self.fails:
            self.fails -= 1
            raise StoreError("away")


def run(run_id: str) -> Run[bytes]:
    return Run(run_id, "ses_1", owner="ann", detached=True, about=None)


REFUSED: list[tuple[IfBusy, Sequence[Ahead], int, type[Exception] | None]] = [
    (IfBusy.REJECT, [], 0, None),
    (IfBusy.REJECT, AHEAD, 0, Busy),
    (IfBusy.REPLACE, AHEAD, 0, None),
    (IfBusy.QUEUE, AHEAD, 0, None),
    (IfBusy.QUEUE, AHEAD, 1, TooMany),
    (IfBusy.QUEUE, [], 2, None),
    (IfBusy.QUEUE, [], 3, TooMany),
    (IfBusy.REJECT, [Ahead("run_new", "b")], 0, RunExists),
    (IfBusy.QUEUE, [*AHEAD, Ahead("run_new", "b")], 3, RunExists),
    (IfBusy.REPLACE, [Ahead("run_new", "b")], 0, RunExists),
]


@pytest.mark.parametrize(("if_busy", "ahead", "queued", "refusal"), REFUSED)
@virtual
async def test_who_is_let_in(
    if_busy: IfBusy, ahead: Sequence[Ahead], queued: int, refusal: type[Exception] | None
) -> None:
    """At most two may wait, wherever they do; what runs elsewhere counts as what runs here."""
    line = [run(f"run_here_{number}") for number in range(queued)]
    for each in line:
        each.accepted.set()
    stage = Stage(ahead)
    entrance = stage.entrance(if_busy, line, max_queued=2)
    if refusal is None:
        await entrance.opening()
        assert stage.journal[:2] == ["begins", "begun"]
    else:
        with pytest.raises(refusal):
            await entrance.opening()
        assert stage.journal == ["begins"]


@virtual
async def test_the_one_who_is_busy_is_named() -> None:
    with pytest.raises(Busy) as busy:
        await Stage(AHEAD).entrance(IfBusy.REJECT).opening()
    assert busy.value.run_id == "run_1"


@pytest.mark.parametrize(("what", "refusal"), [("no_logs", LogUnreachable), ("unborn", StoppedBeforeStart)])
@virtual
async def test_what_refuses_before_the_store_is_asked(what: str, refusal: type[Exception]) -> None:
    stage = Stage()
    setattr(stage, what, True)
    with pytest.raises(refusal):
        await stage.entrance().opening()
    assert stage.journal == []


@virtual
async def test_nobody_begins_before_those_who_stand_before_it() -> None:
    stage = Stage()
    line = [run("run_here_1"), run("run_here_2")]
    opening = asyncio.create_task(stage.entrance(line=line).opening())
    for before in line:
        await asyncio.sleep(1)
        assert stage.journal == []
        before.accepted.set()
    await opening
    assert stage.journal == ["begins", "begun"]


@virtual
async def test_the_name_under_which_it_was_stored() -> None:
    stage = Stage()

    async def begin(admit: Admit) -> None:
        stage.node = "a2"  # expelled and back, just then

    entrance = stage.entrance()
    entrance._begin = begin
    await entrance.opening()
    assert entrance.node == "a"


@virtual
async def test_what_the_store_refuses_goes_through() -> None:
    stage = Stage(AHEAD)

    async def begin(admit: Admit) -> None:
        raise NodeExpelled

    entrance = stage.entrance(IfBusy.REPLACE)
    entrance._begin = begin
    with pytest.raises(NodeExpelled):
        await entrance.opening()
    assert stage.journal == []


@virtual
async def test_with_nobody_ahead_it_waits_for_nobody() -> None:
    stage = Stage()
    entrance = stage.entrance()
    await entrance.opening()
    await entrance.before()
    assert (stage.journal, now()) == (["begins", "begun"], 0)


@virtual
async def test_it_waits_for_all_who_are_ahead_then_obeys_what_was_asked_meanwhile() -> None:
    stage = Stage(AHEAD)
    entrance = stage.entrance()
    await entrance.opening()
    waiting = asyncio.create_task(entrance.before())
    for run_id, _ in reversed(AHEAD):
        await asyncio.sleep(1)
        assert not waiting.done()
        stage.ends[run_id].set()
    await waiting
    assert stage.journal[2:] == ["run_1 ended", "run_2 ended", "obey run_new"]


@virtual
async def test_who_is_replaced_is_stopped_the_last_one_first() -> None:
    stage = Stage(AHEAD)
    await stage.entrance(IfBusy.REPLACE).opening()
    assert stage.journal[2:] == ["stop run_2 at c: replaced", "stop run_1 at b: replaced"]


@virtual
async def test_a_store_that_fails_after_the_run_is_accepted_refuses_nothing() -> None:
    stage = Stage(AHEAD)
    entrance = stage.entrance(IfBusy.REPLACE)
    stage.fails = 1
    await entrance.opening()
    assert stage.journal == ["begins", "begun"]
    for event in stage.ends.values():
        event.set()
    stage.fails = 3
    await entrance.before()
    assert stage.journal[2:] == [
        "stop run_2 at c: replaced",
        "stop run_1 at b: replaced",
        "run_1 ended",
        "run_2 ended",
        "obey run_new",
    ]
    assert now() == 3


@virtual
async def test_waiting_can_be_given_up() -> None:
    stage = Stage(AHEAD)
    entrance = stage.entrance()
    await entrance.opening()
    waiting: asyncio.Task[Any] = asyncio.create_task(entrance.before())
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
