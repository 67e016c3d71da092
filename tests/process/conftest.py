"""What the modules share: a fake model server and one service a module, and a table of how prompt it was."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from statistics import median
from typing import Any

import pytest
import pytest_asyncio

from tests.process.models import Models
from tests.process.raw_client import Client
from tests.process.service import Service, served


class Latencies:
    """Notes how long things took, to be shown when all tests have run."""

    def __init__(self, node: pytest.Item) -> None:
        given = node.callspec.params if isinstance(node, pytest.Function) and hasattr(node, "callspec") else {}
        self._way = given.get("service", "app.py")
        self._notes = node.user_properties

    def note(self, what: str, seconds: float) -> None:
        self._notes.append(("latency", (f"{what}, {self._way}", seconds)))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models() -> AsyncIterator[Models]:
    async with Models() as models:
        yield models
    assert models.refused == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    """The module's service, started as the parameter says, with the settings in the module's `SETTINGS`."""
    way = getattr(request, "param", "app.py")
    settings: dict[str, Any] = getattr(request.module, "SETTINGS", {})
    async with served(models, tmp_path_factory.mktemp("data"), way, **settings) as service:
        yield service
    await models.all_closed()


@pytest.fixture(autouse=True, scope="module")
def clients_close() -> Iterator[None]:
    """No test has to close its clients: those that are still open in the end are in nobody's way."""
    yield
    while Client.everyone:
        Client.everyone.pop().close()


@pytest.fixture
def latencies(request: pytest.FixtureRequest) -> Latencies:
    return Latencies(request.node)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    noted: defaultdict[str, list[float]] = defaultdict(list)
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "latency" and report.when == "call":
                noted[value[0]].append(value[1])
    if noted:
        terminalreporter.section("latencies in ms: count, p50, max")
    for what, seconds in sorted(noted.items()):
        terminalreporter.line(f"{len(seconds):5} {median(seconds) * 1000:9.2f} {max(seconds) * 1000:9.2f}  {what}")
