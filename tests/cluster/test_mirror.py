"""What grows here is written to Redis: in batches, in order, once, and again when Redis has lost it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from odysseus.cluster.entries import Place
from odysseus.cluster.mirror import Mirror
from odysseus.cluster.streams import Write, log_of
from odysseus.feed import Feed
from tests.cluster.memory import MemoryStreams, at_work, frames_of
from tests.scenes import virtual
from tests.virtual_time import now

LIVE_S, GRACE_S = 7000, 180


class Stage:
    """A mirror, the streams that it writes to, and runs that say what they are told."""

    def __init__(self) -> None:
        self.streams = MemoryStreams()
        self.taken: list[str] = []
        self.mirror = Mirror(self.streams, lambda feed: self.taken.append(feed.id), live_s=LIVE_S, grace_s=GRACE_S)

    def run(self, number: int = 1, frames: Sequence[bytes] = ()) -> Feed[bytes]:
        feed: Feed[bytes] = Feed(f"run_{number}", "ses_1")
        for frame in frames:
            feed.append(frame)
        self.mirror.add(feed, f"msg_{number}")
        return feed

    async def log(self, number: int = 1) -> list[bytes]:
        return await frames_of(self.streams, f"msg_{number}")

    async def places(self, number: int = 1) -> list[Place]:
        return [entry.place async for entry in self.streams.history(f"msg_{number}")]


def end(feed: Feed[bytes]) -> None:
    feed.log.close()
    feed.ended.set()
    feed.wake()


def numbered(start: int, stop: int) -> list[bytes]:
    return [b"frame %d\n\n" % number for number in range(start, stop)]


@virtual
async def test_the_first_frame_goes_at_once_and_the_next_ones_together() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed = stage.run()
        await asyncio.sleep(1)
        feed.append(b"first")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (now(), await stage.log()) == (1, [b"first"])
        before = len(stage.streams.appended)
        for number in range(50):
            feed.append(b"%d" % number)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        assert await stage.log() == [b"first", *(b"%d" % number for number in range(50))]
        assert len(stage.streams.appended) - before <= 6  # fifty frames in fifty milliseconds


@virtual
async def test_nothing_is_written_while_nothing_happens() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        stage.run(frames=numbered(0, 3))
        await asyncio.sleep(1)
        before = len(stage.streams.appended)
        await asyncio.sleep(3600)
        assert len(stage.streams.appended) == before


@virtual
async def test_the_end_is_written_with_what_it_ends_and_shortens_the_life_of_the_log() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 3))
        await asyncio.sleep(1)
        assert {write.keep_s for batch in stage.streams.appended for write in batch} == {LIVE_S}
        feed.log.append(b"last")  # as `Lifetime` does it: the last frames and the end are told of once
        end(feed)
        await asyncio.sleep(1)
        assert await stage.log() == [*numbered(0, 3), b"last"]
        assert (await stage.places())[-1] is Place.END
        assert (stage.streams.appended[-1][0].keep_s, stage.mirror.behind) == (GRACE_S, 0)
        before = len(stage.streams.appended)
        feed.wake()
        await asyncio.sleep(60)
        assert len(stage.streams.appended) == before  # a log with its end is done with


@virtual
async def test_a_run_that_ended_before_anything_was_written() -> None:
    stage = Stage()
    end(stage.run(frames=numbered(0, 3)))
    async with at_work(stage.mirror.work):
        await asyncio.sleep(1)
    assert (await stage.log(), (await stage.places())[-1]) == (numbered(0, 3), Place.END)


@virtual
async def test_what_comes_while_a_write_is_under_way_goes_with_the_next_one() -> None:
    stage = Stage()
    stage.streams.write_s = 0.2
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 3))
        await asyncio.sleep(0.1)
        feed.append(numbered(3, 4)[0])
        await asyncio.sleep(0.2)
        end(feed)
        await asyncio.sleep(1)
        assert (await stage.log(), (await stage.places())[-1]) == (numbered(0, 4), Place.END)


@virtual
async def test_many_runs_share_a_batch_but_not_too_many() -> None:
    stage = Stage()
    feeds = [stage.run(number, [b"first"]) for number in range(250)]
    async with at_work(stage.mirror.work):
        await asyncio.sleep(1)
        assert [len(batch) for batch in stage.streams.appended] == [100, 100, 50]
        for feed in feeds[:3]:
            feed.append(b"second")
        await asyncio.sleep(1)
        assert [len(batch) for batch in stage.streams.appended[3:]] in ([3], [1, 2])
    assert [await stage.log(number) for number in (0, 2, 3)] == [[b"first", b"second"]] * 2 + [[b"first"]]


@virtual
async def test_a_long_backlog_goes_in_pieces() -> None:
    stage = Stage()
    frames = [b"%04d" % number + b"." * 10_000 for number in range(60)]
    frames[30] = b"x" * 200_000  # alone longer than a piece
    stage.run(frames=frames)
    async with at_work(stage.mirror.work):
        await asyncio.sleep(5)
    assert await stage.log() == frames
    sizes = [sum(map(len, write.frames)) for batch in stage.streams.appended for write in batch]
    assert len(sizes) > 10
    assert all(size <= 64 * 1024 for size in sizes if size != 200_000)


@virtual
async def test_an_outage_loses_and_doubles_nothing() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 3))
        await asyncio.sleep(1)
        stage.streams.away = True
        for frame in numbered(3, 20):
            feed.append(frame)
            await asyncio.sleep(1)
        stage.streams.away = False
        assert await stage.log() == numbered(0, 3)
        stage.streams.appended.clear()
        await asyncio.sleep(1.1)  # the longest pause
        assert await stage.log() == numbered(0, 20)
        assert stage.streams.appended[0][0].after == 3  # not from the start again
        end(feed)
        await asyncio.sleep(1)
    assert (await stage.places())[-1] is Place.END


@virtual
async def test_a_write_whose_answer_is_lost_is_not_doubled() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 3))
        stage.streams.lose_answers = True
        await asyncio.sleep(1)
        feed.append(numbered(3, 4)[0])
        await asyncio.sleep(1)
        stage.streams.lose_answers = False
        await asyncio.sleep(2)
        end(feed)
        await asyncio.sleep(1)
    assert await stage.log() == numbered(0, 4)
    assert await stage.places() == [Place.FRAMES, Place.FRAMES, Place.END]


@virtual
async def test_an_end_whose_answer_is_lost_is_not_doubled() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        stage.streams.lose_answers = True
        end(stage.run(frames=numbered(0, 3)))
        await asyncio.sleep(3)
        stage.streams.lose_answers = False
        await asyncio.sleep(2)
        assert stage.mirror.behind == 0
    assert await stage.places() == [Place.FRAMES, Place.END]
    assert stage.taken == []


@virtual
async def test_begun_again_after_it_broke_it_writes_what_it_owes() -> None:
    stage = Stage()
    append = stage.streams.append

    async def broken(_: Sequence[Write]) -> Sequence[int]:
        raise ValueError("a bug")

    stage.streams.append = broken  # type: ignore[method-assign]
    end(stage.run(frames=numbered(0, 3)))
    with pytest.raises(ValueError, match="a bug"):
        await stage.mirror.work()
    stage.streams.append = append  # type: ignore[method-assign]
    async with at_work(stage.mirror.work):
        await asyncio.sleep(1)
    assert (await stage.log(), (await stage.places())[-1]) == (numbered(0, 3), Place.END)


@virtual
async def test_while_redis_is_away_one_write_looks_for_it() -> None:
    """A hundred runs would each be a try; and the tries become rarer."""
    stage = Stage()
    stage.streams.away = True
    for number in range(100):
        stage.run(number, [b"first"])
    async with at_work(stage.mirror.work):
        await asyncio.sleep(60)
        assert {len(batch) for batch in stage.streams.appended[1:]} == {1}
        assert 50 <= len(stage.streams.appended) <= 70
        assert stage.mirror.behind == 100
        stage.streams.away = False
        await asyncio.sleep(1.2)
        assert [await stage.log(number) for number in range(100)] == [[b"first"]] * 100
        assert stage.mirror.behind == 0


@virtual
async def test_what_an_emptied_redis_has_lost_is_given_to_it_again() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 40))
        await asyncio.sleep(1)
        stage.streams.empty()
        await asyncio.sleep(60)
        assert stage.streams.kept.get(log_of("msg_1")) is None  # nobody has noticed yet
        feed.append(numbered(40, 41)[0])
        await asyncio.sleep(1)
        assert await stage.log() == numbered(0, 41)
        stage.streams.empty()
        end(feed)
        await asyncio.sleep(1)
    assert (await stage.log(), (await stage.places())[-1]) == (numbered(0, 41), Place.END)


@virtual
async def test_what_a_silent_run_has_lost_is_noticed_too() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work), at_work(stage.mirror.look):
        feed = stage.run(frames=numbered(0, 40))
        await asyncio.sleep(1)
        stage.streams.empty()
        await asyncio.sleep(12)
        assert await stage.log() == numbered(0, 40)
        end(feed)
        await asyncio.sleep(1)
        written = len(stage.streams.appended)
        await asyncio.sleep(60)
        assert len(stage.streams.appended) == written  # nobody looks after what has its end


@virtual
async def test_a_run_that_another_node_has_ended_is_told_once_and_written_no_more() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed, other = stage.run(1, numbered(0, 3)), stage.run(2, numbered(0, 3))
        await asyncio.sleep(1)
        await stage.streams.fence("msg_1", 60)
        for frame in numbered(3, 6):
            feed.append(frame)
            other.append(frame)
            await asyncio.sleep(1)
        assert (stage.taken, stage.mirror.behind) == (["run_1"], 0)
    assert await stage.log(1) == numbered(0, 3)
    assert await stage.log(2) == numbered(0, 6)


@virtual
async def test_what_is_withdrawn_is_not_written() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 3))
        await asyncio.sleep(1)
        feed.append(b"more")
        feed.withdraw()
        end(feed)
        await asyncio.sleep(1)
        assert (await stage.log(), stage.mirror.behind) == (numbered(0, 3), 0)
        assert await stage.places() == [Place.FRAMES]


@virtual
async def test_what_is_withdrawn_during_a_write_is_not_written_after_it() -> None:
    """Redis may have lost whatever keeps its owner out, and its end would be taken for that of the answer."""
    stage = Stage()
    stage.streams.write_s = 1.0
    async with at_work(stage.mirror.work):
        feed = stage.run(frames=numbered(0, 3))
        await asyncio.sleep(0.5)
        feed.withdraw()
        await asyncio.sleep(2)
        stage.run(2, numbered(0, 3))
        await asyncio.sleep(2)
        end(feed)
        await asyncio.sleep(2)
        assert await stage.places() == [Place.FRAMES]
        assert (stage.mirror.behind, await stage.mirror.drain(5)) == (0, True)


@virtual
async def test_draining_waits_for_what_is_behind() -> None:
    stage = Stage()
    async with at_work(stage.mirror.work):
        assert await stage.mirror.drain(5) is True
        stage.streams.away = True
        end(stage.run(1, numbered(0, 3)))
        end(stage.run(2, numbered(0, 3)))
        draining = asyncio.create_task(stage.mirror.drain(5))
        await asyncio.sleep(2)
        assert not draining.done()
        stage.streams.away = False
        assert await draining is True
        assert now() < 3.5
    assert [(await stage.places(number))[-1] for number in (1, 2)] == [Place.END, Place.END]


@virtual
async def test_draining_gives_up() -> None:
    stage = Stage()
    stage.streams.away = True
    async with at_work(stage.mirror.work):
        end(stage.run(frames=numbered(0, 3)))
        assert await stage.mirror.drain(5) is False
        assert (now(), stage.mirror.behind) == (5, 1)
