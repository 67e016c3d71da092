"""Who is alive: in virtual time, with a register that is as slow, or as far away, as a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import pytest

from odysseus.cluster.membership import Beat, Membership
from odysseus.errors import StoreError
from odysseus.states import StopReason
from tests.scenes import virtual
from tests.virtual_time import now

LEASE_S = 10.0


class Look(NamedTuple):
    others: dict[str, int]
    stops: dict[str, StopReason]


class Register:
    def __init__(self) -> None:
        self.beats: dict[str, int] = {}
        self.away = False
        self.slow_s = 0.0
        self.no_joining = False

    async def join(self, node: str) -> None:
        await self._work()
        if self.no_joining:
            raise StoreError("full")
        self.beats[node] = 0

    async def leave(self, node: str) -> None:
        await self._work()
        self.beats.pop(node, None)

    async def beat(self, node: str) -> Beat | None:
        await self._work()
        if node not in self.beats:
            return None
        self.beats[node] += 1
        return Look({other: beat for other, beat in self.beats.items() if other != node}, {})

    async def take_over(self, dead: str, beat: int, by: str) -> Sequence[str] | None:
        await self._work()
        if self.beats.get(dead) != beat:
            return None
        del self.beats[dead]
        return [f"run of {dead}"]

    async def _work(self) -> None:
        await asyncio.sleep(self.slow_s)
        if self.away:
            raise StoreError("away")


class Node:
    """A membership, and what it was told, with the times."""

    def __init__(self, register: Register) -> None:
        self.names: list[str] = []
        self.expelled: list[float] = []
        self.lost: list[tuple[float, Sequence[str]]] = []
        self.beats: list[Beat] = []
        self.membership = Membership(
            register,
            LEASE_S,
            on_joined=self.names.append,
            on_expelled=lambda: self.expelled.append(now()),
            on_lost=lambda run_ids: self.lost.append((now(), run_ids)),
            on_beat=self.beats.append,
        )
        self._keeping: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return self.membership.node

    async def start(self) -> None:
        await self.membership.join()
        self.go_on()

    def go_on(self) -> None:
        self._keeping = asyncio.create_task(self.membership.keep())

    async def fall_silent(self) -> None:
        assert self._keeping is not None
        self._keeping.cancel()
        await asyncio.wait({self._keeping})


async def started(register: Register, count: int = 2) -> list[Node]:
    nodes = [Node(register) for _ in range(count)]
    for node in nodes:
        await node.start()
    return nodes


@virtual
async def test_they_see_each_other() -> None:
    register = Register()
    one, two = await started(register)
    await asyncio.sleep(3600)
    assert (one.membership.others, two.membership.others) == ((two.name,), (one.name,))
    assert one.names == [one.name] != two.names == [two.name]
    assert one.lost == two.lost == []
    assert 2800 <= len(one.beats) <= 2880  # eight in a lease
    for node in (one, two):
        await node.fall_silent()


@virtual
async def test_who_is_silent_for_the_lease_is_dead_and_not_before() -> None:
    register = Register()
    one, two = await started(register)
    await asyncio.sleep(100)
    await two.fall_silent()
    silent_since = now()
    await asyncio.sleep(LEASE_S)
    assert one.lost == []
    await asyncio.sleep(0.5 * LEASE_S)
    [(at, run_ids)] = one.lost
    assert run_ids == [f"run of {two.name}"]
    assert LEASE_S < at - silent_since <= 1.4 * LEASE_S
    await asyncio.sleep(10 * LEASE_S)
    assert (len(one.lost), one.membership.others) == (1, ())
    await one.fall_silent()


@virtual
async def test_a_newcomer_waits_a_full_lease_before_it_buries_anybody() -> None:
    """It can't know for how long the number has stood still."""
    register = Register()
    register.beats["dead for long"] = 77
    node = Node(register)
    await node.start()
    await asyncio.sleep(LEASE_S)
    assert node.lost == []
    await asyncio.sleep(0.5 * LEASE_S)
    assert len(node.lost) == 1
    await node.fall_silent()


@virtual
async def test_one_of_the_survivors_gets_the_runs() -> None:
    register = Register()
    *nodes, dead = await started(register, 4)
    await dead.fall_silent()
    await asyncio.sleep(3 * LEASE_S)
    assert sum(len(node.lost) for node in nodes) == 1
    assert {len(node.membership.others) for node in nodes} == {2}
    for node in nodes:
        await node.fall_silent()


@pytest.mark.parametrize("slow_s", [1, 5, 9, 30])
@virtual
async def test_a_slow_database_kills_nobody(slow_s: float) -> None:
    """It slows everybody's beats: what counts is how many of our own came through."""
    register = Register()
    nodes = await started(register, 3)
    await asyncio.sleep(60)
    register.slow_s = slow_s
    await asyncio.sleep(3600)
    assert [node.lost for node in nodes] == [[], [], []]
    assert [node.expelled for node in nodes] == [[], [], []]
    for node in nodes:
        await node.fall_silent()


@virtual
async def test_after_an_outage_of_the_database_all_get_their_full_lease() -> None:
    register = Register()
    one, two = await started(register)
    await asyncio.sleep(60)
    register.away = True
    await two.fall_silent()
    await asyncio.sleep(60)
    register.away = False
    back_at = now()
    await asyncio.sleep(0.9 * LEASE_S)
    two.go_on()  # it was slower to come back
    await asyncio.sleep(60)
    assert (one.lost, two.expelled) == ([], [])
    await two.fall_silent()
    register.away = True
    await asyncio.sleep(60)
    register.away = False
    back_at = now()
    await asyncio.sleep(60)
    [(at, _)] = one.lost
    assert LEASE_S <= at - back_at <= 1.6 * LEASE_S
    await one.fall_silent()


@virtual
async def test_who_was_expelled_is_told_and_comes_back_under_another_name() -> None:
    register = Register()
    one, two = await started(register)
    before = two.name
    await two.fall_silent()
    await asyncio.sleep(3 * LEASE_S)
    assert len(one.lost) == 1
    two.go_on()
    await asyncio.sleep(LEASE_S)
    assert len(two.expelled) == 1
    assert two.names == [before, two.name]
    assert two.name != before
    assert set(register.beats) == {one.name, two.name}
    await asyncio.sleep(10 * LEASE_S)
    assert (len(one.lost), two.lost, len(two.expelled)) == (1, [], 1)
    for node in (one, two):
        await node.fall_silent()


@virtual
async def test_coming_back_is_tried_until_it_works() -> None:
    register = Register()
    node = Node(register)
    await node.start()
    register.beats.clear()
    register.no_joining = True
    await asyncio.sleep(5 * LEASE_S)
    assert len(node.names) == 1
    register.no_joining = False
    await asyncio.sleep(LEASE_S)
    assert list(register.beats) == [node.name] == node.names[1:]
    await node.fall_silent()


@virtual
async def test_who_beats_in_the_last_moment_keeps_its_runs() -> None:
    register = Register()
    one, two = await started(register)
    await two.fall_silent()
    take_over = register.take_over

    async def a_beat_comes_first(dead: str, beat: int, by: str) -> Sequence[str] | None:
        register.beats[dead] += 1
        return await take_over(dead, beat, by)

    register.take_over = a_beat_comes_first  # type: ignore[method-assign]
    await asyncio.sleep(5 * LEASE_S)
    assert one.lost == []
    assert two.name in register.beats
    await one.fall_silent()


@virtual
async def test_leaving() -> None:
    register = Register()
    one, two = await started(register)
    await two.fall_silent()
    await two.membership.leave()
    assert list(register.beats) == [one.name]
    await asyncio.sleep(5 * LEASE_S)
    assert (one.lost, one.membership.others) == ([], ())
    await one.fall_silent()
    register.away = True
    await one.membership.leave()  # nobody can be told: the others will find out


@virtual
async def test_at_the_start_there_must_be_a_database() -> None:
    register = Register()
    register.away = True
    with pytest.raises(StoreError):
        await Node(register).membership.join()
