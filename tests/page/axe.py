"""What axe-core finds on a page that is open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page

__all__ = ["check"]

_AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
_RUN = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
        .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html.slice(0, 120), failureSummary])]);
}"""


async def check(page: Page, state: str) -> None:
    """Nothing serious may be wrong with *page* in this *state*, and nothing wider than the window."""
    if not _AXE.exists():
        reason = "axe-core isn't installed: npm ci, in tests/page"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(_AXE.read_text())  # not a script tag: the page's policy would refuse it
    found: list[Any] = await page.evaluate(_RUN)
    assert not found, (state, found)
    overflow = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, (state, overflow)
