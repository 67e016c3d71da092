"""Following while Redis is away or has lost something, while watchers come and go; and the inbox."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from odysseus.feed import Reader
from odysseus.replay import END, event_id
from tests.cluster.follower import MESSAGE, Stage, all_of, frames, settle
from tests.scenes import virtual
from tests.virtual_time import now as virtual_now

# Outages and lost logs


@virtual
async def test_an_outage_is_waited_for() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        number = followed.joined()
        stage.streams.away = True
        await asyncio.sleep(30)
        assert not followed.over
        stage.streams.away = False
        await stage.write(frames(3, 6))
        await asyncio.sleep(3)
        assert (all_of(followed), followed.over) == (frames(0, 6), False)
        followed.left(number)


@virtual
async def test_who_comes_during_an_outage_waits_for_it() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        stage.streams.away = True
        followed = await stage.follow()
        assert (all_of(followed), followed.over) == ([], False)
        number = followed.joined()
        await asyncio.sleep(30)
        stage.streams.away = False
        await asyncio.sleep(3)
        assert all_of(followed) == frames(0, 3)
        followed.left(number)


@virtual
async def test_an_emptied_redis_that_is_given_all_again_goes_unnoticed() -> None:
    """The owner writes everything from the start, in one entry, whose id is above the cursor."""
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        await settle()
        stage.streams.empty()
        await stage.rewrite(5)
        await settle()
        assert (all_of(followed), followed.over) == (frames(0, 5), False)
        await stage.write(frames(5, 6), ended=True)
        await settle()
        assert (all_of(followed), followed.ended.is_set()) == (frames(0, 6), True)


@virtual
async def test_a_log_that_was_given_again_up_to_less_goes_on_where_it_is_new() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 6))
        followed = await stage.follow()
        await settle()
        stage.streams.empty()
        await stage.rewrite(4)  # nothing of it is above the cursor
        await stage.write(frames(4, 8))  # straddles it
        await settle()
        assert (all_of(followed), followed.over) == (frames(0, 8), False)


@virtual
async def test_a_run_that_has_ended_without_an_end_in_its_log_is_given_up_at_the_second_look() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        number = followed.joined()
        await asyncio.sleep(21)
        assert not followed.over  # it lives
        stage.live = {}
        looks = len(stage.looks)
        while not followed.over:
            await followed.changed()
        assert (len(stage.looks) - looks, followed.released) == (2, True)
        assert virtual_now() < 32
        followed.left(number)


@virtual
async def test_one_look_that_finds_it_live_clears_the_suspicion() -> None:
    stage = Stage()
    async with stage.at_work():
        followed = await stage.follow()
        number = followed.joined()
        await asyncio.sleep(7)  # between two looks, which are 5 s apart
        for _ in range(4):
            for stage.live in ({}, {"run_1": "b"}):
                await asyncio.sleep(5)
        assert len(stage.looks) == 8
        assert not followed.over
        stage.live = None  # a store that is away says nothing
        await asyncio.sleep(60)
        assert not followed.over
        followed.left(number)


@virtual
async def test_what_grows_is_not_looked_after() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.follow()
        for number in range(60):
            await stage.write(frames(number, number + 1))
            await asyncio.sleep(1)
        assert stage.looks == []


# Who watches, and for how long


@virtual
async def test_a_copy_stays_a_while_for_clients_that_come_back() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        number = followed.joined()
        await asyncio.sleep(60)
        assert await stage.follow() is followed
        followed.left(number)
        await asyncio.sleep(9)
        assert await stage.follow() is followed
        await asyncio.sleep(2)
        assert await stage.follow() is not followed
        assert stage.watched == [("run_1", 1), ("run_1", 0)]


@virtual
async def test_letting_all_go() -> None:
    stage = Stage()
    async with stage.at_work():
        copies = [await stage.follow(), await stage.follow(replace(MESSAGE, id="msg_2", run_id="run_2"))]
        readings = [asyncio.create_task(Reader(copy, 0).read()) for copy in copies]
        await settle()
        stage.following.release_all()
        assert await asyncio.gather(*readings) == [[], []]
        assert await stage.follow() is not copies[0]


@virtual
async def test_forgetting_a_session_lets_its_readers_go_alone() -> None:
    stage = Stage()
    async with stage.at_work():
        mine = await stage.follow()
        other = await stage.follow(replace(MESSAGE, id="msg_2", run_id="run_2", session_id="ses_2"))
        stage.following.forget_session("ses_1")
        assert (mine.over, other.over) == (True, False)


REACHES = [
    (None, 0.0),
    ("run_1.1", 0.0),
    ("run_1.2", 0.0),
    ("run_1.3", 1.0),
    ("run_1.4", 2.0),
    ("run_1.99", 2.0),
    ("run_2.99", 0.0),
    (event_id("run_1", END), 0.0),
    ("run_1." + "9" * 30, 0.0),
    ("run_1.\u0663", 0.0),
]


@pytest.mark.parametrize(("last_event_id", "waits_s"), REACHES)
@virtual
async def test_what_somebody_has_seen_is_waited_for_a_moment(last_event_id: str | None, waits_s: float) -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        begun = virtual_now()

        async def reach() -> float:
            await followed.reach(last_event_id)
            return virtual_now() - begun

        reaching = asyncio.create_task(reach())
        await asyncio.sleep(1)
        await stage.write(frames(3, 4))
        assert await reaching == waits_s


# Letters


@virtual
async def test_letters_are_delivered_in_order_and_once() -> None:
    stage = Stage()
    await stage.streams.send("a", b"before we listened")
    async with stage.at_work():
        await asyncio.sleep(0.1)
        for number in range(5):
            await stage.streams.send("a", b"%d" % number)
            await stage.streams.send("b", b"another's")
        await settle()
        stage.streams.away = True
        await asyncio.sleep(5)
        stage.streams.away = False
        await stage.streams.send("a", b"after")
        await asyncio.sleep(5)
        assert stage.letters == [b"before we listened", b"0", b"1", b"2", b"3", b"4", b"after"]


@virtual
async def test_under_a_new_name_the_new_inbox_is_read() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.streams.send("a", b"to the old name")
        await settle()
        await asyncio.sleep(2.2)  # a read has just begun
        stage.following.listen("a2")
        await asyncio.sleep(0.1)
        assert [key for key in stage.streams.reading if "a2" in key]
        await stage.streams.send("a2", b"to the new name")
        await stage.streams.send("a", b"to nobody")
        await asyncio.sleep(3)
        assert stage.letters == [b"to the old name", b"to the new name"]
