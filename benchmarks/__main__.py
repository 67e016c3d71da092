"""`python -m benchmarks [--scenario s1,s3] [--target odysseus,limit] [--rounds 5] [--quick]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import uvloop

from benchmarks import cores, pictures, report, rounds
from benchmarks.scenario import Scenario
from benchmarks.scenarios import SCENARIOS
from benchmarks.target import Target, Unavailable
from benchmarks.targets import TARGETS
from benchmarks.upstream import Upstream

_RESULTS = Path(__file__).parent / "results"
_ROUNDS = 5
_QUICK_ROUNDS = 2


def _names(known: Iterable[str], text: str) -> list[str]:
    wanted = text.lower().split(",")
    for name in wanted:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no {name!r}; there are {', '.join(known)}")
    return [name for name in known if name in wanted]


def _available(targets: Iterable[Target]) -> Iterator[Target]:
    for target in targets:
        try:
            target.prepare()
        except Unavailable as reason:
            print(f"{target.name} is left out: {reason}", file=sys.stderr)
        else:
            yield target


async def _measure(scenario: Scenario, targets: Sequence[Target], count: int, *, quick: bool) -> bool:
    """Measure *targets*, show what came out, and keep it. Return whether none of them failed."""
    able = [target for target in targets if scenario.needs & target.abilities]
    if not able:
        return True
    upstream = Upstream()
    async with upstream.serve():
        results = await rounds.run(scenario, able, upstream, rounds=count, quick=quick)
    found = report.summaries(results)
    print(report.table(scenario, found, results), end="\n\n", flush=True)
    report.save(_RESULTS, scenario, found, results, quick=quick)
    if found:
        pictures.draw(_RESULTS, scenario, found, [target.name for target in able])
    return not results.failures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Odysseus beside its peers.")
    everything: list[str] = list(SCENARIOS)
    everybody: list[str] = list(TARGETS)
    parser.add_argument(
        "--scenario", type=lambda text: _names(everything, text), default=everything, help=", ".join(everything)
    )
    parser.add_argument(
        "--target", type=lambda text: _names(everybody, text), default=everybody, help=", ".join(everybody)
    )
    parser.add_argument("--rounds", type=int, help=f"default: {_ROUNDS}, or {_QUICK_ROUNDS} with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: a first look, not a figure")
    options = parser.parse_args()
    cores.raise_file_limit()
    cores.pin(cores.LOAD_CORE)
    targets = list(_available(TARGETS[name]() for name in options.target))
    count = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    well = [uvloop.run(_measure(SCENARIOS[name](), targets, count, quick=options.quick)) for name in options.scenario]
    sys.exit(0 if all(well) else 1)


if __name__ == "__main__":
    main()
