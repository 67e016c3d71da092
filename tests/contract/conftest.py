"""The world that a test is run in. A module's `SETTINGS` are the settings of its worlds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.client import Api
from tests.contract.worlds import WORLDS, Worlds
from tests.process.models import Models
from tests.process.raw_client import Client


@pytest_asyncio.fixture(scope="package", loop_scope="session")  # idle nodes would slow down all tests after these
async def worlds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Worlds]:
    worlds = Worlds(tmp_path_factory.mktemp("worlds"))
    yield worlds
    await worlds.close()


@pytest_asyncio.fixture(params=WORLDS, loop_scope="session")
async def api(request: pytest.FixtureRequest, worlds: Worlds) -> Api:
    settings: dict[str, Any] = getattr(request.module, "SETTINGS", {})
    return await worlds.get(request.param, settings)


@pytest.fixture
def models(api: Api) -> Models:
    return api.models


@pytest.fixture(autouse=True)
def clients_close() -> Iterator[None]:
    yield
    while Client.everyone:
        Client.everyone.pop().close()
