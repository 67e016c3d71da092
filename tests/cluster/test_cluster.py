"""Two nodes' verbs over one memory, in virtual time: stops, ends, watchers, and being taken for dead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from odysseus.cluster.cluster import Cluster
from odysseus.cluster.membership import Beat
from odysseus.cluster.streams import inbox_of, log_of
from odysseus.errors import LogUnreachable, NodeUnreachable, NotFound
from odysseus.messages import Final, Message
from odysseus.run import Run
from odysseus.runs import Runs
from odysseus.states import Ending, Status, StopReason
from odysseus.tasks import Tasks
from tests.cluster.follower import MESSAGE
from tests.cluster.memory import MemoryStreams
from tests.cluster.test_membership import Look, Register
from tests.scenes import virtual
from tests.virtual_time import now

LEASE_S = 10
LOG = log_of("msg of run_1")


class Store(Register):
    """What the nodes share: places, answers, and stops that are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, Message] = {}
        self.stops: dict[str, StopReason] = {}

    async def beat(self, node: str) -> Beat | None:
        beat = await super().beat(node)
        mine = {run_id: why for run_id, why in self.stops.items() if self.answers[run_id].node == node}
        return None if beat is None else Look(dict(beat.others), mine)

    async def take_over(self, dead: str, beat: int, by: str) -> Sequence[str] | None:
        if await super().take_over(dead, beat, by) is None:
            return None
        taken = [run_id for run_id, message in self.answers.items() if message.node == dead and self.lives(run_id)]
        for run_id in taken:
            self.answers[run_id] = replace(self.answers[run_id], node=by)
        return taken

    def lives(self, run_id: str) -> bool:
        return self.answers[run_id].status is Status.STREAMING

    async def owners(self, run_ids: Collection[str]) -> Mapping[str, str | None]:
        return {run_id: self.answers[run_id].node for run_id in run_ids if self.lives(run_id)}

    async def ask_stop(self, run_id: str, reason: StopReason) -> None:
        await self._work()
        self.stops.setdefault(run_id, reason)

    async def stop_of(self, run_id: str) -> StopReason | None:
        return self.stops.get(run_id)

    async def answer_of(self, run_id: str) -> Message | None:
        return self.answers.get(run_id)

    def finish(self, run_id: str, ending: Ending, node: str) -> bool:
        if not self.lives(run_id) or self.answers[run_id].node != node:
            return False
        self.answers[run_id] = replace(self.answers[run_id], status=ending.status, stop_reason=ending.stop_reason)
        return True


class Node:
    def __init__(self, store: Store, streams: MemoryStreams, *, needs_redis: bool = False) -> None:
        self.store = store
        self.tasks = Tasks()
        self.runs: Runs[bytes] = Runs(tasks=self.tasks)
        self.names: list[str] = []
        self.cluster = Cluster(
            self.runs,
            streams,
            store,
            store.answer_of,
            self._save,
            self.tasks,
            on_joined=self.names.append,
            on_ended=lambda *_: None,
            lease_s=LEASE_S,
            live_s=60,
            grace_s=60,
            needs_redis=needs_redis,
        )

    async def _save(self, final: Final) -> bool:
        raise AssertionError("no test here ends what is lost: that takes a thread")

    async def start(self, run_id: str = "run_1") -> Run[bytes]:
        """Start a run that says one frame, and then nothing more."""
        message = replace(MESSAGE, id=f"msg of {run_id}", run_id=run_id, node=self.cluster.node)
        name = self.cluster.node

        async def source() -> AsyncGenerator[bytes, None]:
            yield b"frame"
            await asyncio.Event().wait()

        async def opening() -> None:
            self.store.answers[run_id] = message

        async def closing(ending: Ending, _: BaseException | None) -> Sequence[bytes]:
            return [b"end"] if self.store.finish(run_id, ending, name) else []

        run = self.runs.start(f"ses of {run_id}", source(), run_id=run_id, opening=opening, closing=closing)
        await run.wait_accepted()
        self.cluster.publish(run, message.id)
        return run


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Node, Node, MemoryStreams]]:
    store, streams = Store(), MemoryStreams()
    nodes = Node(store, streams), Node(store, streams)
    for node in nodes:
        await node.cluster.join()
    await asyncio.sleep(LEASE_S / 2)
    yield *nodes, streams
    streams.away = store.away = False
    for node in nodes:
        await node.runs.drain(0, 5)
        await node.cluster.leave()
        await node.tasks.drain(5)


@virtual
async def test_a_cancel_that_is_lost_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two() as (_, _, streams):
        lost = asyncio.Event()

        async def read(cursors: object, block_ms: int) -> Sequence[object]:
            try:
                await asyncio.sleep(block_ms / 1000)
            except asyncio.CancelledError:
                if lost.is_set():
                    raise
                lost.set()
            return ()

        monkeypatch.setattr(streams, "read", read)
        await asyncio.sleep(LEASE_S)
    assert lost.is_set()


@virtual
async def test_a_stop_by_letter() -> None:
    async with two() as (here, there, _):
        run = await there.start()
        assert here.cluster.is_elsewhere(here.store.answers["run_1"])
        assert not there.cluster.is_elsewhere(here.store.answers["run_1"])
        begun = now()
        await here.cluster.stop("run_1", there.cluster.node, StopReason.USER_STOP)
        answer = await here.cluster.ended("run_1", 30)
        assert answer is not None and answer.status is Status.STOPPED
        assert not here.cluster.is_elsewhere(answer)  # it has ended, and is in the store
        assert (run.stop_reason, now() - begun < 0.5) == (StopReason.USER_STOP, True)


@virtual
async def test_a_stop_whose_letter_is_lost_is_obeyed_at_the_next_beat() -> None:
    async with two() as (here, there, streams):
        run = await there.start()
        streams.away = True
        begun = now()
        await here.cluster.stop("run_1", there.cluster.node, StopReason.USER_STOP)
        assert await here.cluster.ended("run_1", 30)
        assert (run.stop_reason, now() - begun <= LEASE_S / 5 + 1.5) == (StopReason.USER_STOP, True)


@virtual
async def test_an_owner_that_is_silent_is_told_of_and_obeys_later() -> None:
    async with two() as (here, there, streams):
        run = await there.start()
        streams.away = here.store.away = True
        here.store.stops["run_1"] = StopReason.USER_STOP  # it was written down just before
        with pytest.raises(NodeUnreachable):
            await here.cluster.ended("run_1", 30)
        assert not run.ended.is_set()
        here.store.away = False
        await asyncio.sleep(LEASE_S / 5 + 0.1)
        assert run.ended.is_set()


@virtual
async def test_a_run_that_has_waited_obeys_what_was_written_down_meanwhile() -> None:
    async with two() as (here, _, streams):
        streams.away = True
        run = await here.start()
        await here.cluster.obey("run_1")
        assert run.asked is None
        here.store.stops["run_1"] = StopReason.REPLACED
        await here.cluster.obey("run_1")
        assert run.asked == Ending(StopReason.REPLACED)


@virtual
async def test_the_end_of_what_is_gone() -> None:
    async with two() as (here, _, _streams):
        assert await here.cluster.ended("run_of_nobody") is None


@virtual
async def test_what_only_the_owner_knows() -> None:
    async with two() as (here, there, streams):

        async def status(run_id: str) -> str:
            if run_id != "run_1":
                raise NotFound("run")
            return "as it is"

        there.cluster.serve(status=status)
        await there.start()
        message = here.store.answers["run_1"]
        assert await here.cluster.ask(message, "status", "") == "as it is"
        with pytest.raises(NotFound):
            await here.cluster.ask(replace(message, run_id="run_2"), "status", "")
        streams.away = True
        with pytest.raises(NodeUnreachable):
            await here.cluster.ask(message, "status", "")


@virtual
async def test_its_owner_knows_who_watches_it_elsewhere() -> None:
    async with two() as (here, there, _):
        run = await there.start()
        followed = await here.cluster.follow(here.store.answers["run_1"])
        assert followed is not None
        numbers = [followed.joined() for _ in range(3)]
        assert (run.watched, run.elsewhere) == (False, {})
        await asyncio.sleep(1)
        assert (run.watched, run.elsewhere) == (True, {here.cluster.node: 3})
        for number in numbers:
            followed.left(number)
        await asyncio.sleep(1)
        assert (run.watched, run.elsewhere) == (False, {})


@virtual
async def test_the_watchers_of_a_node_are_those_of_its_newest_name() -> None:
    async with two() as (here, there, _):
        run = await there.start()
        followed = await here.cluster.follow(here.store.answers["run_1"])
        assert followed is not None
        number = followed.joined()
        await asyncio.sleep(1)
        assert run.watched
        del here.store.beats[here.cluster.node]
        await asyncio.sleep(LEASE_S / 5 + 0.1)
        await asyncio.sleep(LEASE_S / 5)
        assert run.elsewhere == {here.names[1]: 1}  # it is back under another name
        followed.left(number)


@virtual
async def test_who_was_taken_for_dead_drops_its_runs_and_has_another_name() -> None:
    async with two() as (here, there, streams):
        run = await there.start()
        await asyncio.sleep(1)
        del here.store.beats[there.cluster.node]
        here.store.answers["run_1"] = replace(here.store.answers["run_1"], node=here.cluster.node)
        await asyncio.sleep(LEASE_S / 5 + 0.1)
        assert (run.withdrawn, run.ended.is_set(), there.runs.get("run_1")) == (True, True, None)
        assert here.store.lives("run_1")  # its late save changed nothing
        assert len(there.names) == 2
        assert there.cluster.node == there.names[1] in here.store.beats
        again = await there.start("run_2")
        await here.cluster.stop("run_2", there.cluster.node, StopReason.USER_STOP)
        await asyncio.sleep(1)
        assert again.ended.is_set()  # its new inbox is read
        assert [entry_id for entry_id, _ in streams.kept[LOG]] == [b"0-1"]  # and it tells nobody of an end


@virtual
async def test_handing_over_lets_all_go_and_stops_nothing() -> None:
    async with two() as (here, there, _):
        run, mine = await there.start(), await here.start("run_2")
        followed = await here.cluster.follow(here.store.answers["run_1"])
        assert followed is not None
        here.cluster.hand_over()
        assert (followed.over, mine.over, mine.ended.is_set(), run.over) == (True, True, False, False)


@virtual
async def test_a_deleted_session_is_forgotten_on_all_nodes() -> None:
    async with two() as (here, there, _):
        run = await there.start()
        there.runs.stop_run(run)
        await run.ended.wait()
        assert there.runs.get("run_1") is run
        await asyncio.sleep(LEASE_S)  # a beat has told of the other one
        here.cluster.forget_session(run.session_id)
        await asyncio.sleep(0.1)
        assert there.runs.get("run_1") is None


@pytest.mark.parametrize("needs_redis", [False, True])
@virtual
async def test_whether_runs_start_without_redis(needs_redis: bool) -> None:
    streams = MemoryStreams()
    node = Node(Store(), streams, needs_redis=needs_redis)
    await node.cluster.check_logs()
    streams.away = True
    if needs_redis:
        with pytest.raises(LogUnreachable):
            await node.cluster.check_logs()
    else:
        await node.cluster.check_logs()


@virtual
async def test_a_stop_that_overtook_its_run_is_known_to_all() -> None:
    async with two() as (here, there, streams):
        await here.cluster.stop_unborn("ann", "run_1")
        assert await there.cluster.is_stopped_unborn("ann", "run_1")
        streams.away = True
        await here.cluster.stop_unborn("ann", "run_2")  # nobody else will know
        assert not await there.cluster.is_stopped_unborn("ann", "run_1")


@virtual
async def test_leaving_gives_the_logs_their_ends() -> None:
    async with two() as (here, there, streams):
        run = await there.start()
        await asyncio.sleep(1)
        there.runs.stop_run(run)
        await run.ended.wait()
        await streams.send(there.cluster.node, b"")
        await there.cluster.leave()
        assert streams.kept[LOG][-1][0] == b"1-2"
        assert list(here.store.beats) == [here.cluster.node]
        assert inbox_of(there.cluster.node) not in streams.kept
