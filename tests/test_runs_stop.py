"""How runs end: stops and cancels at every step of both lifetimes, failing sources and clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from odysseus.errors import StreamFailed, UpstreamError
from odysseus.run import Limits, Run
from odysseus.runs import IfBusy, Runs
from odysseus.states import Ending, StopReason
from tests.scenes import Client, Script, Steps, assert_at_rest, at_every_step, virtual, watch
from tests.virtual_time import now

LIFETIMES = pytest.mark.parametrize("direct", [False, True], ids=["detached", "direct"])


class Life:
    """A run that waits for a predecessor, opens, is pulled, read, saved; `act` hits it somewhere on its way."""

    def __init__(self, acts: str, *, direct: bool) -> None:
        self.acts, self.direct = acts.split(), direct
        self.runs: Runs[str] = Runs()
        self.script = Script("abc", opening_s=0.05, closing_s=0.1)
        self.client = Client(pause_s=0.05)
        self.caller: asyncio.Task[None]
        self.reason: StopReason | None = None
        """What the run must end with."""
        self.cancelled = False
        self.acted_at: float | None = None
        self.source_was = ""

    async def call(self) -> None:
        """What a web handler does."""
        if self.direct:
            await self.script.direct(self.runs, self.client, if_busy=IfBusy.QUEUE)
        else:
            await asyncio.shield(self.script.start(self.runs, if_busy=IfBusy.QUEUE).task)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)  # and no cancel is on its way

    def act(self) -> None:
        run, self.acted_at = self.runs.get("r"), now()
        notes = self.script.notes
        self.source_was = "closed" if "closed" in notes else "open" if "pulled" in notes else "unborn"
        for act in self.acts:
            if act == "stop":
                ends = run is not None and self.runs.stop_run(run)
                assert run is None or ends is not run.ended.is_set()
                reason = StopReason.USER_STOP if ends else None
            elif act == "stop-session":
                ends = run is not None and self.runs.stop("s", StopReason.SHUTDOWN)
                reason = StopReason.SHUTDOWN if ends else None
            else:
                self.cancelled |= self.caller.cancel()
                reason = StopReason.CLIENT_DISCONNECT if self.direct and not self.caller.done() else None
            if self.source_was != "closed" and self.reason in (None, StopReason.CLIENT_DISCONNECT):
                self.reason = reason or self.reason  # a cancel is no request: a stop in the same step comes before it

    async def play(self, steps: Steps) -> None:
        before = Script("xy", closing_s=0.1).start(self.runs, "before")
        await asyncio.sleep(0)
        steps.arm(self.act)
        self.caller = asyncio.create_task(self.call())
        await asyncio.sleep(0)
        run = self.runs.get("r")
        if run is None:  # cancelled before its first step
            assert self.cancelled
            assert not self.script.journal
            await before.task
            return
        readers = [asyncio.create_task(watch(self.runs, run)) for _ in range(2)]
        await asyncio.wait({self.caller})
        assert self.caller.cancelled() is self.cancelled
        if not self.direct:
            await run.task
        late = await watch(self.runs, run)
        assert [await reader for reader in readers] == [late, late]
        steps.disarm()
        self.check(run, late)
        await before.task
        await assert_at_rest(self.runs)

    def check(self, run: Run[str], log: list[str]) -> None:
        script = self.script
        assert (run.status, run.stop_reason) == (Ending(self.reason).status, self.reason)
        assert [ending for ending, _ in script.endings] == [Ending(self.reason)]
        pulled = ["pulled", "closed"] if "pulled" in script.notes else []
        assert script.notes == ["opening", "opened", *pulled, "closing", "saved"]
        assert log == [*"abc"[: len(log) - 2], "last", f"end {self.reason}"]
        if self.reason is None:
            assert len(log) == 5
        elif self.source_was == "open":
            assert script.at("closed") == self.acted_at
        else:
            assert not pulled
        if self.direct:
            whole = log if not self.cancelled else log[: len(self.client.written)]
            assert self.client.written == whole


@LIFETIMES
@pytest.mark.parametrize("later_s", [0, 0.025], ids=["at-once", "in-the-silence"])
@pytest.mark.parametrize(
    "acts",
    ["stop", "stop stop", "stop-session", "stop stop-session", "cancel", "stop cancel", "cancel stop", "cancel cancel"],
)
def test_an_act_at_every_step(acts: str, later_s: float, direct: bool) -> None:
    """Exactly one closing, with the first reason, after the source has closed; what was streamed stays."""
    assert at_every_step(lambda steps: Life(acts, direct=direct).play(steps), later_s=later_s) > 40


ENDS: list[tuple[BaseException | None, StopReason | None]] = [
    (None, None),
    (UpstreamError("upstream_status", "503"), StopReason.UPSTREAM_ERROR),
    (StreamFailed("tool_failed", "no"), StopReason.INTERNAL_ERROR),
    (ValueError("a bug"), StopReason.INTERNAL_ERROR),
    (ConnectionResetError("of the source, not of the client"), StopReason.INTERNAL_ERROR),
    (TimeoutError(), StopReason.INTERNAL_ERROR),
    (asyncio.CancelledError("nobody asked for it"), StopReason.INTERNAL_ERROR),
]


@LIFETIMES
@pytest.mark.parametrize(("error", "reason"), ENDS, ids=lambda value: type(value).__name__)
@virtual
async def test_a_source_ends(error: BaseException | None, reason: StopReason | None, direct: bool) -> None:
    runs, script, client = Runs[str](), Script("ab", ends=error), Client()
    if direct:
        run = await script.direct(runs, client)
    else:
        run = script.start(runs)
        await run.task
    log = ["a", "b", "last", f"end {reason}"]
    assert (run.status, run.stop_reason) == (Ending(reason).status, reason)
    assert script.endings == [(Ending(reason), error)]
    assert await watch(runs, run) == log
    assert client.written == (log if direct else [])
    await assert_at_rest(runs)


@pytest.mark.parametrize("breaks_at", range(6))
@virtual
async def test_the_client_breaks(breaks_at: int) -> None:
    """At its opening, at a frame, or after the save, when it is too late to matter."""
    runs, script, client = Runs[str](), Script("abc"), Client(breaks_at=breaks_at)
    run = await script.direct(runs, client)
    assert run.stop_reason == (StopReason.CLIENT_DISCONNECT if breaks_at < 4 else None)
    assert script.notes.count("closing") == 1
    assert len(client.calls) == breaks_at
    assert client.written == ["a", "b", "c", "last", "end None"][:breaks_at]  # and nobody tries again
    assert len(run.log) == min(breaks_at, 3) + 2
    await assert_at_rest(runs)


@virtual
async def test_a_client_that_fails_is_our_error() -> None:
    runs, script = Runs[str](), Script("abc")
    with pytest.raises(ValueError, match="a bug"):
        await script.direct(runs, Client(breaks_at=2, error=ValueError("a bug")))
    assert [ending.stop_reason for ending, _ in script.endings] == [StopReason.INTERNAL_ERROR]
    await assert_at_rest(runs)


@virtual
async def test_a_stranger_cancels_a_detached_run() -> None:
    """Only an owner's cancel becomes an ending; any other goes up, when the answer is saved."""
    runs, script = Runs[str](), Script(ends=..., closing_s=1)
    run = script.start(runs)
    await asyncio.sleep(0.5)
    run.task.cancel()
    await asyncio.wait({run.task})
    assert (run.task.cancelled(), run.stop_reason, script.notes[-1]) == (True, StopReason.SHUTDOWN, "saved")
    await assert_at_rest(runs)


@virtual
async def test_a_closing_that_fails_still_ends_the_run() -> None:
    async def closing(ending: Ending, failure: BaseException | None) -> Sequence[str]:
        raise ValueError("a bug")

    runs = Runs[str]()
    run = runs.start("s", Script().source(), closing=closing)
    assert await watch(runs, run) == ["a", "b", "c"]
    await run.task
    await assert_at_rest(runs)


@pytest.mark.parametrize(("limit", "frames"), [(0, 1), (3, 1), (4, 2), (11, 3), (12, 4), (15, 4), (16, 4)])
@LIFETIMES
@virtual
async def test_the_log_limit(limit: int, frames: int, direct: bool) -> None:
    runs, script, client = Runs[str](Limits(max_log_bytes=limit)), Script(["four"] * 4), Client()
    run = await script.direct(runs, client) if direct else script.start(runs)
    reason = StopReason.LOG_LIMIT if limit < 16 else None
    log = await watch(runs, run)
    assert log == ["four"] * frames + ["last", f"end {reason}"]
    assert client.written == (log if direct else [])
    assert script.notes[-3:] == ["closed", "closing", "saved"]
    await run.ended.wait()
    await assert_at_rest(runs)


async def rude() -> AsyncGenerator[str, None]:
    """A source that fails while it is closed."""
    try:
        while True:
            yield "frame"
            await asyncio.sleep(0.1)
    finally:
        raise ValueError("closing failed")


@pytest.mark.parametrize("way", ["stop", "cancel", "client breaks", "log limit"])
@virtual
async def test_a_source_that_fails_to_close_is_saved(way: str) -> None:
    runs = Runs[str](Limits(max_log_bytes=20 if way == "log limit" else 1000))
    hooks, client = Script(), Client(pause_s=1, breaks_at=3 if way == "client breaks" else None)
    caller = asyncio.create_task(runs.direct("s", rude(), client, closing=hooks.closing))
    await asyncio.sleep(2.5)  # in the middle of a write
    if way == "stop":
        runs.stop("s")
    elif way == "cancel":
        caller.cancel()
    await asyncio.wait({caller})
    assert hooks.notes == ["closing", "saved"]
    await assert_at_rest(runs)


@LIFETIMES
@virtual
async def test_a_source_that_stops_its_own_run(direct: bool) -> None:
    """With no await between the stop and its end, where the cancel would have come out."""
    runs, script = Runs[str](), Script()

    async def source() -> AsyncGenerator[str, None]:
        yield "a"
        runs.stop("s")

    if direct:
        run = await runs.direct("s", source(), Client(), closing=script.closing)
    else:
        run = runs.start("s", source(), closing=script.closing)
        await run.task
    assert await watch(runs, run) == ["a", "last", "end user_stop"]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await assert_at_rest(runs)


@virtual
async def test_a_stream_is_opened_before_it_is_written() -> None:
    """Also when the stop came while the run was being accepted: the client gets a stream that says so."""
    runs, script, client = Runs[str](), Script(opening_s=1), Client()
    caller = asyncio.create_task(script.direct(runs, client))
    await asyncio.sleep(0.5)
    assert runs.stop("s")
    await caller
    assert (client.calls[0], client.written) == ("open", ["last", "end user_stop"])


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError], ids=["an error", "a driver's own cancel"])
@LIFETIMES
@virtual
async def test_a_closing_that_fails_leaves_no_run_live(direct: bool, error: type[BaseException]) -> None:
    async def closing(ending: Ending, failure: BaseException | None) -> Sequence[str]:
        raise error

    runs, script = Runs[str](), Script()
    if direct:
        await runs.direct("s", script.source(), Client(), closing=closing)
    else:
        await runs.start("s", script.source(), closing=closing).task
    await assert_at_rest(runs)
