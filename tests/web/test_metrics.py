"""What `/metrics` counts at the end of each run, the loop's lag, and the dashboard that shows them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from odysseus.errors import StoreError
from odysseus.messages import Final
from odysseus.web.lag import Lag
from odysseus.web.routes import SERVICE
from tests.fake_upstream import FakeUpstream, breaks, silent, status
from tests.waiting import until
from tests.web.conftest import Serve, Service
from tests.web.test_ops import metrics

DASHBOARD = Path(__file__).parent.parent.parent / "deploy" / "grafana.json"


async def count(service: Service, name: str, *labels: str) -> float:
    return (await metrics(service))[(name, *labels)]


async def test_a_run_is_observed_once(service: Service) -> None:
    streams = [await service.chat() for _ in range(2)]
    for stream in streams:
        await stream.rest()
    found = await metrics(service)
    for name in ("time_to_first_token", "run", "save"):
        assert found[f"odysseus_{name}_seconds_count",] == 2
        assert 0 < found[f"odysseus_{name}_seconds_sum",] < 30
    assert found["odysseus_stop_seconds_count",] == 0
    assert found["odysseus_events_total",] == sum(len(stream.ids) - 1 for stream in streams)
    usage = [next(event for event in stream.seen if event["type"] == "ended")["usage"] for stream in streams]
    for kind in ("prompt", "completion"):
        counted = sum(one[f"{kind}_tokens"] for one in usage if one is not None)
        assert found["odysseus_tokens_total", kind] == counted
    assert found["odysseus_runs_by_state", "kept"] == 2


async def test_a_stop_is_observed(service: Service, upstream: FakeUpstream) -> None:
    upstream.script = silent
    run = await service.accepted()
    await until(lambda: upstream.exchanges)
    waiting = await service.accepted(session_id=run["session_id"], if_busy="queue")
    found = await metrics(service)
    assert [found["odysseus_runs_by_state", state] for state in ("waiting", "streaming", "kept")] == [1, 1, 0]
    await service.stop(run["session_id"], waiting["run_id"])
    assert await count(service, "odysseus_stop_seconds_count") == 0  # its model was never asked
    await service.stop(run["session_id"])
    found = await metrics(service)
    assert found["odysseus_stop_seconds_count",] == 1
    assert found["odysseus_stop_seconds_sum",] < 5
    assert found["odysseus_time_to_first_token_seconds_count",] == 0
    assert found["odysseus_run_seconds_count",] == 1
    assert found["odysseus_save_seconds_count",] == 2


async def test_errors_of_model_servers(service: Service, upstream: FakeUpstream) -> None:
    codes = ("upstream_unreachable", "upstream_status", "upstream_timeout", "upstream_protocol")
    found = await metrics(service)
    assert [found["odysseus_upstream_errors_total", code] for code in codes] == [0] * 4
    for script in (status(404), status(404), breaks("Hi")):
        upstream.script = script
        await (await service.chat()).rest()
    found = await metrics(service)
    assert [found["odysseus_upstream_errors_total", code] for code in codes] == [0, 2, 0, 1]


async def test_saves_that_are_tried_again(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, left = service.app[SERVICE].store.finish, [2]

    async def fails(final: Final) -> bool:
        if left[0]:
            left[0] -= 1
            raise StoreError("away")
        return await finish(final)

    monkeypatch.setattr(service.app[SERVICE].turns.saves, "_finish", fails)
    await (await service.chat()).rest()
    found = await metrics(service)
    assert found["odysseus_save_failures_total",] == 2
    assert found["odysseus_save_seconds_sum",] > 0.5  # the pauses between them are part of it


async def test_nothing_is_labelled_with_what_users_choose(service: Service, upstream: FakeUpstream) -> None:
    await (await service.chat(model="n")).rest()
    answer = await service.call("GET", "/metrics")
    labels = {
        name
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
        for name in sample.labels
    }
    assert labels == {"lifetime", "state", "status", "stop_reason", "kind", "code", "work", "le"}


async def test_the_lag_of_the_loop(service: Service) -> None:
    """A loop that is held up for half a second is seen to be late by about that."""
    seen: list[float] = []
    lag = Lag(seen.append)
    try:
        await until(lambda: seen)
        seen.clear()
        time.sleep(0.6)  # noqa: ASYNC251  # that is it
        await until(lambda: seen)
        assert 0.25 < seen[0] < 5
    finally:
        lag.stop()
    count = len(seen)
    await asyncio.sleep(0.6)
    assert len(seen) == count
    found = await metrics(service)
    assert found["odysseus_event_loop_lag_seconds_count",] > 0
    assert found["odysseus_event_loop_lag_seconds_sum",] > 0.25


# The dashboard


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


async def test_the_dashboard_shows_what_there_is(serve: Serve) -> None:
    service = await serve(webhook_url="http://127.0.0.1:1/", webhook_secret="sesame-" * 6)
    await (await service.chat()).rest()
    found = await metrics(service)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = {name for panel in panels for expr in expressions(panel) for name in re.findall(r"odysseus_\w+", expr)}
    names = {name for name, *_ in found if not name.endswith("_created")}
    assert shown <= names
    assert {name.removesuffix("_bucket") for name in shown} == {
        re.sub("_(bucket|sum|count)$", "", one) for one in names
    }


async def test_the_dashboard_groups_by_labels_that_there_are(serve: Serve) -> None:
    service = await serve(webhook_url="http://127.0.0.1:1/", webhook_secret="sesame-" * 6)
    await (await service.chat()).rest()
    answer = await service.call("GET", "/metrics")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            [name] = re.findall(r"odysseus_\w+", target["expr"])
            grouped = {label for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in by.split(", ")}
            shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert grouped | shown <= labels[name], target
            if grouped and "le" not in grouped:
                assert shown <= grouped


def test_the_dashboard_is_whole() -> None:
    """Every panel has its own id and place, and says what it shows."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in panels)
    [variable] = dashboard["templating"]["list"]
    assert {panel["datasource"]["uid"] for panel in panels} == {f"${{{variable['name']}}}"}
