"""S2: what a target adds to a token's way when tokens come as a model makes them, and what each costs."""

from __future__ import annotations

import asyncio

from benchmarks.delivery import delays_ms, whole
from benchmarks.scenario import Chart, Figures, Scenario, p50, p99
from benchmarks.stage import Stage, window_s
from benchmarks.target import Ability
from benchmarks.upstream import pace, token

__all__ = ["Paced"]

_GAP_S = 0.02
_STREAMS = (1, 100, 500)
_MODES = (Ability.DIRECT, Ability.DETACHED)


class Paced(Scenario):
    name = "s2"
    title = "A token's delay and cost, 20 ms between the tokens of a stream"
    needs = frozenset(_MODES)
    charts = tuple(
        Chart(f"{mode}: {what}", unit, {str(n): f"{n} {mode}, {what}" for n in _STREAMS}, logarithmic=unit == "ms")
        for mode in _MODES
        for what, unit in (("p50", "ms"), ("p99", "ms"), ("CPU per token", "us"))
    )

    async def measure(self, stage: Stage) -> Figures:
        figures: Figures = {}
        for mode in stage.target.modes():
            for count in _STREAMS:
                figures |= await _measure(stage, mode, count)
        return figures


async def _measure(stage: Stage, mode: Ability, count: int) -> Figures:
    opened = await stage.open(stage.target.modes()[mode], count)
    await stage.settle()
    numbers = range(1, 1 + round(window_s(stage) / _GAP_S))
    with stage.measured() as meter:
        await pace([it.stream.say for it in opened], _GAP_S, numbers)
        await asyncio.gather(*(it.client.seen(token(numbers[-1])) for it in opened))
    delays = []
    for it in opened:
        _, *paced = whole(it.client.response().tokens(), (0, *numbers))
        delays += delays_ms(paced)
    await stage.clear()
    return {
        f"{count} {mode}, p50": meter.figure(p50(delays), "ms"),
        f"{count} {mode}, p99": meter.figure(p99(delays), "ms"),
        f"{count} {mode}, CPU per token": meter.figure(meter.server_us / len(delays), "us"),
    }
