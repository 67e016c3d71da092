"""S8: what a token costs when there are more and more runs on one node."""

from __future__ import annotations

import asyncio

from benchmarks.delivery import delays_ms, whole
from benchmarks.scenario import Chart, Figure, Figures, Scenario, p99
from benchmarks.stage import Open, Stage, window_s
from benchmarks.target import Ability
from benchmarks.upstream import pace, token

__all__ = ["Growth"]

_RUNS = (10, 100, 500, 1000, 2000)
_TOKENS_PER_S = 5000  # of all runs together, so that only their number grows; less than a core can take


class Growth(Scenario):
    name = "s8"
    title = "Growth: detached runs on one node, 5,000 tokens a second together"
    needs = frozenset({Ability.DETACHED})
    charts = (
        Chart("the server's CPU", "us/token", {n: f"{n} runs, CPU per token" for n in _RUNS}),
        Chart("delay", "ms, p99", {n: f"{n} runs, p99" for n in _RUNS}, logarithmic=True),
    )

    async def measure(self, stage: Stage) -> Figures:
        figures: Figures = {}
        opened: list[Open] = []
        for count in _RUNS:
            opened += await stage.open(stage.target.detached, count - len(opened))
            await stage.settle()
            figures |= await _measure(stage, opened)
        few, many = (figures[f"{count} runs, CPU per token"].value for count in (_RUNS[0], _RUNS[-1]))
        figures["growth of CPU, 10 to 2000"] = Figure(many / few, "x")
        return figures


async def _measure(stage: Stage, opened: list[Open]) -> Figures:
    gap_s = len(opened) / _TOKENS_PER_S
    tokens = round(window_s(stage) / gap_s)
    numbers = range(len(opened) * 300, len(opened) * 300 + tokens)  # other ones than those of the step before
    with stage.measured() as meter:
        await pace([it.stream.say for it in opened], gap_s, numbers)
        await asyncio.gather(*(it.client.seen(token(numbers[-1])) for it in opened))
    delays: list[float] = []
    for it in opened:
        new = [found for found in it.client.response().tokens() if found.number >= numbers[0]]
        delays += delays_ms(whole(new, numbers))
    return {
        f"{len(opened)} runs, CPU per token": meter.figure(meter.server_us / len(delays), "us"),
        f"{len(opened)} runs, p99": meter.figure(p99(delays), "ms"),
    }
