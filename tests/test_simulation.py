"""Random schedules of everything at once, and the proof that they would notice if something were broken."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from odysseus.application import recover
from odysseus.checkpoints import Checkpoints
from odysseus.errors import StoreError
from odysseus.lifetime import Lifetime
from odysseus.messages import Final, Mode, Turn, now
from odysseus.replay import next_seq
from odysseus.run import Reader, Run
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.states import Status
from odysseus.tasks import Tasks
from tests.simulation.simulate import Violation, failures, simulate
from tests.simulation.world import Row, Spool, Store, Weather, World
from tests.virtual_time import run_virtual

COUNT = 5000 if os.environ.get("CI") else 1000


def test_nothing_breaks() -> None:
    assert [problem for _, problem in failures(range(COUNT), processes=2)] == []


def test_a_seed_is_always_the_same_schedule(silence: None) -> None:
    """Also in another process, where other things have other addresses and other hashes."""
    for seed in range(12):
        assert simulate(seed) == simulate(seed)
    told = [_told(seed="7", hashes=hashes) for hashes in ("1", "2")]
    assert told[0] == told[1]
    assert [line for line in told[0] if not line.lstrip().startswith("(")] == simulate(7)


def _told(*, seed: str, hashes: str) -> list[str]:
    command = [sys.executable, "-m", "tests.simulation", "--seed", seed]
    environment = os.environ | {"PYTHONHASHSEED": hashes}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class _Moody(Store):
    """Refuses one answer, once."""

    refused = False

    async def finish(self, final: Final) -> bool:
        if not self.refused:
            self.refused = True
            raise StoreError("not now")
        return await super().finish(final)


def test_a_start_while_the_store_refuses_an_answer(silence: None) -> None:
    """Saved exactly once, with everything that was streamed: `simulate(seed, fair_start=False)` finds it too."""

    async def start_twice() -> Row:
        world = World(None)
        store, spool = (kind(world, Weather(world, Random(0), ())) for kind in (_Moody, Spool))
        turn = Turn(session_id="s", message_id="m", run_id="r", text="", model="", mode=Mode.CHAT, detached=True)
        await store.begin(turn)
        await spool.put(
            Final(
                message_id="m",
                status=Status.DONE,
                stop_reason=None,
                content="all of it",
                reasoning="",
                parts=[],
                finish_reason=None,
                usage=None,
                timings=None,
                events=3,
                ended_at=now(),
            )
        )
        for _ in range(2):
            saves = Saves(store.finish, spool, Tasks())
            await recover(store, saves)  # type: ignore[arg-type]
            saves.close()
            await asyncio.sleep(0)
        return store.rows["m"]

    row = run_virtual(start_twice())
    assert (row.status, row.content, row.finishes) == ("done", "all of it", 1)


# What is broken on purpose: where, how, and the promise that must be seen broken.


class _NeverClosed:
    async def aclose(self) -> None: ...


def _closes_twice(end: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    def _end(self: Lifetime[bytes], *how: object) -> Awaitable[None]:
        async def twice(*how: Any) -> Sequence[bytes]:
            assert self.closing is not None
            await self.closing(*how)
            return await self.closing(*how)

        return end(replace(self, closing=twice), *how)

    return _end


def _leaves_open(end: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    return lambda self, *how: end(replace(self, source=_NeverClosed()), *how)


def _drops_a_frame(read: Callable[..., Awaitable[Sequence[bytes]]]) -> Callable[..., Awaitable[Sequence[bytes]]]:
    async def dropping(self: Reader[bytes]) -> Sequence[bytes]:
        frames = await read(self)
        return frames if len(frames) < 3 else [*frames[:1], *frames[2:]]

    return dropping


def _last_reason_wins(ask: Callable[..., None]) -> Callable[..., None]:
    def asking(self: Run[bytes], reason: object) -> None:
        if self.ending is None:
            self.asked = None
        ask(self, reason)

    return asking


def _announces_first(save: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Awaitable[None]]:
    async def saving(self: Saves, final: object) -> None:
        self._tasks.spawn(save(self, final))

    return saving


async def _carries_nothing_through(self: Tasks, work: Awaitable[object]) -> object:
    return await work


async def _at_once(self: object, *_: object) -> None: ...


def _any_id_counts(last_event_id: str | None, run_id: str, given_out: int) -> int:
    return next_seq(f"{run_id}.{(last_event_id or '').rpartition('.')[2]}", run_id, given_out)


_Make = Callable[[Any], Any]
FAULTS: dict[str, tuple[Any, str, _Make, str]] = {
    "closing twice": (Lifetime, "_end", _closes_twice, "closed 2 times"),
    "no compare-and-set": (Store, "streams", lambda _: lambda self, row: True, "it was ended 2 times"),
    "announced, then saved": (Saves, "save", _announces_first, "announced its end before its save"),
    "a frame dropped": (Reader, "read", _drops_a_frame, "subscriber"),
    "foreign ids count": ("odysseus.runs", "next_seq", lambda _: _any_id_counts, "subscriber"),
    "a cancel lost": (Run, "_interrupt", lambda _: lambda self: None, "its upstream outlived the stop"),
    "the source left open": (Lifetime, "_end", _leaves_open, "was saved before its upstream was closed"),
    "no line": (Runs, "_turn", lambda _: _at_once, "was pulled before"),
    "a save cancelled": (Tasks, "finish", lambda _: _carries_nothing_through, "its caller's cancel was lost"),
    "the last reason wins": (Run, "ask", _last_reason_wins, "not user_stop"),
    "a refused run kept": (Runs, "_forget", lambda _: lambda self, run: None, "a refused run is kept"),
    "no checkpoints": (Checkpoints, "grown", lambda _: lambda self, chars: None, "its checkpoint is more than"),
    "no watchdogs": ("odysseus.lifetime", "watchdogs", lambda _: lambda *_: nullcontext(), "its silence was too long"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch, silence: None) -> None:
    where, what, make, promise = FAULTS[name]
    owner = sys.modules[where] if isinstance(where, str) else where
    monkeypatch.setattr(owner, what, make(getattr(owner, what)))
    found = []
    for seed in range(200):
        try:
            simulate(seed)
        except Violation as violation:
            found.append(str(violation))
            if promise in found[-1]:
                return
    pytest.fail(f"{promise!r} is not among what was found: {found[:5]}")
