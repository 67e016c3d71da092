"""See the package: `--n` plays many schedules on every core, `--seed` one, and tells what happened in it."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

from tests.simulation.simulate import Violation, failures, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--n", type=int, default=1000, help="how many schedules (default: 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed (default: 0)")
    parser.add_argument("--seed", type=int, help="play this one alone")
    options = parser.parse_args()
    return _many(range(options.first, options.first + options.n)) if options.seed is None else _one(options.seed)


def _many(seeds: range) -> int:
    begun, failed = time.perf_counter(), 0
    for _, problem in failures(seeds, os.cpu_count() or 1):
        failed += 1
        print(problem, flush=True)
    print(f"{len(seeds)} schedules, {failed} failed, {time.perf_counter() - begun:.1f} s")
    return 1 if failed else 0


def _one(seed: int) -> int:
    logging.basicConfig(level=logging.INFO, format="          (%(message)s)", stream=sys.stdout)
    try:
        simulate(seed, tell=print)
    except Violation as violation:
        print(violation, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
