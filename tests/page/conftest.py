"""What the modules share: a fake model server, one service and one browser a module; each test has its own visitor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.browser import chromium
from tests.page.pages import Visit, visiting
from tests.process.models import Models
from tests.process.service import Process, serving


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def models() -> AsyncIterator[Models]:
    async with Models() as models:
        models.models = tuple("mnopqrst")
        yield models
    assert models.refused == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Process]:
    """The module's service, with the settings in the module's `SETTINGS`."""
    settings: dict[str, Any] = getattr(request.module, "SETTINGS", {})
    async with serving(models, tmp_path_factory.mktemp("data"), **settings) as service:
        yield service


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, service: Process) -> AsyncIterator[Visit]:
    async with visiting(browser, service.port) as visit:
        yield visit
