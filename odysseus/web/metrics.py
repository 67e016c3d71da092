"""The metrics, read off the runs and the saves at the moment they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from odysseus.runs import Runs
from odysseus.saves import Saves

__all__ = ["METRICS", "registry"]

METRICS = web.AppKey("metrics", CollectorRegistry)


def registry(runs: Runs[bytes], saves: Saves) -> CollectorRegistry:
    """Return a registry of the service's own: the process-wide one would be shared by two services in one process."""
    own = CollectorRegistry()
    own.register(_Collector(runs, saves))
    return own


class _Collector(Collector):
    def __init__(self, runs: Runs[bytes], saves: Saves) -> None:
        self._runs, self._saves = runs, saves

    def collect(self) -> Iterable[Metric]:
        every = self._runs.all()
        live = [run for run in every if not run.ended.is_set()]
        runs = GaugeMetricFamily("odysseus_runs", "Runs that are live now", labels=["lifetime"])
        runs.add_metric(["detached"], sum(run.detached for run in live))
        runs.add_metric(["direct"], sum(not run.detached for run in live))
        yield runs
        ended = CounterMetricFamily("odysseus_runs_ended", "Runs that have ended", labels=["status", "stop_reason"])
        for ending, count in self._runs.endings.items():
            ended.add_metric([ending.status, ending.stop_reason or ""], count)
        yield ended
        yield GaugeMetricFamily("odysseus_subscribers", "Clients that watch a run now", self._runs.subscribers)
        yield GaugeMetricFamily("odysseus_log_bytes", "Bytes of all runs' logs", sum(run.log.size for run in every))
        yield CounterMetricFamily("odysseus_save_failures", "Attempts to save that failed", self._saves.retried)
        yield CounterMetricFamily("odysseus_saves_spooled", "Answers that had to wait in a file", self._saves.spooled)
