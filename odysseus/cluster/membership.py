"""This node among the others: its beat, its view of theirs, and what becomes of one that has fallen silent.

Nobody compares clocks. A node is dead when its number has stood still for the whole lease while our own beats came
through; after an outage of the database, which silences everybody, all get their full lease again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from odysseus.errors import StoreError
from odysseus.messages import new_id
from odysseus.states import StopReason

__all__ = ["Beat", "Membership", "Register"]

_log = logging.getLogger(__name__)

_BEATS = 8  # in a lease; it is noticed to be over two of them late, at most


class Beat(Protocol):
    @property
    def others(self) -> Mapping[str, int]: ...
    @property
    def stops(self) -> Mapping[str, StopReason]: ...


class Register(Protocol):
    """Where the nodes are written down: see `odysseus.store.nodes.Nodes`."""

    async def join(self, node: str) -> None: ...
    async def leave(self, node: str) -> None: ...
    async def beat(self, node: str) -> Beat | None: ...
    async def take_over(self, dead: str, beat: int, by: str) -> Sequence[str] | None: ...


class _Seen(NamedTuple):
    beat: int
    since: float
    """Loop time at which it was seen first."""
    looks: int
    """How many times it was seen."""


class Membership:
    def __init__(
        self,
        register: Register,
        lease_s: float,
        *,
        on_joined: Callable[[str], None],
        on_expelled: Callable[[], None],
        on_lost: Callable[[Sequence[str]], None],
        on_beat: Callable[[Beat], None],
    ) -> None:
        """*on_joined* is told under which name; *on_expelled* that the name before it is dead, with all its runs;
        *on_lost* is given the runs of a dead node, which are ours now; *on_beat* what each beat brings."""
        self.node = ""
        self.others: Sequence[str] = ()
        self._register = register
        self._lease_s = lease_s
        self._on_joined, self._on_expelled = on_joined, on_expelled
        self._on_lost, self._on_beat = on_lost, on_beat
        self._seen: dict[str, _Seen] = {}

    async def join(self) -> None:
        """Take a place under a new name. Raises `StoreError`."""
        node = new_id("node")
        await self._register.join(node)
        self.node = node
        self._seen.clear()
        self._on_joined(node)

    async def leave(self) -> None:
        try:
            await self._register.leave(self.node)
        except StoreError as error:
            _log.warning("the other nodes will wait for this one: %s", error)

    async def keep(self) -> None:
        """Beat, and look after the others, until cancelled."""
        while True:
            await asyncio.sleep(self._lease_s / _BEATS)
            try:
                await self._once()
            except StoreError as error:
                _log.warning("no beat: %s", error)
                self._seen.clear()  # nobody could be heard meanwhile

    async def _once(self) -> None:
        if (beat := await self._register.beat(self.node)) is None:
            _log.error("node %s was silent for too long, the others have ended its runs", self.node)
            self._on_expelled()
            await self.join()
            return
        now = asyncio.get_running_loop().time()
        self.others = tuple(beat.others)
        before, self._seen = self._seen, {}
        for node, number in beat.others.items():
            known = before.get(node)
            still = known is not None and known.beat == number
            self._seen[node] = known._replace(looks=known.looks + 1) if known and still else _Seen(number, now, 1)
        self._on_beat(beat)
        for node, seen in self._seen.items():
            if now - seen.since > self._lease_s and seen.looks > _BEATS:  # a slow database slows everybody's beats
                await self._take_over(node, seen.beat)

    async def _take_over(self, node: str, beat: int) -> None:
        run_ids = await self._register.take_over(node, beat, self.node)
        if run_ids is not None:
            _log.warning("node %s is dead; %d of its runs are ended here", node, len(run_ids))
            self._on_lost(run_ids)
