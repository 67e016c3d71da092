"""What a seed stands for: who asks for what and when, what fails, and how it ends. Drawn before anything happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from random import Random

import orjson

from odysseus.agent import AgentLimits
from odysseus.messages import Mode, Turn
from odysseus.run import IfBusy, Limits
from odysseus.upstream import Call, Finish, Piece, Reasoning, Text

__all__ = ["LENGTH", "TICK", "Act", "Deed", "End", "Outage", "Request", "Round", "Schedule", "Work"]

TICK = 1 / 16  # seconds: sums of them are exact, so that much happens in the same instant, in every order
LENGTH = 64  # ticks in which requests arrive
_SOON = (0, 0, 1, 1, 2, 4, 8, 16, 32)  # ticks after a request

Outage = tuple[float, float, str]
"""From, until, and how: `slow`; `down` (each call fails); `full` (each write); `deaf` (a write is done, then fails);
`hung`."""


class End(Enum):
    """How a model's answer ends."""

    COMPLETE = "complete"
    FAILS = "fails"
    BUG = "bug"
    HANGS = "hangs"


Reads = Sequence[tuple[int, Sequence[Piece]]]
"""Ticks of silence, and what comes then."""


@dataclass(frozen=True)
class Work:
    """What a tool is to do, and a user to decide: these are the call's arguments, where both find it."""

    takes: int | None
    """Ticks; None: it hangs."""
    end: str
    clings: int
    """Ticks that it goes on when it is cancelled."""
    words: int
    """In its result."""
    decided: int | None
    """Ticks after which a user decides; None: never."""
    allowed: bool


@dataclass(frozen=True)
class Round:
    """A turn of a model that calls tools."""

    reads: Reads
    calls: Sequence[Call]
    finish: str

    @property
    def pieces(self) -> Sequence[Piece]:
        """What its last read brings."""
        return [*self.calls, *([Finish(self.finish)] if self.finish else [])]


@dataclass(frozen=True)
class Request:
    """A turn, and what its model and, if it is direct, its client are like."""

    turn: Turn
    if_busy: IfBusy
    rounds: Sequence[Round]
    """What the model does before its answer, in agent mode."""
    reads: Reads
    end: End
    offers: bool
    """Whether what is only text is offered past the task that pulls, as it is wherever that waits."""
    leave_steps: int
    """Of the loop, that the model's close takes."""
    pause: int
    """Ticks that the client takes for each frame."""
    breaks_at: int | None
    """The client's call that fails."""


class Deed(Enum):
    ARRIVE = "arrive"
    LEAVE = "leave"
    STOP_RUN = "stop run"
    STOP_SESSION = "stop session"
    SUBSCRIBE = "subscribe"


@dataclass(frozen=True)
class Act:
    """Something done to the service at a tick, some steps of the loop after its begin: in between those of others."""

    tick: int
    steps: int
    deed: Deed
    request: int
    """The number of the request that it is about: it, its run or its session."""
    seq: int = 0
    """Of the last event that a subscriber has seen; -2: it has seen none."""
    stays: int | None = None
    """Ticks after which a subscriber leaves; None: it stays to the end."""


class Schedule:
    def __init__(self, seed: int) -> None:
        self._rng = rng = Random(seed)
        self.limits = Limits(
            idle_timeout_s=rng.choice((1, 2, 60)),
            wall_clock_timeout_s=rng.choice((2, 4, 600)),
            max_log_bytes=rng.choice((1500, 6000, 10**6)),
            max_runs=rng.choice((2, 100, 100)),
            max_subscribers=rng.choice((2, 100, 100)),
            replay_grace_s=rng.choice((1, 180)),
        )
        self.agent_limits = AgentLimits(
            max_tool_rounds=rng.choice((2, 25)),
            max_round_calls=rng.choice((2, 32)),
            max_parallel_tools=rng.choice((1, 8)),
            max_tool_output_chars=rng.choice((50, 32_000)),
            tool_timeout_s=rng.choice((0.5, 2, 60)),
            approval_timeout_s=rng.choice((0.5, 2, 300)),
        )
        self.store_outages = self._outages(0.6)
        self.spool_outages = self._outages(0.2)
        self.weather_seed = rng.random()
        self._patient = rng.random() < 0.25  # everybody queues: many turns that read what came before
        self.requests = [self._request(nth) for nth in range(rng.randint(2, 8))]
        self.acts = list(self._acts())
        self.end_at = (rng.randrange(LENGTH // 2, LENGTH + 16), rng.randrange(8))
        """Tick and steps at which the process is told to end, or killed."""
        self.killed = rng.random() < 0.3
        self.drain_s = rng.choice((0, 1, 30))
        self.hurry_after = rng.choice((None, 0, 2, 9))
        """Ticks after the begin of the drain."""
        self.settles = rng.random() < 0.5
        """The process goes on until its spool is empty; otherwise the next one has to do that."""

    def _outages(self, likely: float) -> list[Outage]:
        rng, outages = self._rng, []
        while rng.random() < likely:
            since = rng.randrange(2 * LENGTH) * TICK
            until = since + rng.choice((0.5, 1, 2, 4, 20))
            outages.append((since, until, rng.choice(("slow", "down", "full", "deaf", "deaf", "hung"))))
        return outages

    def _request(self, nth: int) -> Request:
        rng, name = self._rng, f"r{nth}"
        mode = rng.choice((Mode.CHAT, Mode.CHAT, Mode.AGENT))
        rounds = [self._round(f"{name}.{number}") for number in range(rng.randrange(5) if mode is Mode.AGENT else 0)]
        last = len(rounds) < self.agent_limits.max_tool_rounds and all(it.finish != "length" for it in rounds)
        turn = Turn(
            session_id=f"s{rng.randrange(2)}",
            message_id=f"m{nth}",
            run_id=name,
            owner="ann",
            text=name,
            model="model",
            mode=mode,
            detached=rng.random() < 0.6,
        )
        return Request(
            turn=turn,
            if_busy=IfBusy.QUEUE if self._patient else rng.choice(list(IfBusy)),
            rounds=rounds,
            reads=[self._read(f"{name}.{read}") for read in range(rng.choice((0, 1, 3, 5, 8, 30)))],
            end=rng.choice((*[End.COMPLETE] * 3, End.FAILS, End.BUG, End.HANGS)) if last else End.COMPLETE,
            offers=rng.random() < 0.7,
            leave_steps=rng.randrange(3),
            pause=rng.choice((0, 0, 1, 3, 20)),
            breaks_at=rng.choice((None, None, rng.randrange(6))),
        )

    def _read(self, name: str) -> tuple[int, Sequence[Piece]]:
        rng = self._rng
        silence = rng.choice((0, 0, 0, 1, 1, 2, 6, 12, 24))
        return silence, [
            rng.choice((Text, Text, Reasoning))(f"{name}.{piece} " * rng.choice((1, 1, 2, 99)))
            for piece in range(rng.choice((1, 1, 3)))
        ]

    def _round(self, name: str) -> Round:
        rng = self._rng
        return Round(
            reads=[self._read(f"{name}.{read}") for read in range(rng.choice((0, 0, 1, 2)))],
            calls=[self._tool_call(f"{name}.{number}") for number in range(rng.choice((1, 1, 2, 3, 5)))],
            finish=rng.choice((*["tool_calls"] * 6, "stop", "", "length")),
        )

    def _tool_call(self, name: str) -> Call:
        rng = self._rng
        work = Work(
            takes=rng.choice((0, 0, 1, 1, 2, 6, 24, None)),
            end=rng.choice((*["returns"] * 4, "fails", "breaks", "gives up")),
            clings=rng.choice((0, 0, 0, 1, 8, 40)),
            words=rng.choice((1, 1, 20, 300)),
            decided=rng.choice((None, 0, 1, 2, 12, 40)),
            allowed=rng.random() < 0.7,
        )
        return Call(
            id=rng.choice((name, name, "same", "same", "", "not an id")),
            name=rng.choice((*["work"] * 4, *["risky"] * 3, "unknown")),
            arguments=rng.choice((*[orjson.dumps(work).decode()] * 7, rng.choice(("", "{oops", "[1]")))),
        )

    def _acts(self) -> Iterator[Act]:
        rng = self._rng
        arrivals = [rng.randrange(LENGTH) for _ in self.requests]
        for nth, tick in enumerate(arrivals):
            yield Act(tick, rng.randrange(8), Deed.ARRIVE, nth)
        for deeds, most in (
            ((Deed.LEAVE, Deed.STOP_RUN), 10),
            ((Deed.STOP_SESSION,), 3),
            ((Deed.STOP_RUN,), 3),
            ((Deed.SUBSCRIBE,), 7),
        ):
            for _ in range(rng.randrange(most)):
                nth = rng.randrange(len(arrivals))
                early = deeds == (Deed.STOP_RUN,)
                yield Act(
                    rng.randrange(LENGTH) if early else arrivals[nth] + rng.choice(_SOON),
                    rng.randrange(8),
                    rng.choice(deeds),
                    nth,
                    seq=rng.randrange(-2, 12),
                    stays=rng.choice((None, rng.randrange(LENGTH))),
                )
