"""The metrics: read off the runs and the saves when they are asked for, or counted once at the end of a run.

Nothing here costs anything per token. No label holds what a user can choose: models, owners and sessions have none.
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from odysseus.agent import TOOL_ROUNDS
from odysseus.alone import Alone
from odysseus.run import Run
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.stream_status import generation_of
from odysseus.webhook import Webhook

__all__ = ["METRICS", "Metrics"]

_STATES = ("waiting", "streaming", "kept")
_UPSTREAM_CODES = ("upstream_unreachable", "upstream_status", "upstream_timeout", "upstream_protocol")

_LIMIT_CODES = ("too_many_runs", "too_many_queued_runs", "too_many_subscribers", "too_many_requests", "too_large")

_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1800, 7200)


class Metrics:
    """A registry of the service's own: the process-wide one would be shared by two services in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.loop_lag = self._histogram(
            "odysseus_event_loop_lag_seconds", "By how much the event loop was late, looked at four times a second"
        )
        self._first_token = self._histogram(
            "odysseus_time_to_first_token_seconds",
            "From asking the model to its first text or reasoning",
            (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30, 60, 120),
        )
        self._duration = self._histogram("odysseus_run_seconds", "From asking the model to the run's last frame", _LONG)
        self._stop = self._histogram(
            "odysseus_stop_seconds", "From a stop to the closing of the model's connection; not of closed streams"
        )
        self._save = self._histogram("odysseus_save_seconds", "The last save of an answer, with all its attempts")
        self._tokens = self._counter("odysseus_tokens", "Tokens, as the model servers counted them", "kind")
        self._events = self._counter("odysseus_events", "Events of the runs that have ended")
        self._upstream_errors = self._counter(
            "odysseus_upstream_errors", "Runs that a model server failed, by the error's code", "code"
        )
        self._refused = self._counter("odysseus_refused", "Requests that met a limit, by the error's code", "code")
        self._out_of_rounds = self._counter("odysseus_tool_rounds_used_up", "Runs that ended with `tool_rounds`")
        for kind in ("prompt", "completion"):
            self._tokens.labels(kind)
        for code in _LIMIT_CODES:
            self._refused.labels(code)
        for code in _UPSTREAM_CODES:  # from the start: a rate needs a zero to begin with
            self._upstream_errors.labels(code)

    def read_off(self, runs: Runs[bytes], saves: Saves, webhook: Webhook | None, elsewhere: Alone) -> None:
        """Show what these count by themselves, too."""
        self.registry.register(_Collector(runs, saves, webhook, elsewhere))

    def refused(self, code: str) -> None:
        """A request was answered 413, 429 or 503, with an error of this code."""
        self._refused.labels(code).inc()

    def ended(self, run: Run[bytes]) -> None:
        generation = generation_of(run)
        self._events.inc(len(run.log))
        if (timings := generation.timings) is not None:
            self._duration.observe(timings["duration_ms"] / 1000)
            if timings["ttft_ms"] is not None:
                self._first_token.observe(timings["ttft_ms"] / 1000)
        if (usage := generation.usage) is not None:
            self._tokens.labels("prompt").inc(usage["prompt_tokens"])
            self._tokens.labels("completion").inc(usage["completion_tokens"])
        if run.stop_asked_at is not None and generation.upstream_closed_at is not None:
            self._stop.observe(max(0.0, generation.upstream_closed_at - run.stop_asked_at))
        if generation.save_s is not None:
            self._save.observe(generation.save_s)
        if generation.finish_reason == TOOL_ROUNDS:
            self._out_of_rounds.inc()
        if generation.error_code is not None:
            self._upstream_errors.labels(generation.error_code).inc()

    def _histogram(self, name: str, meaning: str, buckets: Iterable[float] = _SHORT) -> Histogram:
        return Histogram(name, meaning, registry=self.registry, buckets=tuple(buckets))

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.registry)


METRICS = web.AppKey("metrics", Metrics)


class _Collector(Collector):
    def __init__(self, runs: Runs[bytes], saves: Saves, webhook: Webhook | None, elsewhere: Alone) -> None:
        self._runs, self._saves, self._webhook, self._elsewhere = runs, saves, webhook, elsewhere

    def collect(self) -> Iterable[Metric]:
        every = self._runs.all()
        live = [run for run in every if not run.ended.is_set()]
        runs = GaugeMetricFamily("odysseus_runs", "Runs that are live now", labels=["lifetime"])
        runs.add_metric(["detached"], sum(run.detached for run in live))
        runs.add_metric(["direct"], sum(not run.detached for run in live))
        yield runs
        states = GaugeMetricFamily(
            "odysseus_runs_by_state", "Runs that wait in line, stream, or are kept for replay", labels=["state"]
        )
        count = Counts(self._state(run) for run in every)
        for state in _STATES:
            states.add_metric([state], count[state])
        yield states
        ended = CounterMetricFamily("odysseus_runs_ended", "Runs that have ended", labels=["status", "stop_reason"])
        for ending, number in self._runs.endings.items():
            ended.add_metric([ending.status, ending.stop_reason or ""], number)
        yield ended
        yield GaugeMetricFamily("odysseus_subscribers", "Clients that watch a run now", self._runs.subscribers)
        yield GaugeMetricFamily("odysseus_log_bytes", "Bytes of all runs' logs", sum(run.log.size for run in every))
        yield CounterMetricFamily("odysseus_save_failures", "Attempts to save that failed", self._saves.retried)
        yield CounterMetricFamily("odysseus_saves_spooled", "Answers that had to wait in a file", self._saves.spooled)

        hook = self._webhook
        told = CounterMetricFamily("odysseus_webhook", "Ended runs that the webhook was told of", labels=["outcome"])
        for outcome, number in (("delivered", hook.delivered), ("dropped", hook.dropped)) if hook else ():
            told.add_metric([outcome], number)
        yield told
        yield from self._nodes()

    def _nodes(self) -> Iterable[Metric]:
        figures = self._elsewhere.figures()
        yield GaugeMetricFamily("odysseus_nodes", "Nodes that this one sees, itself included", figures.nodes)
        yield GaugeMetricFamily(
            "odysseus_runs_followed", "Runs of other nodes that are followed here", figures.followed
        )
        behind = "Runs of this node that wait to be written to Redis"
        yield GaugeMetricFamily("odysseus_runs_behind_in_redis", behind, figures.behind)
        errors = CounterMetricFamily("odysseus_redis_errors", "What Redis failed", labels=["work"])
        for work, number in figures.errors.items():
            errors.add_metric([work], number)
        yield errors

    def _state(self, run: Run[bytes]) -> str:
        if run.ended.is_set():
            return "kept"
        return "streaming" if self._runs.current(run.session_id) is run else "waiting"
