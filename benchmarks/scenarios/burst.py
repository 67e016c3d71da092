"""S3: as much as goes through, without a gap. Every token is looked for afterwards."""

from __future__ import annotations

import asyncio

from benchmarks.delivery import whole
from benchmarks.scenario import Chart, Figures, Scenario
from benchmarks.stage import Stage
from benchmarks.target import Ability

__all__ = ["Burst"]

_STREAMS = 50
_TOKENS = 2000
_MODES = (Ability.DIRECT, Ability.DETACHED)


class Burst(Scenario):
    name = "s3"
    title = "Burst: 50 streams of 2,000 tokens at once"
    needs = frozenset(_MODES)
    charts = (
        Chart(
            "tokens delivered", "tokens/s", {mode: f"{mode}, tokens per second" for mode in _MODES}, logarithmic=True
        ),
        Chart("the server's CPU", "us/token", {mode: f"{mode}, CPU per token" for mode in _MODES}, logarithmic=True),
    )

    async def measure(self, stage: Stage) -> Figures:
        figures: Figures = {}
        for mode, asked in stage.target.modes().items():
            opened = await stage.open(asked, _STREAMS)
            await stage.settle()
            with stage.measured() as meter:
                for it in opened:
                    it.stream.burst(_TOKENS)
                    it.stream.end()
                await asyncio.gather(*(it.client.finished for it in opened))
            for it in opened:
                whole(it.client.response().tokens(), range(_TOKENS + 1))
            await stage.clear()
            tokens = _STREAMS * _TOKENS
            figures[f"{mode}, tokens per second"] = meter.figure(tokens / meter.wall_s, "tokens/s")
            figures[f"{mode}, CPU per token"] = meter.figure(meter.server_us / tokens, "us")
        return figures
