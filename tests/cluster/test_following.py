"""Runs of other nodes, followed here: the copy is the log to the byte, and many share it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from odysseus.cluster.entries import Entry, Place
from odysseus.cluster.followed import Followed
from odysseus.feed import Reader
from odysseus.messages import now
from odysseus.states import Status
from tests.cluster.follower import ENDED_LONG_AGO, MESSAGE, Stage, all_of, frames, settle
from tests.scenes import virtual
from tests.virtual_time import now as virtual_now

# A copy, taken by itself


def entry(place: Place, total: int, of: Sequence[bytes] = ()) -> Entry:
    return Entry(f"{place:d}-{total}", place, total, of)


@pytest.mark.parametrize("seen", range(7))
@virtual
async def test_what_straddles_is_taken_from_where_it_is_new(seen: int) -> None:
    followed = Followed(MESSAGE, lambda _: None)
    assert followed.take(entry(Place.FRAMES, seen, frames(0, seen)))
    assert followed.take(entry(Place.FRAMES, 6, frames(0, 6)))
    assert (all_of(followed), followed.numbered, followed.cursor) == (frames(0, 6), 6, "0-6")
    assert followed.take(entry(Place.FRAMES, 4, frames(2, 4)))
    assert (all_of(followed), followed.numbered) == (frames(0, 6), 6)


@virtual
async def test_a_gap_is_refused_and_nothing_of_it_taken() -> None:
    followed = Followed(MESSAGE, lambda _: None)
    assert followed.take(entry(Place.FRAMES, 3, frames(0, 3)))
    assert not followed.take(entry(Place.FRAMES, 6, frames(4, 6)))
    assert all_of(followed) == frames(0, 3)


ENDS = {
    "the owner's": (entry(Place.END, 3), True),
    "the owner's, of a log that had more": (entry(Place.END, 4), False),
    "the owner's, of a log that had less": (entry(Place.END, 2), False),
    "a lost node's": (entry(Place.END_OF_LOST, 3, [b"last"]), True),
    "a lost node's, of a log that had more": (entry(Place.END_OF_LOST, 4, [b"last"]), False),
    "a lost node's, of a log that had less": (entry(Place.END_OF_LOST, 2, [b"last"]), False),
    "a lost node's, of an answer that has more": (entry(Place.END_OF_LOST, 3), False),
}


@pytest.mark.parametrize("which", ENDS)
@virtual
async def test_an_end(which: str) -> None:
    end, fits = ENDS[which]
    followed = Followed(MESSAGE, lambda _: None)
    followed.take(entry(Place.FRAMES, 3, frames(0, 3)))
    assert followed.take(entry(Place.FENCE, 0))
    assert followed.take(end) is fits
    assert followed.ended.is_set() is fits
    assert all_of(followed) == [*frames(0, 3), *(end.frames if fits else ())]
    assert followed.numbered == 3  # the last frame of a lost run has a name, and no number


# Following


@virtual
async def test_the_copy_is_the_log_byte_for_byte() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        assert all_of(followed) == frames(0, 3)
        for number in range(3, 40):
            await stage.write(frames(number, number + 1))
            if number % 3:
                await asyncio.sleep(0.01)
        await stage.write(frames(40, 42), ended=True)
        await settle()
        assert (all_of(followed), followed.ended.is_set(), followed.over) == (frames(0, 42), True, True)


@virtual
async def test_who_comes_before_the_first_frame_misses_none() -> None:
    stage = Stage()
    async with stage.at_work():
        reader = Reader(await stage.follow(), 0)
        reading = asyncio.create_task(reader.read())
        await settle()
        assert not reading.done()
        await stage.write(frames(0, 2))
        assert await reading == frames(0, 2)


@virtual
async def test_two_watchers_share_one_copy_and_its_reader() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        both = await asyncio.gather(*(stage.follow() for _ in range(2)))
        assert both[0] is both[1] is await stage.follow()
        assert stage.streams.histories == ["msg_1"]
        await asyncio.sleep(0.1)  # what it has read until now is behind it
        before = stage.streams.reads
        await stage.write(frames(3, 4))
        await asyncio.sleep(0.1)
        assert stage.streams.reads - before == 1


@virtual
async def test_many_runs_share_one_reader() -> None:
    stage = Stage()
    async with stage.at_work():
        messages = [replace(MESSAGE, id=f"msg_{number}", run_id=f"run_{number}") for number in range(20)]
        copies = [await stage.follow(message) for message in messages]
        await settle()
        before = stage.streams.reads
        for message in messages:
            await stage.write(frames(0, 2), log=message.id)
        await settle()
        assert [all_of(copy) for copy in copies] == [frames(0, 2)] * 20
        assert stage.streams.reads - before <= 2  # all of them came with one answer


@virtual
async def test_a_run_with_the_end_in_its_log_is_replayed_whole() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 5), ended=True)
        followed = await stage.follow(ENDED_LONG_AGO)
        assert (all_of(followed), followed.ended.is_set()) == (frames(0, 5), True)
        assert virtual_now() == 0


@virtual
async def test_an_ended_run_whose_log_is_gone_is_not_followed() -> None:
    stage = Stage()
    async with stage.at_work():
        assert await stage.following.follow(ENDED_LONG_AGO) is None
        assert virtual_now() == 0
        just_now = replace(ENDED_LONG_AGO, ended_at=now())
        assert await stage.following.follow(just_now) is None  # after a moment in which its end might have come
        assert virtual_now() <= 2


@virtual
async def test_the_end_of_what_was_stored_just_now_is_waited_for() -> None:
    """Also where nothing of the log has come yet."""
    stage = Stage()
    async with stage.at_work():
        following = asyncio.create_task(stage.following.follow(replace(ENDED_LONG_AGO, ended_at=now())))
        await asyncio.sleep(1)
        assert not following.done()
        await stage.write(frames(0, 6), ended=True)
        followed = await following
        assert followed is not None and all_of(followed) == frames(0, 6)


@virtual
async def test_a_log_with_a_gap_is_not_followed() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        await stage.streams.end_lost("msg_1", 5, [b"last"], 60)
        assert await stage.following.follow(MESSAGE) is None  # nor as a live one: nothing more would come
        assert await stage.following.follow(replace(ENDED_LONG_AGO, status=Status.INTERRUPTED)) is None


@virtual
async def test_the_end_of_a_lost_run_ends_its_readers() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        reader = Reader(await stage.follow(), 0)
        await stage.streams.fence("msg_1", 60)
        await stage.streams.end_lost("msg_1", 3, [b"last"], 60)
        got: list[bytes] = []
        while new := await reader.read():
            got += new
        assert got == [*frames(0, 3), b"last"]
        assert (reader.feed.ended.is_set(), reader.feed.released) == (True, False)


@virtual
async def test_an_end_that_does_not_fit_lets_the_readers_come_back() -> None:
    stage = Stage()
    async with stage.at_work():
        await stage.write(frames(0, 3))
        followed = await stage.follow()
        await stage.streams.end_lost("msg_1", 3, [], 60)
        await settle()
        assert (followed.released, followed.ended.is_set(), all_of(followed)) == (True, False, frames(0, 3))
        assert await stage.following.follow(ENDED_LONG_AGO) is None  # what there is now is the stored answer
