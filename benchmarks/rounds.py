"""Runs a scenario: its targets in turns, round after round, so that what disturbs one disturbs all."""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from benchmarks.scenario import Figures, Scenario, Wrong
from benchmarks.stage import Stage
from benchmarks.target import Target
from benchmarks.upstream import Upstream

__all__ = ["Results", "run"]

_FAILURES = (Wrong, OSError, RuntimeError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Results:
    """What a scenario's rounds gave, by target. One that fails is left out of the later rounds."""

    figures: defaultdict[str, list[Figures]] = field(default_factory=lambda: defaultdict(list))
    failures: dict[str, str] = field(default_factory=dict)

    def failed(self, scenario: Scenario, target: Target, failure: BaseException) -> None:
        self.failures[target.name] = f"{type(failure).__name__}: {failure}"
        print(f"{scenario.name}: {target.name} failed: {self.failures[target.name]}", file=sys.stderr)


async def run(
    scenario: Scenario, targets: Sequence[Target], upstream: Upstream, *, rounds: int, quick: bool
) -> Results:
    results = Results()
    async with AsyncExitStack() as alive:
        if not scenario.fresh:
            for target in targets:
                try:
                    await alive.enter_async_context(target.running(upstream.port))
                except _FAILURES as failure:
                    results.failed(scenario, target, failure)
        for number in range(rounds):
            for target in targets:
                if target.name in results.failures:
                    continue
                print(f"{scenario.name}: round {number + 1} of {rounds}, {target.name}", file=sys.stderr)
                try:
                    results.figures[target.name].append(await _once(scenario, target, upstream, quick=quick))
                except _FAILURES as failure:
                    results.failed(scenario, target, failure)
    return results


async def _once(scenario: Scenario, target: Target, upstream: Upstream, *, quick: bool) -> Figures:
    async with AsyncExitStack() as alive:
        if scenario.fresh:
            await alive.enter_async_context(target.running(upstream.port))
        stage = Stage(target, upstream, quick=quick)
        try:
            async with asyncio.timeout(scenario.limit_s):
                await stage.warm_up()
                return await scenario.measure(stage)
        finally:
            await stage.clear()
