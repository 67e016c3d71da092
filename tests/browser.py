"""A real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Browser, BrowserContext, async_playwright

__all__ = ["chromium", "visitor"]

# Root has no sandbox, and a machine for tests no graphics.
_ARGUMENTS = ("--no-sandbox", "--disable-gpu")


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start Chromium without a window; close it in the end. Skips the test where there is none."""
    executable = shutil.which("chromium")
    if executable is None:
        reason = "Chromium isn't installed"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=list(_ARGUMENTS))
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visitor(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Open a profile of its own, without anybody's cookies, that takes any certificate."""
    context = await browser.new_context(ignore_https_errors=True)
    try:
        yield context
    finally:
        await context.close()
