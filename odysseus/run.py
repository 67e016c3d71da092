"""One run: a feed, and what it needs to know of whoever pulls it and whoever may end it.

The rules of a run's life are in `runs`; a `Run` is what they act on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Generic, Protocol, TypedDict

from odysseus.feed import Feed
from odysseus.ledger import Ledger
from odysseus.replay import Frame
from odysseus.states import Ending, Status, StopReason

__all__ = ["Before", "ClientGone", "Closing", "Connect", "IfBusy", "Lane", "Limits", "Opening", "Run", "Sink", "Terms"]

Opening = Callable[[], Awaitable[None]]
Before = Callable[[], Awaitable[None]]
Closing = Callable[[Ending, BaseException | None], Awaitable[Sequence[Frame]]]


class IfBusy(StrEnum):
    """What becomes of a run whose session already has live ones."""

    REJECT = "reject"
    REPLACE = "replace"
    QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults are those of the settings with the same names."""

    idle_timeout_s: float = 900
    wall_clock_timeout_s: float = 7200
    unattended_limit_s: float | None = None
    max_log_bytes: int = 32 * 1024 * 1024
    max_runs: int = 1000
    max_runs_per_owner: int = 100
    max_queued: int = 10
    max_subscribers: int = 20_000
    max_subscribers_per_run: int = 5000
    replay_grace_s: float = 180


class Sink(Protocol[Frame]):
    """The one client of a direct run. What can be awaited raises `ConnectionError` when it has gone."""

    async def open(self, run: Run[Frame]) -> None:
        """The run has been accepted; no frame has come yet."""

    async def write(self, frame: Frame) -> None: ...

    @property
    def free(self) -> bool:
        """Whether it is there and has taken all that was written."""

    def write_nowait(self, frame: Frame) -> None:
        """As `write`, without waiting: for what came at one moment in which the sink was free."""


class Loose(Protocol):
    def let_go(self) -> None: ...


class ClientGone(Exception):
    """A direct run's sink broke: told apart from a `ConnectionError` of the source."""


class Run(Feed[Frame]):
    """One generation, from its admission until its log is freed."""

    def __init__(
        self, run_id: str, session_id: str, *, owner: str, detached: bool, about: object, ledger: Ledger | None = None
    ) -> None:
        super().__init__(run_id, session_id)
        self.owner = owner
        self.detached = detached
        self.about = about
        """Whatever its starter wants to find again here. Nobody else looks at it."""
        self.ledger = Ledger(owner) if ledger is None else ledger
        """Its carrier writes in it, too, if it brought it."""
        self.task: asyncio.Task[None]
        """Whoever pulls: set at admission, never raises for a detached run. Await it through `asyncio.shield`."""
        self.tether: Loose | None = None
        """What holds a direct run to its client, if it can be let go of: see `keep`."""
        self.status = Status.STREAMING
        self.stop_reason: StopReason | None = None
        self.elsewhere: dict[str, int] = {}
        """How many subscribers it has on other nodes; never a zero."""
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None
        self.stop_asked_at: float | None = None
        """Loop time of the first stop, whoever asked; None while nobody has."""
        self.accepted = asyncio.Event()
        """Set when `opening` has ended, one way or the other; see `wait_accepted`."""
        self.refusal: BaseException | None = None  # why `opening` failed: then nothing has happened
        self.asked: Ending | None = None  # the first stop that was asked for; later ones change nothing
        self.ending: Ending | None = None  # decided: from here on a stop comes too late
        self.entered = False  # the pulling task has made its first step
        self.cancelled_by_us = False

    async def wait_accepted(self) -> None:
        """Wait until the run is accepted. Raises what `opening` raised."""
        await self.accepted.wait()
        if self.refusal is not None:
            raise self.refusal

    def keep(self) -> bool:
        """Let go of the run's one client: from here on it is a detached one, and that client a subscriber.

        Returns whether that has changed anything.
        """
        if self.tether is None or self.detached or self.ending is not None:
            return False
        self.detached = True
        self.unwatched_since = self._loop.time()
        self.tether.let_go()
        return True

    def ask(self, reason: StopReason) -> None:
        """Ask the run to end: write the reason down, then interrupt whatever it awaits. The first reason stays."""
        if self.ending is None and self.asked is None:
            self.asked = Ending(reason)
            self.stop_asked_at = self._loop.time()
            self.ledger.stop_asked(reason)
            if self.entered:
                self._interrupt()

    def enter(self) -> None:
        """The pulling task makes its first step. A stop from before is obeyed now: then, a cancel would have skipped
        the task's whole body, and with it the ending."""
        self.entered = True
        if self.asked is not None:
            self._interrupt()

    def _interrupt(self) -> None:
        self.cancelled_by_us = True
        self.task.cancel()

    @property
    def pulled(self) -> bool:
        """Whether its turn has come: it waits for nobody."""
        return self.last_frame_at > 0

    @property
    def watched(self) -> bool:
        return bool(self.subscribers or self.elsewhere)

    def watched_elsewhere(self, node: str, subscribers: int) -> None:
        """Another node has so many subscribers of the run."""
        if subscribers:
            self.elsewhere[node] = subscribers
        elif self.elsewhere.pop(node, None) is not None:
            self.unwatched_since = self._loop.time()

    def joined(self) -> int:
        super().joined()
        return self.ledger.joined()

    def left(self, number: int) -> None:
        self.ledger.left(number)
        super().left(number)


class Lane(Generic[Frame]):
    """The way of a frame past the task that pulls, while that waits for its source: to wake it costs more than the
    frame. What can't go this way the source yields."""

    def __init__(self, run: Run[Frame], sink: Sink[Frame] | None, max_log_bytes: int) -> None:
        self._run: Run[Frame] = run
        self._sink: Sink[Frame] | None = sink
        self._max_log_bytes = max_log_bytes

    @property
    def free(self) -> bool:
        return self._run.asked is None and (self._sink is None or self._sink.free)

    def push(self, frame: Frame) -> bool:
        """Give the run its next frame: one of those that came at one moment in which the lane was free. Return whether
        the run takes another one."""
        self._run.append(frame)
        if self._sink is not None:
            self._sink.write_nowait(frame)
        if self._run.log.size > self._max_log_bytes:
            self._run.ask(StopReason.LOG_LIMIT)
        return self._run.asked is None


Connect = Callable[[Lane[Frame]], None]


class Terms(TypedDict, Generic[Frame], total=False):
    """What a run may be started with, besides its frames."""

    run_id: str | None
    owner: str
    if_busy: IfBusy
    opening: Opening | None
    """Awaited before the first frame; if it raises, nothing has happened (`Run.wait_accepted`)."""
    before: Before | None
    """Awaited when the run's turn in the session has come here: it may have to wait for more."""
    connect: Connect[Frame] | None
    """Given the lane past the pulling task, before the first frame is pulled."""
    closing: Closing[Frame] | None
    """Given the ending and the error behind it, saves, and returns the last frames. Raises only `AnswerTaken`."""
    about: object
    """For the caller to find again, as `Run.about`."""
    ledger: Ledger | None
    """In it caller and run write down what happens."""
