"""What a scenario is, and what it returns.

A new one is a subclass of `Scenario`, added to `benchmarks.scenarios.SCENARIOS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.target import Ability

if TYPE_CHECKING:
    from benchmarks.stage import Stage

__all__ = ["Chart", "Figure", "Figures", "Scenario", "Wrong", "p50", "p99"]


class Wrong(Exception):
    """A target didn't do what it is measured for: events are missing, or an answer never came."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, and who kept the cores busy while it was measured, in cores: 1.0 is a whole one."""

    value: float
    unit: str
    server_share: float | None = None
    load_share: float | None = None
    """The load client's and the model server's."""
    others_share: float | None = None
    """Of whatever else runs on the machine. None where too little time has passed to tell."""


Figures = dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Chart:
    """One plot of a scenario's picture: a group of bars for each label, or over numbers a line for each target."""

    title: str
    unit: str
    points: Mapping[str | int, str]
    """The label, or the number on the horizontal axis, and the name of the figure that belongs there."""
    logarithmic: bool = False


class Scenario(ABC):
    name: str
    """What the command line calls it, as `s1`."""
    title: str
    needs: frozenset[Ability]
    """What a target must be able to do one of; it is measured at those it can, and left out if it can do none."""
    charts: Sequence[Chart]
    limit_s: float = 120.0
    """How long one target may take in one round."""
    fresh: bool = False
    """Whether each round starts the target anew. Otherwise it lives through all rounds of the scenario."""

    @abstractmethod
    async def measure(self, stage: Stage) -> Figures:
        """Measure the stage's target once. Raises `Wrong`; the target then shows as failed."""


def p50(values: Sequence[float]) -> float:
    return _percentile(values, 50)


def p99(values: Sequence[float]) -> float:
    return _percentile(values, 99)


def _percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest of *values* that so many percent of them don't exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]
