"""What the tests of following play with: a node that follows, and the owner's side of the logs."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from odysseus.cluster.followed import Followed
from odysseus.cluster.following import Following
from odysseus.cluster.streams import ENDED, Write
from odysseus.errors import StoreError
from odysseus.messages import Message, Mode, Role, now
from odysseus.states import Status
from odysseus.tasks import Tasks
from tests.cluster.memory import MemoryStreams, at_work

__all__ = ["ENDED_LONG_AGO", "MESSAGE", "Stage", "all_of", "frames", "settle"]

MESSAGE = Message(
    id="msg_1",
    session_id="ses_1",
    role=Role.ASSISTANT,
    content="",
    reasoning="",
    parts=[],
    status=Status.STREAMING,
    created_at=now(),
    model="m",
    run_id="run_1",
    mode=Mode.CHAT,
    detached=True,
    node="b",
)
ENDED_LONG_AGO = replace(MESSAGE, status=Status.DONE, ended_at=now() - timedelta(seconds=60))


def frames(start: int, stop: int) -> list[bytes]:
    return [b"id: run_1.%d\ndata: {}\n\n" % number for number in range(start, stop)]


class Stage:
    """A node that follows, and the owner's side of the logs."""

    def __init__(self) -> None:
        self.streams = MemoryStreams()
        self.live: dict[str, str] | None = {"run_1": "b", "run_2": "b"}
        """Which runs the store says are live, and where; None while it is away."""
        self.looks: list[Collection[str]] = []
        self.letters: list[bytes] = []
        self.watched: list[tuple[str, int]] = []
        self.tasks = Tasks()
        self.following = Following(
            self.streams,
            self.tasks,
            self._owners,
            self.letters.append,
            lambda followed: self.watched.append((followed.id, followed.subscribers)),
        )
        self._written: dict[str, int] = {}

    async def _owners(self, run_ids: Collection[str]) -> Mapping[str, Any]:
        self.looks.append(run_ids)
        if self.live is None:
            raise StoreError("away")
        return {run_id: self.live[run_id] for run_id in run_ids if run_id in self.live}

    def at_work(self) -> AbstractAsyncContextManager[None]:
        self.following.listen("a")
        return at_work(self.following.read, self.following.look)

    async def write(self, new: Sequence[bytes] = (), *, ended: bool = False, log: str = "msg_1") -> None:
        """Write as the owner does."""
        after = self._written.get(log, 0)
        self._written[log] = after + len(new)
        [count] = await self.streams.append([Write(log, after, new, ended, 60)])
        assert count == (ENDED if ended else self._written[log])

    async def rewrite(self, upto: int) -> None:
        """Give an emptied Redis all there was, as the owner does."""
        [count] = await self.streams.append([Write("msg_1", 0, frames(0, upto), False, 60)])
        assert count == upto
        self._written["msg_1"] = upto

    async def follow(self, message: Message = MESSAGE) -> Followed:
        followed = await self.following.follow(message)
        assert followed is not None
        return followed


def all_of(followed: Followed) -> list[bytes]:
    return list(followed.log.read(0, 1 << 40))


async def settle() -> None:
    await asyncio.sleep(0.5)
