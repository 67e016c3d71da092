"""Letters between nodes: answered, refused, lost; nobody waits longer than a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from odysseus.cluster.post import Post
from odysseus.errors import AlreadyDecided, NodeUnreachable, NotFound
from odysseus.tasks import Tasks
from tests.cluster.memory import MemoryStreams
from tests.scenes import virtual
from tests.virtual_time import now

ANSWER_S = 3.0


class Wire(MemoryStreams):
    """Delivers what is sent, after a while, to the nodes that listen."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: dict[str, Post] = {}
        self.late_s = 0.01
        self.sent = 0
        self.copies = 1

    async def send(self, node: str, letter: bytes) -> None:
        self._check()
        self.sent += 1
        if node in self.posts:
            for _ in range(self.copies):
                asyncio.get_running_loop().call_later(self.late_s, self.posts[node].deliver, letter)


class Node:
    def __init__(self, wire: Wire, name: str) -> None:
        self.called: list[dict[str, Any]] = []
        self.tasks = Tasks()
        self.handlers: dict[str, Callable[..., Awaitable[Any]]] = {"note": self._note}
        self.post = Post(wire, self.tasks, self.handlers)
        self.post.node = name
        wire.posts[name] = self.post

    async def _note(self, **values: Any) -> Any:
        self.called.append(values)
        return {"heard": values}


def raises(error: Exception) -> Callable[..., Awaitable[Any]]:
    async def handler(**_: Any) -> None:
        raise error

    return handler


def pair() -> tuple[Wire, Node, Node]:
    wire = Wire()
    return wire, Node(wire, "a"), Node(wire, "b")


@virtual
async def test_a_letter_is_handled_once_and_answered_by_nobody() -> None:
    wire, a, b = pair()
    a.post.tell("b", "note", run_id="run_1", subscribers=3)
    await asyncio.sleep(1)
    assert (b.called, a.called, wire.sent) == ([{"run_id": "run_1", "subscribers": 3}], [], 1)


@virtual
async def test_a_question_is_answered() -> None:
    _, a, b = pair()
    assert await a.post.ask("b", "note", "nothing is lost", text="h\u00e4\n") == {"heard": {"text": "h\u00e4\n"}}
    assert b.called == [{"text": "h\u00e4\n"}]


@virtual
async def test_each_gets_its_own_answer() -> None:
    _, a, b = pair()

    async def slower(number: int) -> int:
        await asyncio.sleep(1 / (number + 1))
        return number

    b.handlers["slower"] = slower  # handlers may be added later
    asked = [a.post.ask("b", "slower", "", number=number) for number in range(10)]
    assert await asyncio.gather(*asked) == list(range(10))


@pytest.mark.parametrize("refusal", [NotFound("call"), AlreadyDecided("call_1")])
@virtual
async def test_a_refusal_is_raised_where_it_was_asked(refusal: Exception) -> None:
    _, a, b = pair()
    b.handlers["refuse"] = raises(refusal)
    with pytest.raises(type(refusal)) as raised:
        await a.post.ask("b", "refuse", "")
    assert str(raised.value) == str(refusal)


@virtual
async def test_a_silent_node_is_waited_for_a_moment() -> None:
    _, a, _ = pair()
    with pytest.raises(NodeUnreachable, match="nothing is decided"):
        await a.post.ask("nobody", "note", "nothing is decided")
    assert now() == ANSWER_S


@virtual
async def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    wire, a, b = pair()
    wire.late_s = 2
    with pytest.raises(NodeUnreachable):
        await a.post.ask("b", "note", "")
    await asyncio.sleep(10)
    wire.late_s = 0.01
    assert await a.post.ask("b", "note", "") == {"heard": {}}
    assert len(b.called) == 2


@virtual
async def test_an_answer_that_comes_twice_is_taken_once() -> None:
    wire, a, _ = pair()
    wire.copies = 2
    assert await a.post.ask("b", "note", "") == {"heard": {}}
    await asyncio.sleep(1)


@virtual
async def test_without_redis_it_is_known_at_once() -> None:
    wire, a, b = pair()
    wire.away = True
    with pytest.raises(NodeUnreachable, match="nothing is decided"):
        await a.post.ask("b", "note", "nothing is decided")
    a.post.tell("b", "note")
    await asyncio.sleep(0)
    assert now() == 0
    wire.away = False
    await asyncio.sleep(10)
    assert b.called == []


@virtual
async def test_an_answer_that_cannot_be_sent_is_lost() -> None:
    wire, a, b = pair()

    async def cut(**_: Any) -> None:
        wire.away = True

    b.handlers["cut"] = cut
    with pytest.raises(NodeUnreachable):
        await a.post.ask("b", "cut", "")


@virtual
async def test_who_is_cancelled_while_it_asks_leaves_nothing() -> None:
    _, a, b = pair()
    asking = asyncio.create_task(a.post.ask("b", "note", ""))
    await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.wait({asking})
    await asyncio.sleep(1)
    assert len(b.called) == 1
    assert await a.post.ask("b", "note", "") == {"heard": {}}


@virtual
async def test_a_letter_of_a_newer_version_is_let_be() -> None:
    _, one, other = pair()
    one.post.tell("b", "dance")
    with pytest.raises(NodeUnreachable):
        await one.post.ask("b", "dance", "nobody dances")
    assert await one.post.ask("b", "note", "") == {"heard": {}}
    assert other.called == [{}]
