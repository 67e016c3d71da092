"""A run and a letter go from one node to another, in whichever way Redis is run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from odysseus.cluster.connections import UNREACHABLE, connect
from odysseus.cluster.following import Following
from odysseus.cluster.mirror import Mirror
from odysseus.cluster.post import Post
from odysseus.cluster.streams import Streams
from odysseus.errors import SettingsError
from odysseus.feed import Feed
from odysseus.messages import Message, Role, new_id, now
from odysseus.states import Status
from odysseus.tasks import Tasks
from tests.postgres import Postgres
from tests.postgres import postgres as postgres  # the fixture
from tests.process.models import Cue, Models
from tests.process.nodes import nodes_with
from tests.process.raw_client import until
from tests.process.redis_kinds import KINDS, Replicated, as_cluster, by_sentinel, redis_of
from tests.waiting import soon

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

FRAMES = [f"id: {number}\ndata: {'x' * (number % 700)}\n\n".encode() for number in range(2000)]


class Side:
    """What a node has of Redis."""

    def __init__(self, name: str, url: str) -> None:
        self.streams = Streams(connect(url, answer_s=5.0), connect(url, answer_s=None))
        self.tasks = Tasks()
        self.post = Post(self.streams, self.tasks, {"greet": self._greet})
        self.post.node = name
        self.mirror = Mirror(self.streams, lambda feed: pytest.fail(f"{feed.id} is taken"), live_s=60, grace_s=60)
        self.following = Following(self.streams, self.tasks, self._owners, self.post.deliver, lambda followed: None)
        self.following.listen(name)

    async def _greet(self, name: str) -> str:
        return f"{self.post.node} greets {name}"

    async def _owners(self, run_ids: Any) -> dict[str, str]:
        return {}


@asynccontextmanager
async def sides(url: str) -> AsyncIterator[Sequence[Side]]:
    pair = [Side(new_id("node"), url) for _ in range(2)]
    working = [asyncio.create_task(work) for side in pair for work in (side.mirror.work(), side.following.read())]
    try:
        yield pair
    finally:
        for task in working:
            task.cancel()
        ends = await asyncio.gather(*working, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends
        for side in pair:
            await side.tasks.drain(5)
            await side.streams.close()


def answer(feed: Feed[bytes], owner: Side) -> Message:
    return Message(
        id=new_id("msg"),
        session_id=feed.session_id,
        role=Role.ASSISTANT,
        content="",
        reasoning="",
        parts=[],
        status=Status.STREAMING,
        created_at=now(),
        run_id=feed.id,
        detached=True,
        node=owner.post.node,
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_it_carries_runs_and_letters(kind: str) -> None:
    async with redis_of(kind) as url, sides(url) as (owner, other):
        await owner.streams.ping()
        asked = await other.post.ask(owner.post.node, "greet", "nothing", name="you")
        assert asked == f"{owner.post.node} greets you"
        await owner.streams.stop_unborn("alice", "run_1")
        assert await other.streams.is_stopped_unborn("alice", "run_1")

        feed: Feed[bytes] = Feed(new_id("run"), new_id("ses"))
        message = answer(feed, owner)
        owner.mirror.add(feed, message.id)
        followed = await other.following.follow(message)
        assert followed is not None
        for frame in FRAMES:
            feed.append(frame)
            await asyncio.sleep(0)
        feed.ended.set()
        feed.wake()
        async with asyncio.timeout(30):
            while not followed.over:
                await followed.changed()
        assert followed.log.read(0, 1 << 30) == FRAMES
        assert await owner.mirror.drain(10)
        await owner.streams.drop_inbox(owner.post.node)


REPLICATED = pytest.mark.parametrize("run", [by_sentinel, as_cluster])
Run = Callable[[Path], AbstractAsyncContextManager[Replicated]]


@REPLICATED
async def test_another_master_takes_over(run: Run, tmp_path: Path) -> None:
    """What the old one had not handed on, the owner gives to the new one; who follows the run sees all of it."""
    async with run(tmp_path) as redis, sides(redis.url) as (owner, other):
        feed: Feed[bytes] = Feed(new_id("run"), new_id("ses"))
        message = answer(feed, owner)
        owner.mirror.add(feed, message.id)
        followed = await other.following.follow(message)
        assert followed is not None

        async def say(frames: Sequence[bytes]) -> None:
            for frame in frames:
                feed.append(frame)
                await asyncio.sleep(0.001)

        await say(FRAMES[:500])
        saying = asyncio.create_task(say(FRAMES[500:]))
        await redis.fail_over()
        await saying
        feed.ended.set()
        feed.wake()
        async with asyncio.timeout(30):
            while not followed.over:
                await followed.changed()
        assert followed.log.read(0, 1 << 30) == FRAMES

        async def reached() -> bool:
            with suppress(*UNREACHABLE):
                await other.streams.ping()
                return True
            return False

        await until(reached)  # who comes first may find a connection that was the old one's
        assert await soon(other.post.ask(owner.post.node, "greet", "nothing", name="you"))


@REPLICATED
async def test_nodes_outlive_their_master(run: Run, models: Models, tmp_path: Path, postgres: Postgres) -> None:
    async with (
        run(tmp_path) as redis,
        nodes_with(2, models, tmp_path, redis=redis.master, postgres=postgres, redis_url=redis.url) as nodes,
    ):
        client = await nodes[0].service.chat(models.plan(cue := Cue("Hello")))
        await client.read_text("Hello")
        there = await nodes[1].service.resume(client.session_id)
        await there.read_text("Hello")
        await redis.fail_over()
        cue.say(", world")
        await there.read_text("Hello, world")
        cue.end()
        await there.read_all()
        await client.read_all()
        assert there.payloads == client.payloads

        async def answers() -> bool:
            return (await nodes[1].service.stop(client.session_id)).status == 200

        await until(answers)
    await models.all_closed()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("localhost:6379", "must begin with redis://"),
        ("http://localhost", "must begin with redis://"),
        ("unix+cluster://localhost", "must begin with redis://"),
        ("redis://localhost:high", "Port could not be cast"),
        ("redis+sentinel://localhost", "names no master"),
        ("redis+sentinel://localhost:x/main", "invalid literal"),
        ("redis+cluster://localhost/1", "'db' must be 0"),
    ],
)
async def test_a_url_that_names_no_redis(url: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem) as refused:
        connect(url, answer_s=1.0)
    assert refused.value.setting == "ODYSSEUS_REDIS_URL"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost:1", "rediss://localhost:1", "unix:///nowhere", "redis+sentinel://localhost:1/main",
        "redis+cluster://localhost:1", "redis+cluster://localhost:1,localhost:2",
    ],
)  # fmt: skip
async def test_a_redis_that_is_not_there(url: str) -> None:
    streams = Streams(connect(url, answer_s=1.0), connect(url, answer_s=None))
    try:
        with pytest.raises(UNREACHABLE):
            await streams.ping()
        with pytest.raises(UNREACHABLE):
            await streams.send("node", b"")
        with pytest.raises(UNREACHABLE):
            await streams.read({"key": "0-0"}, 10)
    finally:
        await streams.close()
