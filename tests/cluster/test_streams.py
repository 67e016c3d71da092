"""The logs' rules in a real Redis, and in the memory that stands in for it where time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis as Client
from redis.crc import key_slot
from redis.exceptions import ResponseError

from odysseus.cluster.connections import UNREACHABLE
from odysseus.cluster.entries import START, Entry, Place, log_entry
from odysseus.cluster.streams import ENDED, TAKEN, Streams, Write, inbox_of, log_of
from tests.cluster.memory import MemoryStreams, frames_of
from tests.process.redis import Redis
from tests.waiting import soon

FRAMES = [b"id: r.%d\ndata: {}\n\n" % number for number in range(10)]
LOG = "msg_1"


@pytest.fixture(params=["redis", "memory"])
def logs(request: pytest.FixtureRequest) -> Streams:
    found: Streams = request.getfixturevalue("streams") if request.param == "redis" else MemoryStreams()
    return found


async def append(streams: Streams, after: int, upto: int, *, ended: bool = False, log: str = LOG) -> int:
    """Write the frames from *after* on, before *upto*; return what the log says to it."""
    [count] = await streams.append([Write(log, after, FRAMES[after:upto], ended, 60)])
    return count


async def entries(streams: Streams, log: str = LOG, after: str = START) -> list[Entry]:
    return [entry async for entry in streams.history(log, after)]


async def ttl(redis: Redis, key: str) -> int:
    return int((await redis.call("TTL", key)).removeprefix(":"))


# Frames and the owner's end


async def test_frames_are_kept_as_they_were_written(logs: Streams) -> None:
    assert await append(logs, 0, 3) == 3
    assert await append(logs, 3, 4) == 4
    assert await entries(logs) == [
        Entry("0-3", Place.FRAMES, 3, FRAMES[:3]),
        Entry("0-4", Place.FRAMES, 4, FRAMES[3:4]),
    ]


async def test_any_bytes_of_any_length(logs: Streams) -> None:
    frames = [b"", b"\0\r\n", bytes(range(256)), b"x" * 300_000, b""]
    [count] = await logs.append([Write(LOG, 0, frames, False, 60)])
    assert (count, await frames_of(logs, LOG)) == (5, frames)


async def test_what_is_written_twice_stands_once(logs: Streams) -> None:
    await append(logs, 0, 3)
    assert await append(logs, 0, 3) == 3
    assert await append(logs, 0, 5) == 3  # also with more than the first time: it isn't known where that begins
    assert await append(logs, 2, 5) == 3
    assert await frames_of(logs, LOG) == FRAMES[:3]
    assert await append(logs, 3, 5) == 5
    assert await frames_of(logs, LOG) == FRAMES[:5]


async def test_no_gap_is_written(logs: Streams) -> None:
    assert await append(logs, 3, 5) == 0
    await append(logs, 0, 2)
    assert await append(logs, 3, 5) == 2
    assert await append(logs, 3, 5, ended=True) == 2
    assert await frames_of(logs, LOG) == FRAMES[:2]
    assert [entry.place for entry in await entries(logs)] == [Place.FRAMES]


async def test_nothing_new_tells_where_the_log_stands(logs: Streams) -> None:
    await append(logs, 0, 4)
    assert (await append(logs, 4, 4), await append(logs, 0, 0)) == (4, 4)


async def test_the_end_closes_the_log(logs: Streams) -> None:
    await append(logs, 0, 2)
    assert await append(logs, 2, 4, ended=True) == ENDED
    assert await append(logs, 2, 4, ended=True) == ENDED
    assert await append(logs, 4, 6) == ENDED
    assert await frames_of(logs, LOG) == FRAMES[:4]
    assert (await entries(logs))[-1] == Entry("1-4", Place.END, 4, [])


async def test_an_end_without_frames(logs: Streams) -> None:
    await append(logs, 0, 4)
    assert await append(logs, 4, 4, ended=True) == ENDED
    assert [entry.id for entry in await entries(logs)] == ["0-4", "1-4"]


async def test_many_logs_at_once_are_answered_each_for_itself(logs: Streams) -> None:
    await append(logs, 0, 2, log="msg_2")
    await append(logs, 0, 2, ended=True, log="msg_3")
    await logs.fence("msg_4", 60)
    writes = [Write(f"msg_{number}", 0, FRAMES[:1], False, 60) for number in range(1, 6)]
    assert await logs.append(writes) == [1, 2, ENDED, TAKEN, 1]
    assert await logs.append([]) == []


# Another node's end


async def test_behind_a_fence_comes_no_frame(logs: Streams) -> None:
    await append(logs, 0, 3)
    await logs.fence(LOG, 60)
    assert await append(logs, 3, 5) == TAKEN
    assert await append(logs, 3, 5, ended=True) == TAKEN
    assert await frames_of(logs, LOG) == FRAMES[:3]
    assert (await entries(logs))[-1] == Entry("2-0", Place.FENCE, 0, [])


async def test_a_fence_before_the_first_frame(logs: Streams) -> None:
    await logs.fence(LOG, 60)
    assert await append(logs, 0, 1) == TAKEN


async def test_the_end_of_a_lost_run(logs: Streams) -> None:
    await append(logs, 0, 3)
    await logs.fence(LOG, 60)
    await logs.end_lost(LOG, 3, [b"last"], 60)
    assert (await entries(logs))[-1] == Entry("3-3", Place.END_OF_LOST, 3, [b"last"])
    assert await append(logs, 3, 5) == TAKEN


async def test_whatever_is_tried_again_changes_nothing(logs: Streams) -> None:
    await append(logs, 0, 3)
    for _ in range(2):
        await logs.fence(LOG, 60)
    for _ in range(2):
        await logs.end_lost(LOG, 3, [b"last"], 60)
    await logs.fence(LOG, 60)
    assert [entry.id for entry in await entries(logs)] == ["0-3", "2-0", "3-3"]


async def test_the_end_of_a_lost_run_without_its_frames(logs: Streams) -> None:
    await logs.end_lost(LOG, 0, [], 60)
    assert await entries(logs) == [Entry("3-0", Place.END_OF_LOST, 0, [])]


# Reading


async def test_history_goes_on_after_any_entry(logs: Streams) -> None:
    for number in range(5):
        await append(logs, number, number + 1)
    whole = await entries(logs)
    for seen, entry in enumerate(whole, 1):
        assert await entries(logs, after=entry.id) == whole[seen:]
    assert await entries(logs, "msg_of_nobody") == []


@pytest.mark.parametrize("count", [99, 100, 101, 250])
async def test_a_long_history_comes_in_pages(streams: Streams, count: int) -> None:
    frames = [b"%d" % number for number in range(count)]
    for number, frame in enumerate(frames):
        await streams.append([Write(LOG, number, [frame], False, 60)])
    assert await frames_of(streams, LOG) == frames


async def test_a_read_brings_what_came_after_each_cursor(logs: Streams) -> None:
    for log in ("msg_1", "msg_2", "msg_3"):
        await append(logs, 0, 2, log=log)
        await append(logs, 2, 4, log=log)
    cursors = {log_of("msg_1"): START, log_of("msg_2"): "0-2", log_of("msg_3"): "0-4", log_of("msg_4"): START}
    found = {key: [log_entry(*raw).id for raw in raws] for key, raws in await logs.read(cursors, 100)}
    assert found == {log_of("msg_1"): ["0-2", "0-4"], log_of("msg_2"): ["0-4"]}


async def test_a_read_waits_for_what_comes_and_not_for_ever(logs: Streams) -> None:
    assert list(await soon(logs.read({log_of(LOG): START}, 50))) == []
    reading = asyncio.create_task(logs.read({log_of(LOG): START, log_of("msg_2"): START}, 20_000))
    done, _ = await asyncio.wait({reading}, timeout=0.1)
    assert not done
    await append(logs, 0, 2)
    [(key, [raw])] = await soon(reading)
    assert (key, log_entry(*raw)) == (log_of(LOG), Entry("0-2", Place.FRAMES, 2, FRAMES[:2]))


async def test_a_cancelled_read_loses_nothing(streams: Streams) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await streams.read({log_of(LOG): START}, 20_000)
    await append(streams, 0, 2)
    [(_, [raw])] = await soon(streams.read({log_of(LOG): START}, 20_000))
    assert log_entry(*raw).frames == FRAMES[:2]


async def test_letters_come_in_their_order_until_the_inbox_is_dropped(logs: Streams) -> None:
    for letter in (b"one", b"two"):
        await logs.send("node_1", letter)
    await logs.send("node_2", b"another's")
    [(key, raws)] = await logs.read({inbox_of("node_1"): START}, 100)
    assert (key, [fields[b"l"] for _, fields in raws]) == (inbox_of("node_1"), [b"one", b"two"])
    [(_, [(_, fields)])] = await logs.read({inbox_of("node_1"): raws[0][0].decode()}, 100)
    assert fields[b"l"] == b"two"
    await logs.drop_inbox("node_1")
    assert list(await logs.read({inbox_of("node_1"): START}, 50)) == []


async def test_stops_of_runs_that_have_not_arrived(logs: Streams) -> None:
    await logs.stop_unborn("ann", "run_1")
    asked = [("ann", "run_1"), ("bob", "run_1"), ("ann", "run_2")]
    assert [await logs.is_stopped_unborn(*who) for who in asked] == [True, False, False]


# What only Redis itself can show


async def test_a_server_that_has_forgotten_the_script_is_taught_it(redis: Redis, streams: Streams) -> None:
    assert await append(streams, 0, 2) == 2
    await redis.call("SCRIPT", "FLUSH")
    assert await append(streams, 2, 4) == 4
    assert await frames_of(streams, LOG) == FRAMES[:4]


async def test_one_log_that_fails_is_told_and_holds_no_other_up(redis: Redis, streams: Streams) -> None:
    await redis.call("SET", log_of("msg_2"), "x")
    writes = [Write(f"msg_{number}", 0, FRAMES[:1], False, 60) for number in (1, 2, 3)]
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await streams.append(writes)
    assert await frames_of(streams, "msg_1") == await frames_of(streams, "msg_3") == FRAMES[:1]
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await streams.fence("msg_2", 60)


async def test_nothing_stays_for_ever(redis: Redis, streams: Streams) -> None:
    await streams.append([Write(LOG, 0, FRAMES[:1], False, 500)])
    assert 490 <= await ttl(redis, log_of(LOG)) <= 500
    await streams.append([Write(LOG, 0, FRAMES[:1], False, 900)])  # a write that is refused prolongs nothing
    assert await ttl(redis, log_of(LOG)) <= 500
    await streams.append([Write(LOG, 1, [], True, 70)])
    assert 60 <= await ttl(redis, log_of(LOG)) <= 70
    await streams.fence("msg_2", 80)
    assert 70 <= await ttl(redis, log_of("msg_2")) <= 80
    await streams.end_lost("msg_2", 0, [], 40)
    assert 30 <= await ttl(redis, log_of("msg_2")) <= 40
    await streams.send("node_1", b"letter")
    assert 3500 <= await ttl(redis, inbox_of("node_1")) <= 3600
    await streams.stop_unborn("ann", "run_1")
    keys = await redis_keys(redis)
    assert {inbox_of("node_1"), log_of(LOG), log_of("msg_2")} < keys
    [unborn] = keys - {inbox_of("node_1"), log_of(LOG), log_of("msg_2")}
    assert 50 <= await ttl(redis, unborn) <= 60


async def redis_keys(redis: Redis) -> set[str]:
    client = Client.from_url(redis.url)
    try:
        return {key.decode() for key in await client.keys()}
    finally:
        await client.aclose()


async def test_an_inbox_that_nobody_empties_stays_short(redis: Redis, streams: Streams) -> None:
    client = Client.from_url(redis.url)
    pipeline = client.pipeline(transaction=False)
    for number in range(11_000):
        pipeline.xadd(inbox_of("node_1"), {"l": str(number)})
    await pipeline.execute()
    await streams.send("node_1", b"last")
    length = await client.xlen(inbox_of("node_1"))
    [(_, newest)] = await client.xrevrange(inbox_of("node_1"), count=1)
    await client.aclose()
    assert 10_000 <= length < 10_200  # whole nodes of Redis' own tree are let go
    assert newest[b"l"] == b"last"


async def test_all_keys_share_a_slot(redis: Redis, streams: Streams) -> None:
    """A Redis Cluster reads many streams in one command only then."""
    await append(streams, 0, 1)
    await append(streams, 0, 1, log="msg_2")
    await streams.send("node_1", b"letter")
    await streams.stop_unborn("ann", "run_1")
    keys = await redis_keys(redis)
    assert len(keys) == 4
    assert len({key_slot(key.encode()) for key in keys}) == 1


VERBS: dict[str, Callable[[Streams], Awaitable[object]]] = {
    "ping": lambda streams: streams.ping(),
    "append": lambda streams: append(streams, 0, 1),
    "history": entries,
    "fence": lambda streams: streams.fence(LOG, 60),
    "end_lost": lambda streams: streams.end_lost(LOG, 0, [], 60),
    "stop_unborn": lambda streams: streams.stop_unborn("ann", "run_1"),
    "is_stopped_unborn": lambda streams: streams.is_stopped_unborn("ann", "run_1"),
    "send": lambda streams: streams.send("node_1", b"letter"),
    "drop_inbox": lambda streams: streams.drop_inbox("node_1"),
}


@pytest.mark.parametrize("how", ["stopped", "frozen"])
async def test_a_redis_that_is_away_is_told_by_every_verb(redis: Redis, streams: Streams, how: str) -> None:
    await append(streams, 0, 1)
    if how == "stopped":
        await redis.stop()
    else:
        redis.freeze()
    for verb in VERBS.values():
        with pytest.raises(UNREACHABLE):
            await soon(verb(streams))
    if how == "stopped":
        with pytest.raises(UNREACHABLE):
            await streams.read({log_of(LOG): START}, 100)
        await redis.start()
    else:
        redis.thaw()
    assert await append(streams, 0, 1, log="msg_2") == 1


async def test_the_memory_fails_as_redis_does() -> None:
    streams = MemoryStreams()
    streams.away = True
    for verb in (*VERBS.values(), lambda streams: streams.read({log_of(LOG): START}, 100)):
        with pytest.raises(UNREACHABLE):
            await verb(streams)
