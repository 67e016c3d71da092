"""What a seed stands for: who asks for what and when, who watches and stops it, and what breaks. Drawn beforehand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from random import Random

__all__ = ["EVERY_KIND", "Fault", "How", "Kind", "Run", "Schedule", "Stop", "Watcher"]


class Kind(Enum):
    """What breaks. Those of a connection are one node's; the others are everybody's."""

    KILL = "kill -9, then a new start"
    RESTART = "SIGTERM, then a new start"
    PAUSE = "SIGSTOP for longer than the lease, then SIGCONT"
    REDIS_EMPTY = "Redis restarted, empty"
    REDIS_FROZEN = "Redis frozen"
    REDIS_CUT = "connections to Redis cut"
    REDIS_PARTED = "nothing passes to Redis"
    DATABASE_CUT = "connections to PostgreSQL cut"
    DATABASE_PARTED = "nothing passes to PostgreSQL"
    DATABASE_AWAY = "PostgreSQL down"


class How(Enum):
    """How a run is asked for. All but the first end with their client's stream."""

    DETACHED = "detached"
    DIRECT = "compare_mode"
    PANE = "a compare's pane"


EVERY_KIND = tuple(Kind)
_OF_A_NODE = (Kind.KILL, Kind.RESTART, Kind.PAUSE)


@dataclass(frozen=True)
class Fault:
    at_s: float
    kind: Kind
    node: int
    lasts_s: float

    @property
    def ends_s(self) -> float:
        return self.at_s + self.lasts_s


@dataclass(frozen=True)
class Watcher:
    """Follows a run from its first frame on, and comes back wherever it likes when its connection breaks."""

    after_s: float
    """From when the run is accepted."""
    hops: Sequence[int]
    """Frames after which it leaves and comes back, each counted from the one before."""
    leaves_after: int | None
    """Frames after which it leaves for good."""
    seed: int
    """Of the nodes that it asks."""


@dataclass(frozen=True)
class Stop:
    after_s: float
    """From when the run is accepted; -1: by its id, before it is asked for."""
    by_run: bool
    """It names the run; otherwise all that the session runs is meant."""
    seed: int


@dataclass(frozen=True)
class Run:
    """A request, and what comes of it."""

    number: int
    at_s: float
    words: int
    pause_s: float
    """Between two words."""
    session: int | None
    """Which of the common sessions; None: one of its own."""
    if_busy: str
    as_json: bool
    how: How
    breaks_after: int | None
    """Words after which its model breaks the connection."""
    must_be_ended: bool
    """Its model hangs after its words: its client leaves, or its session is deleted."""
    kept_after_s: float | None
    """From when it is accepted; only a pane is kept, and goes on as a detached run."""
    deleted_after_s: float | None
    """From when it is accepted; only a session of its own is deleted."""
    watchers: Sequence[Watcher]
    stop: Stop | None
    seed: int


class Schedule:
    """*runs* requests within *span_s* seconds at *nodes* nodes, and *kinds* of faults, each at least once."""

    def __init__(
        self,
        seed: int,
        *,
        runs: int = 500,
        nodes: int = 3,
        span_s: float = 40,
        lease_s: float = 2,
        kinds: Collection[Kind] = EVERY_KIND,
    ) -> None:
        self.seed = seed
        self.nodes = nodes
        self.lease_s = lease_s
        self._rng = Random(seed)
        self._span_s = span_s
        self.common_sessions = max(1, runs // 50)
        self.runs = tuple(sorted((self._run(number) for number in range(runs)), key=lambda run: run.at_s))
        of_a_node = [kind for kind in kinds if kind in _OF_A_NODE]
        between = [kind for kind in kinds if kind not in _OF_A_NODE]
        lanes = [tuple(self._lane(lane)) for lane in (of_a_node, between) if lane]
        self.lanes: Sequence[Sequence[Fault]] = tuple(lanes)
        """What happens one after the other: to a node itself, and to what it is connected to. Lanes overlap."""
        self.ends_s = max([span_s, *(fault.ends_s for lane in lanes for fault in lane)])

    @property
    def faults(self) -> Sequence[Fault]:
        return tuple(sorted((fault for lane in self.lanes for fault in lane), key=lambda fault: fault.at_s))

    def _run(self, number: int) -> Run:
        rng = self._rng
        is_long = rng.random() < 0.06
        how = rng.choices(tuple(How), (16, 1, 3))[0]
        leaves = how is not How.DETACHED and rng.random() < 0.4
        words = 1 if leaves else rng.randint(150, 300) if is_long else rng.randint(10, 40)
        session = rng.randrange(self.common_sessions) if how is not How.PANE and rng.random() < 0.2 else None
        kept_after_s = rng.choice((0, 0.1, 0.5, 2)) if how is How.PANE and rng.random() < 0.5 else None
        deleted_after_s = rng.choice((0, 0.1, 0.5, 2)) if session is None and rng.random() < 0.08 else None
        must_be_ended = (leaves and kept_after_s is None) or deleted_after_s is not None
        return Run(
            number=number,
            at_s=rng.uniform(0, self._span_s),
            words=words,
            pause_s=rng.uniform(0.01, 0.03) if is_long else rng.choice((0.002, 0.005, 0.02, 0.05)),
            session=session,
            if_busy=rng.choice(("reject", "replace", "queue", "queue")),
            as_json=how is How.DETACHED and rng.random() < 0.6,
            how=how,
            breaks_after=rng.randint(1, words) if not must_be_ended and rng.random() < 0.06 else None,
            must_be_ended=must_be_ended,
            kept_after_s=kept_after_s,
            deleted_after_s=deleted_after_s,
            watchers=self._watchers(words) if how is How.DETACHED else [self._client(words, leaves=leaves)],
            stop=self._stop() if rng.random() < 0.15 else None,
            seed=rng.getrandbits(32),
        )

    def _watchers(self, words: int) -> Sequence[Watcher]:
        return [self._watcher(words) for _ in range(self._rng.choice((0, 1, 1, 2, 3)))]

    def _client(self, words: int, *, leaves: bool) -> Watcher:
        """Return the one client of a run that isn't detached. One that leaves does so after `started` and all that its
        model says, so that no write tells of that."""
        client = self._watcher(words)
        return replace(client, hops=(), leaves_after=2) if leaves else client

    def _watcher(self, words: int) -> Watcher:
        rng = self._rng
        return Watcher(
            after_s=rng.choice((0, 0, 0.01, 0.1, 0.5, 3)),
            hops=[rng.randint(1, words) for _ in range(rng.choice((0, 0, 1, 2, 5)))],
            leaves_after=rng.randint(1, words) if rng.random() < 0.15 else None,
            seed=rng.getrandbits(32),
        )

    def _stop(self) -> Stop:
        rng = self._rng
        return Stop(
            after_s=rng.choice((-1, 0, 0, 0.02, 0.1, 0.3, 1)), by_run=rng.random() < 0.6, seed=rng.getrandbits(32)
        )

    def _lane(self, kinds: Sequence[Kind]) -> Iterator[Fault]:
        rng = self._rng
        first = rng.sample(kinds, len(kinds))
        at_s = rng.uniform(1, 3)
        while first or at_s < self._span_s:
            kind = first.pop() if first else rng.choice(kinds)
            fault = Fault(at_s, kind, rng.randrange(self.nodes), _LASTS[kind](rng, self.lease_s))
            yield fault
            at_s = fault.ends_s + rng.uniform(0.5, 4)


_LASTS: dict[Kind, Callable[[Random, float], float]] = {
    Kind.KILL: lambda rng, lease_s: rng.choice((0, 0.5, 1.5 * lease_s)),
    Kind.RESTART: lambda rng, lease_s: rng.choice((0, 0, 0.5)),
    Kind.PAUSE: lambda rng, lease_s: lease_s * rng.uniform(1.2, 2.5),
    Kind.REDIS_EMPTY: lambda rng, lease_s: rng.uniform(0, 1),
    Kind.REDIS_FROZEN: lambda rng, lease_s: rng.uniform(0.3, 1.5 * lease_s),
    Kind.REDIS_CUT: lambda rng, lease_s: rng.choice((0, 0.5, 2 * lease_s)),
    Kind.REDIS_PARTED: lambda rng, lease_s: rng.uniform(0.5, 2.5 * lease_s),
    Kind.DATABASE_CUT: lambda rng, lease_s: rng.uniform(0, 2),
    Kind.DATABASE_PARTED: lambda rng, lease_s: rng.uniform(0.5, 3),
    Kind.DATABASE_AWAY: lambda rng, lease_s: rng.uniform(0, 2),
}
