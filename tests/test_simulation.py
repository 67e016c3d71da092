"""Random schedules of everything at once, and the proof that they would notice if something were broken."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import orjson
import pytest

from odysseus.agent import Agent
from odysseus.approvals import Approvals, Verdict
from odysseus.checkpoints import Checkpoints
from odysseus.conversation import conversation
from odysseus.errors import StoreError
from odysseus.events import ApprovalRequest, ToolResult
from odysseus.feed import Reader
from odysseus.generation import Generation
from odysseus.ledger import Ledger
from odysseus.lifetime import Lifetime
from odysseus.messages import Final, Mode, Turn, now
from odysseus.recovery import recover
from odysseus.replay import next_seq
from odysseus.run import Lane, Run
from odysseus.runs import Runs
from odysseus.saves import Saved, Saves
from odysseus.states import Status
from odysseus.tasks import Tasks
from odysseus.upstream import Ask
from odysseus.upstream.chat_completions import request_body
from tests.message_rules import check_request
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
    told = [line for line in _told(seed=7, hashes=1) if re.match(r" *\d+\.\d{4} ", line)]  # the others are logged
    assert told == simulate(7)


def _told(*, seed: int, hashes: int) -> list[str]:
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    environment = os.environ | {"PYTHONHASHSEED": str(hashes)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.fixture
def silence() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def _turn(name: str) -> Turn:
    return Turn(
        session_id="s",
        message_id=name,
        run_id=name,
        owner="ann",
        text=name,
        model="",
        mode=Mode.CHAT,
        detached=True,
    )


def _final(name: str) -> Final:
    return Final(
        message_id=name,
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


class _Moody(Store):
    """Refuses what it is told to refuse."""

    refuses: ClassVar[set[str]] = set()

    async def finish(self, final: Final) -> bool:
        if final.message_id in self.refuses:
            raise StoreError("not now")
        return await super().finish(final)


def _disks(spool: type[Spool] = Spool) -> tuple[_Moody, Spool]:
    world = World(None)
    weather = Weather(world, Random(0), ())
    return _Moody(world, weather), spool(world, weather)


def test_a_start_while_the_store_refuses_an_answer(silence: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays in the spool, unharmed, until the store takes it."""

    async def start_twice() -> Row:
        store, spool = _disks()
        await store.begin(_turn("a"))
        await spool.put(_final("a"))
        for refused in ({"a"}, set[str]()):
            monkeypatch.setattr(_Moody, "refuses", refused)
            tasks = Tasks()
            saves = Saves(store.finish, spool, tasks)
            await recover(store, saves)  # type: ignore[arg-type]  # all it needs of a store
            saves.close()
            await tasks.drain(1)
        return store.rows["a"]

    row = run_virtual(start_twice())
    assert (row.status, row.content, row.finishes) == ("done", "all of it", 1)


def test_an_answer_spooled_while_the_spool_is_found_empty(silence: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the store like any other, not only at the next start."""

    async def play() -> dict[str, Final]:
        late = ["b"]

        class Crossed(Spool):
            async def all(self) -> list[Final]:
                found = await super().all()
                while late and not found:
                    await saves.save(_final(late.pop()))
                return found

        store, spool = _disks(Crossed)
        tasks = Tasks()
        saves = Saves(store.finish, spool, tasks)
        monkeypatch.setattr(_Moody, "refuses", {"a", "b"})
        for name in ("a", "b"):
            await store.begin(_turn(name))
        await saves.save(_final("a"))
        monkeypatch.setattr(_Moody, "refuses", {"b"})
        await asyncio.sleep(15)
        monkeypatch.setattr(_Moody, "refuses", set())
        await asyncio.sleep(15)
        saves.close()
        await tasks.drain(1)
        return spool.held

    assert run_virtual(play()) == {}


def test_the_next_turn_while_an_answer_waits_in_the_spool() -> None:
    """Its model isn't told of calls without results, though the store has only the last checkpoint."""

    async def ask() -> Ask:
        store, _ = _disks()
        turns = [_turn("a"), _turn("b")]
        for turn in turns:
            await store.begin(turn)
        await store.checkpoint("a", "", "", [{"type": "tool_call", "call_id": "c", "name": "work", "arguments": {}}])
        return Ask(model="", messages=conversation(None, await store.history(turns[1])))

    check_request(orjson.loads(request_body(run_virtual(ask()))))


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


def _announces_first(save: Callable[..., Coroutine[Any, Any, Saved]]) -> Callable[..., Awaitable[Saved]]:
    async def saving(self: Saves, final: object) -> Saved:
        self._tasks.spawn(save(self, final))
        return Saved("store", 1)

    return saving


async def _carries_nothing_through(self: Tasks, work: Awaitable[object]) -> object:
    return await work


async def _at_once(self: object, *_: object) -> None: ...


def _any_id_counts(last_event_id: str | None, run_id: str, given_out: int) -> int:
    return next_seq(f"{run_id}.{(last_event_id or '').rpartition('.')[2]}", run_id, given_out)


def _shields(call: Callable[..., Coroutine[Any, Any, str]]) -> Callable[..., Awaitable[str]]:
    async def calling(*how: Any) -> str:
        return await asyncio.shield(call(*how))

    return calling


_Results = Callable[..., AsyncGenerator[Sequence[object], None]]


def _gives_results(times: int) -> Callable[[_Results], _Results]:
    def make(results: _Results) -> _Results:
        async def giving(*how: Any) -> AsyncGenerator[Sequence[object], None]:
            async with aclosing(results(*how)) as given:
                async for news in given:
                    yield [one for one in news for _ in range(times if isinstance(one, ToolResult) else 1)]

        return giving

    return make


def _keeps_results_to_itself(take: Callable[..., object]) -> Callable[..., object]:
    def taking(self: Generation, piece: object) -> object:
        event = take(self, piece)
        return None if isinstance(event, ToolResult) else event

    return taking


def _waits_on(verdict: Callable[..., Awaitable[Verdict]]) -> Callable[..., Awaitable[Verdict]]:
    async def waiting(self: Approvals, request: ApprovalRequest, limit_s: float) -> Verdict:
        try:
            return await verdict(self, request, limit_s)
        except asyncio.CancelledError:
            self._waiting[request.call_id] = request, asyncio.get_running_loop().create_future()
            raise

    return waiting


def _forgets_ids(wanted: Callable[..., object]) -> Callable[..., object]:
    def wanting(self: Agent, *how: object) -> object:
        self._call_ids.clear()
        return wanted(self, *how)

    return wanting


def _logs_what_is_yielded(append: Callable[..., None]) -> Callable[..., None]:
    """What a lane is given reaches the outlets only."""

    def appending(self: Run[bytes], frame: bytes) -> None:
        if sys._getframe(1).f_code is not Lane.push.__code__:
            append(self, frame)

    return appending


_Make = Callable[[Any], Any]
FAULTS: dict[str, tuple[Any, str, _Make, str]] = {
    "closing twice": (Lifetime, "_end", _closes_twice, "closed 2 times"),
    "no compare-and-set": (Store, "streams", lambda _: lambda self, row: True, "it was ended 2 times"),
    "announced, then saved": (Saves, "save", _announces_first, "announced its end before its save"),
    "a stop not written down": (Ledger, "stop_asked", lambda _: lambda self, reason: None, "its ledger doesn't tell"),
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
    "tools left at work": ("odysseus.agent", "_call", _shields, "was saved while its tools were at work"),
    "models left open": ("odysseus.agent", "aclosing", lambda _: nullcontext, "was saved before its upstream was"),
    "calls left open": ("odysseus.generation", "stopped_results", lambda _: lambda parts: (), "not every call of"),
    "calls left open by a kill": (
        "tests.simulation.world",
        "with_stopped_results",
        lambda _: list,
        "not every call of",
    ),
    "results lost": (Agent, "_results", _gives_results(0), "its model refuses what it is asked"),
    "results twice": (Agent, "_results", _gives_results(2), "not every call of"),
    "results untold": (Generation, "_take", _keeps_results_to_itself, "its parts aren't what was streamed"),
    "ids as they come": (Agent, "_wanted", _forgets_ids, "two of its calls have one id"),
    "an approval waits on": (Approvals, "verdict", _waits_on, "was saved while it waited for approval"),
    "an end that waits": ("odysseus.agent", "_CANCEL_S", lambda _: 60.0, "it was held up"),
    "a lane always free": (Lane, "free", lambda _: True, "a client was sent to while it wasn't free"),
    "a lane without a log": (Run, "append", _logs_what_is_yielded, "its frames aren't numbered"),
    "no approval needed": (Agent, "_refusal", lambda _: _at_once, "works without approval"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name: str, monkeypatch: pytest.MonkeyPatch, silence: None) -> None:
    where, what, make, promise = FAULTS[name]
    owner = sys.modules[where] if isinstance(where, str) else where
    monkeypatch.setattr(owner, what, make(getattr(owner, what)))
    found = []
    for seed in range(500):
        try:
            simulate(seed)
        except Violation as violation:
            found.append(str(violation))
            if promise in found[-1]:
                return
    pytest.fail(f"{promise!r} is not among what was found: {found[:5]}")
