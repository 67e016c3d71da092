"""S5: what a subscriber takes, and what a run takes, while it runs and after."""

from __future__ import annotations

import asyncio

from benchmarks.cores import pss_kib
from benchmarks.delivery import whole
from benchmarks.scenario import Chart, Figure, Figures, Scenario, Wrong
from benchmarks.stage import Run, Stage
from benchmarks.target import Ability
from benchmarks.upstream import pace, token

__all__ = ["Memory"]

_SUBSCRIBERS = (1000, 5000)
_TOKENS = 500
_TOKENS_PER_S = 8000  # of all runs together: each token comes alone, and nobody falls behind
_FIRST = 50  # they aren't measured: what a target takes once, as pools and caches, it takes for them
_AT_ONCE = 25
_REPLAY_S = 10.0


class Memory(Scenario):
    name = "s5"
    title = "Memory: of an idle subscriber of a live run, and of a run of 500 tokens without one"
    needs = frozenset({Ability.FAN_OUT})
    limit_s = 240.0
    fresh = True
    charts = (
        Chart("a subscriber", "KiB", {f"of {n:,}": f"one of {n:,} subscribers" for n in _SUBSCRIBERS}),
        Chart("a run", "KiB", {"running": "a running run", "finished": "a finished run"}),
    )

    async def measure(self, stage: Stage) -> Figures:
        """Each part has a process of its own: memory that the one before has freed would make it look cheap."""
        figures = await _subscribers(stage)
        if Ability.LOG in stage.target.abilities:
            count = 100 if stage.quick else 300
            figures["a running run"] = await _running(stage, count)
            figures["a finished run"] = await _finished(stage, count)
        return figures


async def _subscribers(stage: Stage) -> Figures:
    figures: Figures = {}
    (run,) = await stage.run()
    before = await _pss_kib(stage)
    watching = 0
    for count in _SUBSCRIBERS:
        await stage.subscribe(run, count - watching)
        watching = count
        figures[f"one of {count:,} subscribers"] = Figure((await _pss_kib(stage) - before) / count, "KiB")
    return figures


async def _running(stage: Stage, count: int) -> Figure:
    await _anew(stage)
    runs = await stage.run(_FIRST)
    await _told(runs)
    before = await _pss_kib(stage)
    more = await stage.run(count)
    await _told(more)
    figure = Figure((await _pss_kib(stage) - before) / count, "KiB")
    await _check(stage, runs + more)
    return figure


async def _finished(stage: Stage, count: int) -> Figure:
    """A few at once: what they take only while they run is then used again by the next ones."""
    await _anew(stage)
    runs = await _through(stage, _FIRST)
    before = await _pss_kib(stage)
    more = await _through(stage, count)
    figure = Figure((await _pss_kib(stage) - before) / count, "KiB")
    await _check(stage, runs + more)
    return figure


async def _through(stage: Stage, count: int) -> list[Run]:
    """Let *count* runs come to their end."""
    runs: list[Run] = []
    while len(runs) < count:
        some = await stage.run(_AT_ONCE)
        await _told(some)
        for run in some:
            run.stream.end()
        runs += some
    return runs


async def _anew(stage: Stage) -> None:
    await stage.clear()
    await stage.target.restart()
    await stage.warm_up()


async def _pss_kib(stage: Stage) -> int:
    await stage.settle()
    return pss_kib(stage.target.pids)


async def _told(runs: list[Run]) -> None:
    await pace([run.stream.say_bare for run in runs], len(runs) / _TOKENS_PER_S, range(1, _TOKENS))


async def _check(stage: Stage, runs: list[Run]) -> None:
    for run in runs:
        client = await stage.connect(stage.target.resume(run.key, None))
        try:
            async with asyncio.timeout(_REPLAY_S):
                await client.seen(token(_TOKENS - 1))
        except TimeoutError:
            raise Wrong(f"run {run.key} was told all tokens, and doesn't tell them again") from None
        whole(client.response().tokens(), range(_TOKENS))
        client.close()
