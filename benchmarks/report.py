"""What the rounds gave, put in order: medians with ranges, ratios, a table, a file of JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.rounds import Results
from benchmarks.scenario import Scenario

__all__ = ["Summaries", "Summary", "save", "summaries", "table"]

_BUSY = 0.9
_DISTURBED = 0.1
_BASE = "limit"
_OURS = "odysseus"
_PACKAGES = ("aiohttp", "fastapi", "uvicorn", "uvloop")


@dataclass(frozen=True, slots=True)
class Summary:
    """One figure of one target, over all rounds."""

    unit: str
    values: Sequence[float]
    median: float
    low: float
    high: float
    server_share: float | None
    load_share: float | None
    others_share: float | None

    @property
    def load_bound(self) -> bool:
        """Whether it tells of the load side rather than of the target: its core was the busy one."""
        if self.load_share is None or self.server_share is None:
            return False
        return self.load_share >= _BUSY or (self.unit.endswith("/s") and self.server_share < _BUSY)


Summaries = Mapping[str, Mapping[str, Summary]]
"""By the figure's name, then by target."""


def summaries(results: Results) -> Summaries:
    found: dict[str, dict[str, Summary]] = {}
    for target, rounds in results.figures.items():
        for name in rounds[0] if rounds else ():
            figures = [figures[name] for figures in rounds]
            values = [figure.value for figure in figures]
            found.setdefault(name, {})[target] = Summary(
                figures[0].unit,
                values,
                statistics.median(values),
                min(values),
                max(values),
                _median([figure.server_share for figure in figures]),
                _median([figure.load_share for figure in figures]),
                _median([figure.others_share for figure in figures]),
            )
    return found


def table(scenario: Scenario, found: Summaries, results: Results) -> str:
    """Return Markdown: the targets side by side, then Odysseus as so many times each other one."""
    targets = list(results.figures)
    pairs = _pairs(targets)
    titles = [scenario.name, "unit", *targets, *(f"{ours} / {other}" for ours, other in pairs)]
    rows = [
        [
            name,
            next(iter(by_target.values())).unit,
            *(_cell(by_target.get(target)) for target in targets),
            *(_times(_ratios(by_target, *pair)) for pair in pairs),
        ]
        for name, by_target in found.items()
    ]
    lines = [f"## {scenario.name.upper()}  {scenario.title}", "", _row(titles), _row(["---"] * len(titles))]
    lines += [_row(row) for row in rows]
    everything = [summary for by_target in found.values() for summary in by_target.values()]
    if any(summary.load_bound for summary in everything):
        lines.append("\n\\* limited by the load side, not by the target, which may be better than that")
    if (others := max((summary.others_share or 0 for summary in everything), default=0)) > _DISTURBED:
        lines.append(f"\nDisturbed: something else on the machine took up to {others:.0%} of a core.")
    lines += [f"\n{target} failed: {why}" for target, why in results.failures.items()]
    return "\n".join(lines)


def save(folder: Path, scenario: Scenario, found: Summaries, results: Results, *, quick: bool) -> None:
    targets = list(results.figures)
    document = {
        "scenario": scenario.name,
        "title": scenario.title,
        "quick": quick,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "figures": {
            name: {
                "targets": {target: asdict(summary) for target, summary in by_target.items()},
                "ratios": {
                    f"{ours} / {other}": ratios
                    for ours, other in _pairs(targets)
                    if (ratios := _ratios(by_target, ours, other))
                },
            }
            for name, by_target in found.items()
        },
        "load_bound": [
            f"{target}: {name}"
            for name, by_target in found.items()
            for target, summary in by_target.items()
            if summary.load_bound
        ],
        "failures": results.failures,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{scenario.name}.json").write_text(json.dumps(document, indent=1) + "\n")


def _pairs(targets: Sequence[str]) -> list[tuple[str, str]]:
    """Return whom to compare with whom: Odysseus with all, the others with the limit."""
    ours = [(_OURS, other) for other in targets if other != _OURS] if _OURS in targets else []
    peers = [(peer, _BASE) for peer in targets if peer not in (_OURS, _BASE)] if _BASE in targets else []
    return ours + peers


def _ratios(by_target: Mapping[str, Summary], ours: str, other: str) -> list[float]:
    """Return the ratio in each round: what disturbs the machine for a while disturbs both."""
    if ours not in by_target or other not in by_target:
        return []
    pairs = zip(by_target[ours].values, by_target[other].values, strict=False)
    return [round(mine / theirs, 3) for mine, theirs in pairs if theirs]


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    mark = "\\*" if summary.load_bound else ""
    return f"{_short(summary.median)} ({_short(summary.low)} to {_short(summary.high)}){mark}"


def _times(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}" if ratios else "-"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _median(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return round(statistics.median(known), 3) if known else None


def _machine() -> dict[str, object]:
    models = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in _PACKAGES},
    }


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
