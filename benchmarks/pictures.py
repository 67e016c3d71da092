"""One picture a scenario: its charts side by side, medians with their ranges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.report import Summaries, Summary
from benchmarks.scenario import Chart, Scenario

mpl.use("Agg")

from matplotlib import pyplot as plt

__all__ = ["draw"]

_COLOURS = {
    "limit": "#9a9a9a",
    "odysseus": "#d1495b",
    "fastapi": "#2e86ab",
    "resumable-stream": "#66a182",
    "nginx": "#edae49",
    "nchan": "#8d6a9f",
}
_ANOTHER = "#5d5d5d"
_PER_ROW = 3


def draw(folder: Path, scenario: Scenario, found: Summaries, targets: Sequence[str]) -> None:
    """Write the picture of *scenario* to *folder*."""
    columns = min(_PER_ROW, len(scenario.charts))
    rows = -(-len(scenario.charts) // columns)
    figure, all_axes = plt.subplots(rows, columns, figsize=(5 * columns, 3.6 * rows + 0.6), squeeze=False)
    for axes in all_axes.flat[len(scenario.charts) :]:
        axes.set_visible(False)
    for axes, chart in zip(all_axes.flat, scenario.charts, strict=False):
        _chart(axes, chart, found, targets)
    figure.suptitle(scenario.title)
    figure.tight_layout()
    figure.savefig(folder / f"{scenario.name}.png", dpi=90)
    plt.close(figure)


def _chart(axes: Axes, chart: Chart, found: Summaries, targets: Sequence[str]) -> None:
    numbers = all(isinstance(label, int) for label in chart.points)
    measured = {target for name in chart.points.values() for target in found.get(name, {})}
    targets = [target for target in targets if target in measured]  # the others would leave gaps
    for place, target in enumerate(targets):
        points = [
            (at, label, found[name][target])
            for at, (label, name) in enumerate(chart.points.items())
            if target in found.get(name, {})
        ]
        medians = [summary.median for *_, summary in points]
        ranges = _ranges([summary for *_, summary in points])
        colour = _COLOURS.get(target, _ANOTHER)
        if numbers:
            axes.errorbar([label for _, label, _ in points], medians, ranges, label=target, color=colour, marker="o")
        else:
            width = 0.8 / len(targets)
            middles = [at + (place - (len(targets) - 1) / 2) * width for at, *_ in points]
            axes.bar(middles, medians, width, yerr=ranges, label=target, color=colour, ecolor="#333333", capsize=2)
    if not numbers:
        axes.set_xticks(range(len(chart.points)), [str(label) for label in chart.points])
    axes.set_yscale("log" if chart.logarithmic else "linear")
    if not chart.logarithmic:
        axes.set_ylim(bottom=0)
    axes.set_title(chart.title, fontsize=10)
    axes.set_ylabel(chart.unit)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)


def _ranges(summaries: Sequence[Summary]) -> tuple[list[float], list[float]]:
    return [it.median - it.low for it in summaries], [it.high - it.median for it in summaries]
