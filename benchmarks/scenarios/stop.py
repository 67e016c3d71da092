"""S1 and S7: how soon the model server sees its connection close, while it is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.scenario import Chart, Figure, Figures, Scenario, Wrong, p50, p99
from benchmarks.stage import Open, Stage
from benchmarks.target import Ability

__all__ = ["ClientCloses", "StopEndpoint"]

_LIMIT_S = 10.0  # one that isn't closed by then is missed
_OTHERS = 500
_AT_ONCE = 300
_BREATH_S = 0.005  # so that what the target still does about the last one isn't paid by the next


async def _all_closed(opened: Sequence[Open]) -> bool:
    waiting = [it.stream.closed for it in opened]
    _, missing = await asyncio.wait(waiting, timeout=_LIMIT_S)
    return not missing


async def _close_each(stage: Stage, count: int, *, reset: bool = False) -> list[float]:
    """Open a stream and close it, again and again. Return what each close took, in milliseconds."""
    took_ms = []
    for _ in range(count):
        (only,) = await stage.open(stage.target.direct)
        await asyncio.sleep(_BREATH_S)
        left_at = only.client.close(reset=reset)
        if not await _all_closed([only]):
            raise Wrong("a silent stream was left, and the model server never saw it")
        took_ms.append((only.stream.closed.result() - left_at) / 1e6)
    return took_ms


class ClientCloses(Scenario):
    name = "s1"
    title = "Stop: the client closes -> the model's connection closes"
    needs = frozenset({Ability.DIRECT})
    charts = (
        Chart(
            "typical",
            "ms, p50",
            {
                "one": "one stream, p50",
                "one, reset": "one stream, reset, p50",
                "500 open": "one of 500, p50",
                "300 at once": "300 at once, p50",
            },
        ),
        Chart(
            "worst",
            "ms, p99",
            {"one": "one stream, p99", "500 open": "one of 500, p99", "300 at once": "300 at once, p99"},
        ),
    )

    async def measure(self, stage: Stage) -> Figures:
        count = 40 if stage.quick else 150
        figures: Figures = {}
        with stage.measured() as meter:
            one = await _close_each(stage, count)
        figures["one stream, p50"] = meter.figure(p50(one), "ms")
        figures["one stream, p99"] = meter.figure(p99(one), "ms")
        with stage.measured() as meter:
            one = await _close_each(stage, count, reset=True)
        figures["one stream, reset, p50"] = meter.figure(p50(one), "ms")

        others = await stage.open(stage.target.direct, _OTHERS)
        await stage.settle()
        with stage.measured() as meter:
            one = await _close_each(stage, count)
        figures["one of 500, p50"] = meter.figure(p50(one), "ms")
        figures["one of 500, p99"] = meter.figure(p99(one), "ms")

        leaving = others[:_AT_ONCE]
        with stage.measured() as meter:
            left_at = [it.client.close() for it in leaving]
            await _all_closed(leaving)
        pairs = zip(leaving, left_at, strict=True)
        took_ms = [(it.stream.closed.result() - at) / 1e6 for it, at in pairs if it.stream.closed.done()]
        if not took_ms:
            raise Wrong("300 silent streams were left at once, and the model server saw none of it")
        figures["300 at once, p50"] = meter.figure(p50(took_ms), "ms")
        figures["300 at once, p99"] = meter.figure(p99(took_ms), "ms")
        figures["300 at once, missed"] = Figure(len(leaving) - len(took_ms), "streams")
        return figures


class StopEndpoint(Scenario):
    name = "s7"
    title = "Stop: the stop endpoint is called -> the model's connection closes"
    needs = frozenset({Ability.STOP})
    charts = (Chart("one run after the other", "ms", {"p50": "p50", "p99": "p99"}),)

    async def measure(self, stage: Stage) -> Figures:
        took_ms = []
        with stage.measured() as meter:
            for _ in range(40 if stage.quick else 150):
                (only,) = await stage.open(stage.target.detached)
                await asyncio.sleep(_BREATH_S)
                key = stage.target.key(only.client.response())
                asking = await stage.connect(stage.target.stop_run(key))
                if not await _all_closed([only]):
                    raise Wrong("a run was stopped, and the model server never saw it")
                took_ms.append((only.stream.closed.result() - asking.sent_at) / 1e6)
                await asking.finished
        return {"p50": meter.figure(p50(took_ms), "ms"), "p99": meter.figure(p99(took_ms), "ms")}
