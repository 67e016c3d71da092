"""S4: one run, and many who watch it."""

from __future__ import annotations

import asyncio
import time

from benchmarks.delivery import delays_ms, whole
from benchmarks.scenario import Chart, Figures, Scenario, Wrong, p50, p99
from benchmarks.stage import Stage
from benchmarks.tally import Tally
from benchmarks.target import Ability
from benchmarks.upstream import pace, token

__all__ = ["FanOut"]

_SUBSCRIBERS = 1000
_BURST = 2000
_BURST_LIMIT_S = 100.0
_PACED = 100
_GAP_S = 0.02
_PARTS = ("burst", "paced")


class FanOut(Scenario):
    name = "s4"
    title = "Fan-out: 1 run, 1,000 subscribers; a burst, and a token every 20 ms"
    needs = frozenset({Ability.FAN_OUT})
    limit_s = 200.0
    charts = (
        Chart(
            "the server's CPU", "us/token delivered", {it: f"{it}, CPU per token" for it in _PARTS}, logarithmic=True
        ),
        Chart("burst: delivered", "tokens/s", {"burst": "burst, tokens per second"}, logarithmic=True),
        Chart("paced: delay", "ms", {it: f"paced, {it}" for it in ("p50", "p99")}, logarithmic=True),
    )

    async def measure(self, stage: Stage) -> Figures:
        return {**await _burst(stage, _BURST // 4 if stage.quick else _BURST), **await _paced(stage)}


async def _burst(stage: Stage, count: int) -> Figures:
    (run,) = await stage.run()
    subscribers = await stage.subscribe(run, _SUBSCRIBERS)
    tallies = [Tally(count) for _ in subscribers]
    for client, tally in zip(subscribers, tallies, strict=True):
        client.tally = tally
    await stage.settle()
    with stage.measured() as meter:
        begun_at = time.monotonic_ns()
        run.stream.burst(count)
        await asyncio.wait([tally.complete for tally in tallies], timeout=_BURST_LIMIT_S)
    numbers = range(1, count + 1)
    if missing := sum(not tally.told(numbers) for tally in tallies):
        raise Wrong(f"{missing} of {_SUBSCRIBERS} subscribers didn't get what was told, in its order")
    took_ms = [(tally.complete.result() - begun_at) / 1e6 for tally in tallies]
    await stage.clear()
    delivered = count * _SUBSCRIBERS
    return {
        "burst, CPU per token": meter.figure(meter.server_us / delivered, "us"),
        "burst, tokens per second": meter.figure(delivered / meter.wall_s, "tokens/s"),
        "burst, p50 to the last token": meter.figure(p50(took_ms), "ms"),
        "burst, p99 to the last token": meter.figure(p99(took_ms), "ms"),
    }


async def _paced(stage: Stage) -> Figures:
    (run,) = await stage.run()
    subscribers = await stage.subscribe(run, _SUBSCRIBERS)
    await stage.settle()
    numbers = range(1, _PACED + 1)
    with stage.measured() as meter:
        await pace([run.stream.say], _GAP_S, numbers)
        await asyncio.gather(*(client.seen(token(_PACED)) for client in subscribers))
    delays: list[float] = []
    for client in subscribers:
        _, *paced = whole(client.response().tokens(), (0, *numbers))
        delays += delays_ms(paced)
    await stage.clear()
    return {
        "paced, CPU per token": meter.figure(meter.server_us / len(delays), "us"),
        "paced, p50": meter.figure(p50(delays), "ms"),
        "paced, p99": meter.figure(p99(delays), "ms"),
    }
