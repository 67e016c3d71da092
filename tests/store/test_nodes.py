"""The nodes that share a database: places, beats, and whose answers are whose, over every database there is.

Only PostgreSQL is shared in earnest; SQLite keeps the same promises, for one node that comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.errors import Busy, NodeExpelled, NotFound, RunExists
from odysseus.messages import Ahead, Message
from odysseus.states import Status, StopReason
from odysseus.store import Database, Store
from odysseus.store.nodes import Nodes, hold_place
from tests.store.test_store import DONE, FINAL, answer, outcomes, turn
from tests.waiting import soon


@pytest.fixture
def nodes(databases: list[Database]) -> list[Nodes]:
    """The register as two processes see it."""
    return [Nodes(database) for database in databases]


@pytest.fixture
async def here(nodes: list[Nodes], stores: list[Store]) -> Store:
    """The store of node `a`, which has joined; so has node `b`, whose store is the other one."""
    for register, store, node in zip(nodes, stores, "ab", strict=True):
        await register.join(node)
        store.node = node
    return stores[0]


@pytest.fixture
def there(here: Store, stores: list[Store]) -> Store:
    return stores[1]


async def others(register: Nodes, node: str) -> dict[str, int]:
    beat = await register.beat(node)
    assert beat is not None
    return dict(beat.others)


async def owner(store: Store, run_id: str) -> str | None:
    return (await answer(store, run_id)).node


def runs(messages: Sequence[Message]) -> list[str | None]:
    return [message.run_id for message in messages]


# Places


async def test_who_has_joined_is_seen_by_the_others(nodes: list[Nodes]) -> None:
    await nodes[0].join("a")
    assert await others(nodes[0], "a") == {}
    await nodes[1].join("b")
    assert await others(nodes[0], "a") == {"b": 0}
    assert await others(nodes[1], "b") == {"a": 2}


async def test_each_beat_counts(nodes: list[Nodes], here: Store) -> None:
    for number in range(1, 4):
        await nodes[0].beat("a")
        assert await others(nodes[1], "b") == {"a": number}


async def test_without_a_place_there_is_no_beat(nodes: list[Nodes], here: Store) -> None:
    assert await nodes[0].beat("nobody") is None
    assert await others(nodes[0], "a") == {"b": 0}


async def test_who_leaves_is_gone(nodes: list[Nodes], here: Store) -> None:
    await nodes[0].leave("a")
    assert await others(nodes[1], "b") == {}
    assert await nodes[0].beat("a") is None


async def test_who_leaves_live_runs_behind_stays_until_it_is_found_dead(nodes: list[Nodes], here: Store) -> None:
    await here.begin(turn(1))
    await nodes[0].leave("a")
    assert await others(nodes[1], "b") == {"a": 0}
    await here.finish(DONE)
    await nodes[0].leave("a")
    assert await others(nodes[1], "b") == {}


async def test_the_runs_of_others_keep_nobody(nodes: list[Nodes], here: Store, there: Store) -> None:
    await there.begin(turn(1))
    await nodes[0].leave("a")
    assert await others(nodes[1], "b") == {}


# Taking over


async def test_a_dead_node_gives_up_its_live_answers_alone(nodes: list[Nodes], here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await here.finish(DONE)
    await here.begin(turn(2))
    await here.begin(turn(3, "ses_2", new_session=True))
    await there.begin(turn(4))
    taken = await nodes[1].take_over("a", 0, "b")
    assert sorted(taken or ()) == ["run_2", "run_3"]
    assert [await owner(there, f"run_{number}") for number in (1, 2, 3, 4)] == ["a", "b", "b", "b"]
    assert (await answer(there, "run_1")).status is Status.DONE
    assert (await nodes[0].beat("a"), await others(nodes[1], "b")) == (None, {})


async def test_who_has_beaten_since_is_alive(nodes: list[Nodes], here: Store) -> None:
    await here.begin(turn(1))
    await nodes[0].beat("a")
    assert await nodes[1].take_over("a", 0, "b") is None
    assert (await owner(here, "run_1"), await others(nodes[1], "b")) == ("a", {"a": 1})
    assert await nodes[1].take_over("a", 1, "b") == ["run_1"]


async def test_two_find_it_dead_at_once_and_one_gets_it(nodes: list[Nodes], here: Store) -> None:
    await nodes[1].join("c")
    for number in range(1, 6):
        await here.begin(turn(number))
    taken = await outcomes(nodes[0].take_over("a", 0, "b"), nodes[1].take_over("a", 0, "c"))
    assert sorted(taken, key=bool) == [None, [f"run_{number}" for number in range(1, 6)]]
    by = "bc"[taken.index(None) - 1]
    assert {await owner(here, f"run_{number}") for number in range(1, 6)} == {by}


async def test_a_dead_node_without_runs(nodes: list[Nodes], here: Store) -> None:
    assert await nodes[1].take_over("a", 0, "b") == []
    assert await nodes[1].take_over("a", 0, "b") is None


async def test_a_node_adopts_what_its_own_predecessor_left(nodes: list[Nodes], here: Store, there: Store) -> None:
    here.node = None
    await here.begin(turn(1))  # from before there were nodes
    here.node = "a"
    await here.begin(turn(2))
    await here.begin(turn(3))
    await here.finish(replace(DONE, message_id="msg_3"))
    await there.begin(turn(4))
    await nodes[0].join("a2")
    assert sorted(await nodes[0].adopt("a2", of="a")) == ["run_1", "run_2"]
    assert [await owner(here, f"run_{number}") for number in (1, 2, 3, 4)] == ["a2", "a2", "a", "b"]
    assert await others(nodes[1], "b") == {"a2": 0}  # the predecessor needs no funeral


async def test_the_first_process_of_a_folder_adopts_what_has_no_node(
    nodes: list[Nodes], here: Store, there: Store
) -> None:
    there.node = None
    await there.begin(turn(1))
    there.node = "b"
    await there.begin(turn(2))
    assert await nodes[0].adopt("a", of=None) == ["run_1"]
    assert (await owner(here, "run_1"), await owner(here, "run_2")) == ("a", "b")
    assert await others(nodes[0], "a") == {"b": 0}


async def test_who_is_alone_adopts_everything(nodes: list[Nodes], here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await there.begin(turn(2))
    assert sorted(await nodes[0].adopt(None, of=None)) == ["run_1", "run_2"]
    assert (await owner(here, "run_1"), await owner(here, "run_2")) == (None, None)


# Whose runs are whose, and what is asked of them


async def test_owners_of_live_runs(nodes: list[Nodes], here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await here.finish(DONE)
    await here.begin(turn(2))
    await there.begin(turn(3))
    asked = ["run_1", "run_2", "run_3", "run_of_nobody"]
    assert await nodes[0].owners(asked) == {"run_2": "a", "run_3": "b"}
    assert await nodes[0].owners([]) == {}


async def test_a_stop_waits_for_its_owner(nodes: list[Nodes], here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await there.begin(turn(2))
    await nodes[1].ask_stop("run_1", StopReason.USER_STOP)
    assert await nodes[0].stop_of("run_1") is StopReason.USER_STOP
    mine, theirs = await nodes[0].beat("a"), await nodes[1].beat("b")
    assert mine is not None and theirs is not None
    assert (mine.stops, theirs.stops) == ({"run_1": StopReason.USER_STOP}, {})
    assert (await nodes[0].stop_of("run_2"), await nodes[0].stop_of("run_of_nobody")) == (None, None)


async def test_the_first_reason_stays(nodes: list[Nodes], here: Store) -> None:
    await here.begin(turn(1))
    await nodes[1].ask_stop("run_1", StopReason.REPLACED)
    await nodes[1].ask_stop("run_1", StopReason.USER_STOP)
    assert await nodes[0].stop_of("run_1") is StopReason.REPLACED


async def test_what_has_ended_is_not_asked_to_stop(nodes: list[Nodes], here: Store) -> None:
    await here.begin(turn(1))
    await nodes[1].ask_stop("run_1", StopReason.USER_STOP)
    await here.finish(DONE)
    beat = await nodes[0].beat("a")
    assert beat is not None and beat.stops == {}
    await here.begin(turn(2))
    await here.finish(replace(DONE, message_id="msg_2"))
    await nodes[1].ask_stop("run_2", StopReason.USER_STOP)
    assert await nodes[0].stop_of("run_2") is None


async def test_live_answers_and_active_runs_of_all_nodes(here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await here.finish(DONE)
    await there.begin(turn(2))
    await here.begin(turn(3))
    await there.begin(turn(4, "ses_2", new_session=True))
    await here.begin(turn(5, "ses_3", new_session=True))
    await here.finish(replace(DONE, message_id="msg_5"))
    for store in (here, there):
        assert runs(await store.live_answers("ses_1")) == ["run_2", "run_3"]
        assert await store.active_runs(["ses_1", "ses_2", "ses_3", "ses_4"]) == {"ses_1": "run_2", "ses_2": "run_4"}
        assert await store.active_runs([]) == {}


# A turn's way in


async def test_admit_is_told_of_live_runs_elsewhere(here: Store, there: Store) -> None:
    told: list[Sequence[Ahead]] = []
    await there.begin(turn(1), told.append)
    await there.begin(turn(2), told.append)
    await here.begin(turn(3), told.append)
    await there.begin(turn(4, "ses_2", new_session=True), told.append)
    await there.finish(DONE)
    await here.begin(turn(5), told.append)
    assert told == [[], [], [Ahead("run_1", "b"), Ahead("run_2", "b")], [], [Ahead("run_2", "b")]]


async def test_what_admit_refuses_leaves_nothing(here: Store, there: Store) -> None:
    def refuse(ahead: Sequence[Ahead]) -> None:
        raise Busy(ahead[0].run_id if ahead else "nobody")

    await there.begin(turn(1))
    before = await here.session("ses_1", "ann"), await here.messages("ses_1")
    with pytest.raises(Busy) as busy:
        await here.begin(turn(2), refuse)
    assert busy.value.run_id == "run_1"
    with pytest.raises(Busy):
        await here.begin(turn(3, "ses_2", new_session=True), refuse)
    assert (await here.session("ses_1", "ann"), await here.messages("ses_1")) == before
    with pytest.raises(NotFound):
        await here.session("ses_2", "ann")


async def test_two_nodes_enter_one_session_and_one_sees_the_other(here: Store, there: Store) -> None:
    """Both would be first if they looked before they wrote."""

    def admit(ahead: Sequence[Ahead]) -> None:
        if ahead:
            raise Busy(ahead[0].run_id)

    await here.begin(turn(1))
    await here.finish(DONE)
    for number in range(2, 12, 2):
        first, second = await outcomes(here.begin(turn(number), admit), there.begin(turn(number + 1), admit))
        assert sorted([first is None, second is None]) == [False, True]
        assert isinstance(first or second, Busy)
        winner, store = (number, here) if first is None else (number + 1, there)
        assert runs(await here.live_answers("ses_1")) == [f"run_{winner}"]
        await store.finish(replace(DONE, message_id=f"msg_{winner}"))


async def test_a_run_id_that_another_node_has_taken(here: Store, there: Store) -> None:
    await there.begin(turn(1))
    with pytest.raises(RunExists):
        await here.begin(turn(2, "ses_2", new_session=True, run_id="run_1"))
    with pytest.raises(NotFound):
        await here.session("ses_2", "ann")
    assert await owner(here, "run_1") == "b"


async def test_who_was_expelled_begins_nothing(nodes: list[Nodes], here: Store, there: Store) -> None:
    await nodes[1].take_over("a", 0, "b")
    with pytest.raises(NodeExpelled):
        await here.begin(turn(1))
    with pytest.raises(NotFound):
        await there.session("ses_1", "ann")


async def test_a_place_is_held_until_what_it_holds_is_stored(
    databases: list[Database], nodes: list[Nodes], here: Store
) -> None:
    """Else a run could be stored under a name whose runs have just been taken over, and nobody would end it."""
    held, go_on = asyncio.Event(), asyncio.Event()

    async def hold(connection: AsyncConnection) -> None:
        await hold_place(connection, "a")
        held.set()
        await go_on.wait()

    holding = asyncio.create_task(databases[0].write(hold))
    await soon(held.wait())
    taking = asyncio.create_task(nodes[1].take_over("a", 0, "b"))
    done, _ = await asyncio.wait({taking}, timeout=0.3)
    assert not done
    go_on.set()
    await soon(holding)
    assert await soon(taking) == []


# The fence: what is another node's


async def test_a_fenced_node_writes_nothing(nodes: list[Nodes], here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await soon(here.checkpoint("msg_1", "Hel", "", []))
    assert await nodes[1].take_over("a", 0, "b") == ["run_1"]
    await soon(here.checkpoint("msg_1", "Hello, late", "", []))
    assert (await answer(there)).content == "Hel"
    assert await here.finish(DONE) is False
    assert (await answer(there)).status is Status.STREAMING
    assert await there.finish(FINAL) is True
    assert await here.finish(DONE) is False
    assert (await answer(there)).content == FINAL.content


async def test_a_fenced_write_takes_nothing_along_in_its_batch(nodes: list[Nodes], here: Store, there: Store) -> None:
    """Ours and theirs in one write: ours are stored, theirs aren't."""
    await there.begin(turn(1))
    await here.begin(turn(2))
    mine = replace(DONE, message_id="msg_2")
    checkpoints = [here.checkpoint(f"msg_{number}", "so far", "", []) for number in (1, 2)]
    await soon(asyncio.gather(*checkpoints))
    assert [(await answer(here, f"run_{number}")).content for number in (1, 2)] == ["", "so far"]
    assert await outcomes(here.finish(DONE), here.finish(mine)) == [False, True]
    assert [(await answer(here, f"run_{number}")).status for number in (1, 2)] == [Status.STREAMING, Status.DONE]


async def test_only_our_own_are_interrupted_at_a_start(here: Store, there: Store) -> None:
    await here.begin(turn(1))
    await there.begin(turn(2))
    assert await here.interrupt_streaming() == 1
    assert [(await answer(here, f"run_{number}")).status for number in (1, 2)] == [
        Status.INTERRUPTED,
        Status.STREAMING,
    ]
