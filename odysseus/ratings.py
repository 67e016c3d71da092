"""Ratings of models from the games between them: Bradley-Terry on the Elo scale, with confidence intervals. Pure.

The models' strengths are those that make what happened likeliest, where one beats another with the probability
1 / (1 + exp(other's - own)), and a tie is half a win for each. Only differences show in games: the models' mean is 1000
by definition. A weak prior, which thirty games hardly feel, keeps a model finite that has only won, and makes models
comparable that no game joins.

Source: R. A. Bradley and M. E. Terry, "Rank analysis of incomplete block designs", Biometrika 39 (1952); the interval
is that of the normal distribution with the inverse of the information matrix, as for every maximum of a likelihood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Rating", "Record", "rate"]

_MIDDLE = 1000.0
_SCALE = 400 / math.log(10)  # points for each unit of strength: 400 are ten wins for each loss
_PRIOR = 1 / math.log(10) ** 2  # the precision of a strength before any game: 400 points are one standard deviation
_Z = 1.959964  # 95 % of a normal distribution lie so many standard deviations around its middle
_CLOSE = 1e-9
_STEPS = 100  # Newton's method needs about six

_Matrix = list[list[float]]


@dataclass(frozen=True, slots=True)
class Record:
    """What happened between two different models: *wins* of the first over the second, and *ties*."""

    first: str
    second: str
    wins: int = 0
    ties: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    model: str
    games: int
    wins: int
    losses: int
    ties: int
    rating: float
    low: float
    """The ends of the 95 % confidence interval."""
    high: float


def rate(records: Sequence[Record]) -> Sequence[Rating]:
    """Return the rating of every model that has played, the best one first. Takes a time with the cube of their number.

    A pair may stand in several records, either way round.
    """
    models = sorted({model for record in records for model in (record.first, record.second)})
    place = {model: number for number, model in enumerate(models)}
    size = len(models)
    won, drawn = _zeros(size), _zeros(size)
    for record in records:
        one, other = place[record.first], place[record.second]
        won[one][other] += record.wins
        drawn[one][other] += record.ties
        drawn[other][one] += record.ties
    strengths, variances = _fit(won, drawn)
    found = []
    for model, number in place.items():
        wins, ties = sum(won[number]), sum(drawn[number])
        losses = sum(row[number] for row in won)
        margin = _Z * math.sqrt(variances[number])
        found.append(
            Rating(
                model=model,
                games=int(wins + losses + ties),
                wins=int(wins),
                losses=int(losses),
                ties=int(ties),
                rating=_points(strengths[number]),
                low=_points(strengths[number] - margin),
                high=_points(strengths[number] + margin),
            )
        )
    return sorted(found, key=lambda one: (-one.rating, one.model))


def _points(strength: float) -> float:
    return round(_MIDDLE + _SCALE * strength, 1)


def _fit(won: _Matrix, drawn: _Matrix) -> tuple[Sequence[float], Sequence[float]]:
    """Return the likeliest strengths, and their variances around their mean. With the prior there is one maximum."""
    size = len(won)
    strengths = [0.0] * size
    inverse: _Matrix = []
    for _ in range(_STEPS):
        slope = [-_PRIOR * strength for strength in strengths]
        information = _zeros(size)
        for i in range(size):
            information[i][i] += _PRIOR
            for j in range(i):
                games = won[i][j] + won[j][i] + drawn[i][j]
                if not games:
                    continue
                chance = _logistic(strengths[i] - strengths[j])
                surplus = won[i][j] + drawn[i][j] / 2 - games * chance
                weight = games * chance * (1 - chance)
                slope[i] += surplus
                slope[j] -= surplus
                information[i][i] += weight
                information[j][j] += weight
                information[i][j] -= weight
                information[j][i] -= weight
        inverse = _inverted(information)
        step = [sum(a * b for a, b in zip(row, slope, strict=True)) for row in inverse]
        longest = max(map(abs, step), default=0.0)
        if longest < _CLOSE:
            break
        shorter = min(1.0, 1 / longest)  # a full step may go too far where a model has only won
        strengths = [strength + shorter * one for strength, one in zip(strengths, step, strict=True)]
    of_mean = 1 / (_PRIOR * size) if size else 0.0
    return strengths, [inverse[number][number] - of_mean for number in range(size)]


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else 1 - 1 / (1 + math.exp(x))


def _zeros(size: int) -> _Matrix:
    return [[0.0] * size for _ in range(size)]


def _inverted(matrix: _Matrix) -> _Matrix:
    """Return the inverse, by Gauss and Jordan; *matrix* is used up. A positive definite one needs no pivoting."""
    size = len(matrix)
    for pivot in range(size):
        row = matrix[pivot]
        factor = 1 / row[pivot]
        row[pivot] = 1.0
        row[:] = [value * factor for value in row]
        for other in matrix:
            if other is not row and (times := other[pivot]):
                other[pivot] = 0.0
                other[:] = [value - times * with_ for value, with_ in zip(other, row, strict=True)]
    return matrix
