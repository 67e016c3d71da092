"""Whether what the model server said has arrived: all of it, in order, once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.response import Token
from benchmarks.scenario import Wrong

__all__ = ["delays_ms", "whole"]


def whole(tokens: Sequence[Token], numbers: Iterable[int]) -> Sequence[Token]:
    """Return the *tokens* that a client got. Raises `Wrong` unless they are exactly *numbers*."""
    expected = list(numbers)
    if [token.number for token in tokens] != expected:
        raise Wrong(f"{len(expected)} tokens were sent, {len(tokens)} came; or not in their order")
    return tokens


def delays_ms(tokens: Iterable[Token]) -> list[float]:
    """Return how long each of them was on its way."""
    return [(token.arrived_at - token.sent_at) / 1e6 for token in tokens]
