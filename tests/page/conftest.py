"""What the modules share: one browser; and the tests of each: a fake model server and a service."""

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


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def models(request: pytest.FixtureRequest) -> AsyncIterator[Models]:
    """Those that the module names in `MODELS`, else eight of a letter each."""
    async with Models() as models:
        models.models = getattr(request.module, "MODELS", tuple("mnopqrst"))
        yield models
    assert models.refused == []


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def service(
    request: pytest.FixtureRequest, models: Models, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Process]:
    """The module's service, with the settings in the module's `SETTINGS`."""
    settings: dict[str, Any] = getattr(request.module, "SETTINGS", {})
    async with serving(models, tmp_path_factory.mktemp("data"), **settings) as service:
        yield service


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="package")
async def visit(browser: Browser, service: Process) -> AsyncIterator[Visit]:
    async with visiting(browser, service.port) as visit:
        yield visit
