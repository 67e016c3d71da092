"""What the tests of runs play with: scripts that write down what happens to them, and a way to act at every step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from functools import wraps
from types import EllipsisType
from typing import Any, ParamSpec

from odysseus.run import Run
from odysseus.runs import IfBusy, Runs
from odysseus.states import Ending
from tests.virtual_time import now, run_virtual

__all__ = ["Client", "Script", "Steps", "assert_at_rest", "at_every_step", "collect", "virtual", "watch"]

_P = ParamSpec("_P")


def virtual(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Let *test* run on the virtual loop."""

    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        run_virtual(test(*args, **kwargs))

    return run


class Script:
    """What one run is given: a source and both hooks. All of them note when they were called.

    Before each frame the source is silent for *pause_s*. *ends* is raised after the last one; `...` means that
    nothing ever comes again. *refuses* is raised by the opening.
    """

    def __init__(
        self,
        frames: Sequence[str] = "abc",
        *,
        pause_s: float = 0.1,
        opening_s: float = 0,
        closing_s: float = 0,
        ends: BaseException | EllipsisType | None = None,
        refuses: BaseException | None = None,
    ) -> None:
        self.frames = frames
        self.pause_s, self.opening_s, self.closing_s = pause_s, opening_s, closing_s
        self.ends, self.refuses = ends, refuses
        self.journal: list[tuple[str, float]] = []
        """What happened, and when: opening, opened, pulled, closed (the source), closing, saved."""
        self.endings: list[tuple[Ending, BaseException | None]] = []
        """What `closing` was called with."""

    def note(self, what: str) -> None:
        self.journal.append((what, now()))

    @property
    def notes(self) -> list[str]:
        return [what for what, _ in self.journal]

    def at(self, what: str) -> float:
        """Return when *what* happened; it must have happened once."""
        [time] = [time for noted, time in self.journal if noted == what]
        return time

    async def opening(self) -> None:
        self.note("opening")
        await asyncio.sleep(self.opening_s)
        if self.refuses is not None:
            raise self.refuses
        self.note("opened")

    async def closing(self, ending: Ending, failure: BaseException | None) -> Sequence[str]:
        self.note("closing")
        self.endings.append((ending, failure))
        await asyncio.sleep(self.closing_s)
        self.note("saved")
        return ["last", f"end {ending.stop_reason}"]

    async def source(self) -> AsyncGenerator[str, None]:
        self.note("pulled")
        try:
            for frame in self.frames:
                await asyncio.sleep(self.pause_s)
                yield frame
            if isinstance(self.ends, BaseException):
                raise self.ends
            if self.ends is ...:
                await asyncio.Event().wait()
        finally:
            try:
                await asyncio.sleep(0)  # an upstream's close is a step or two of the loop
            finally:
                self.note("closed")

    def start(
        self, runs: Runs[str], run_id: str = "r", session_id: str = "s", if_busy: IfBusy = IfBusy.REJECT
    ) -> Run[str]:
        return runs.start(
            session_id,
            self.source(),
            run_id=run_id,
            if_busy=if_busy,
            opening=self.opening,
            closing=self.closing,
        )

    async def direct(
        self,
        runs: Runs[str],
        client: Client,
        run_id: str = "r",
        session_id: str = "s",
        if_busy: IfBusy = IfBusy.REJECT,
    ) -> Run[str]:
        return await runs.direct(
            session_id,
            self.source(),
            client,
            run_id=run_id,
            if_busy=if_busy,
            opening=self.opening,
            closing=self.closing,
        )


class Client:
    """The sink of a direct run: takes *pause_s* for each frame, and breaks with *error* at the *breaks_at*th call."""

    def __init__(self, *, pause_s: float = 0, breaks_at: int | None = None, error: Exception | None = None) -> None:
        self.pause_s, self.breaks_at, self.error = pause_s, breaks_at, error or ConnectionResetError()
        self.calls: list[str] = []
        self.written: list[str] = []

    async def open(self, run: Run[str]) -> None:
        await self._call("open")

    async def write(self, frame: str) -> None:
        self.written.append(frame)  # a write that is cancelled has handed its bytes over, as in aiohttp
        await self._call("write")

    @property
    def free(self) -> bool:
        return False

    def write_nowait(self, frame: str) -> None:
        raise AssertionError("sent while it wasn't free")

    async def _call(self, what: str) -> None:
        if len(self.calls) == self.breaks_at:
            raise self.error
        self.calls.append(what)
        await asyncio.sleep(self.pause_s)


async def collect(runs: Runs[Any], session_id: str = "s", *, last_event_id: str | None = None) -> list[Any]:
    """Subscribe to the session's run and return all that came."""
    async with aclosing(runs.subscribe(session_id, last_event_id=last_event_id)) as frames:
        return [frame async for frame in frames]


async def watch(runs: Runs[str], run: Run[str]) -> list[str]:
    """Read *run* from its first frame to its end."""
    got: list[str] = []
    with runs.reader(run) as reader:
        while frames := await reader.read():
            got += frames
    return got


async def assert_at_rest(runs: Runs[Any], session_id: str = "s") -> None:
    """Nothing of *runs* is live, and the session takes another run."""
    assert (runs.live(session_id), runs.subscribers) == ((), 0)
    assert all(run.ended.is_set() and not run.subscribers for run in runs.all())
    run = runs.start(session_id, Script("").source())
    await run.task
    assert run.status == "done"


class Steps:
    """Counts what the loop does, and acts right before its *at*th step, or *later_s* after that."""

    def __init__(self, at: int | None = None, later_s: float = 0) -> None:
        self.count = 0
        self._at, self._later_s = at, later_s
        self._armed = False

    def arm(self, act: Callable[[], object]) -> None:
        """Begin to count in the running loop."""
        loop = asyncio.get_running_loop()
        schedule = loop.call_soon
        self._armed = True

        def fire() -> None:
            if self._armed:
                act()

        def call_soon(callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
            if self._armed:
                if self.count == self._at:
                    loop.call_later(self._later_s, fire) if self._later_s else schedule(fire)
                self.count += 1
            return schedule(callback, *args, context=context)

        loop.call_soon = call_soon  # type: ignore[method-assign, assignment]  # tasks and futures go through it too

    def disarm(self) -> None:
        """What comes now isn't part of the scene."""
        self._armed = False


def at_every_step(scene: Callable[[Steps], Awaitable[None]], *, later_s: float = 0) -> int:
    """Play *scene* once untouched, and once more for each step of it, with its act at that step. Return how many."""

    async def play(steps: Steps) -> int:
        await scene(steps)
        return steps.count

    count = run_virtual(play(Steps()))
    for at in range(count):
        try:
            run_virtual(play(Steps(at, later_s)))
        except BaseException as error:
            error.add_note(f"the act was at step {at} of {count}, {later_s} s later")
            raise
    return count
