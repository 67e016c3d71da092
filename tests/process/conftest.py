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

_LATENCIES: defaultdict[str, list[float]] = defaultdict(list)


class Latencies:
    """Notes how long things took, to be shown when all tests have run."""

    def __init__(self, way: str) -> None:
        self._way = way

    def note(self, what: str, seconds: float) -> float:
        _LATENCIES[f"{what}, {self._way}"].append(seconds)
        return seconds


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models() -> AsyncIterator[Models]:
    async with Models() as models:
        yield models


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
    callspec = getattr(request.node, "callspec", None)
    given = callspec.params if callspec else {}
    return Latencies(given.get("service") or given.get("way") or "app.py")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _LATENCIES:
        terminalreporter.section("latencies in ms: count, p50, max")
    for what, seconds in sorted(_LATENCIES.items()):
        terminalreporter.line(f"{len(seconds):5} {median(seconds) * 1000:9.2f} {max(seconds) * 1000:9.2f}  {what}")
