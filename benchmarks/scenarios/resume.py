"""S6: a client comes back to a live run, and misses the last ten events."""

from __future__ import annotations

from benchmarks.delivery import whole
from benchmarks.scenario import Chart, Figure, Figures, Scenario, p50, p99
from benchmarks.stage import Stage
from benchmarks.target import Ability
from benchmarks.upstream import token

__all__ = ["Resume"]

_EVENTS = (100, 10_000, 100_000)
_MISSING = 10


class Resume(Scenario):
    name = "s6"
    title = "Resume: the last 10 events of a long log"
    needs = frozenset({Ability.DETACHED})
    charts = (
        Chart("request -> last event", "ms, p50", {f"{n:,}": f"{n:,} events, p50" for n in _EVENTS}),
        Chart("request -> last event", "ms, p99", {f"{n:,}": f"{n:,} events, p99" for n in _EVENTS}),
    )

    async def measure(self, stage: Stage) -> Figures:
        figures: Figures = {}
        for events in _EVENTS:
            figures |= await _measure(stage, events)
        growth = figures[f"{_EVENTS[-1]:,} events, p50"].value / figures[f"{_EVENTS[0]:,} events, p50"].value
        figures["growth of p50, 100 to 100,000"] = Figure(growth, "x")
        return figures


async def _measure(stage: Stage, events: int) -> Figures:
    (run,) = await stage.open(stage.target.detached)
    last = events - 1
    run.stream.burst_apart(last)
    await run.client.seen(token(last))
    first = run.client.response()
    key, seen = stage.target.key(first), stage.target.event_id(first, last - _MISSING)
    await stage.settle()
    took_ms = []
    with stage.measured() as meter:
        for _ in range(40 if stage.quick else 100):
            client = await stage.connect(stage.target.resume(key, seen))
            await client.seen(token(last))
            tokens = whole(client.response().tokens(), range(events - _MISSING, events))
            took_ms.append((tokens[-1].arrived_at - client.sent_at) / 1e6)
            client.close()
    await stage.clear()
    return {
        f"{events:,} events, p50": meter.figure(p50(took_ms), "ms"),
        f"{events:,} events, p99": meter.figure(p99(took_ms), "ms"),
    }
