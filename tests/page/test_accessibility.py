"""What axe-core finds in every state of the page, light and dark, wide and narrow: nothing serious."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.fake_upstream import Exchange, chunk, in_turn, say, status, wants
from tests.page.pages import Visit, by_model, visiting
from tests.process.models import Cue, Models
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

SETTINGS = {"tools_need_approval": "current_time"}

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
RUN = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
        .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html.slice(0, 120), failureSummary])]);
}"""

HTML = """<h1>Title</h1><p>See <a href="https://example.com" rel="noopener noreferrer nofollow" target="_blank">this</a>
 and <code>that</code>.</p><blockquote><p>Quoted</p></blockquote><ul><li>one</li></ul>
<table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table>
<div class="highlight"><pre><span class="c1"># why</span>
<span class="k">def</span> <span class="nf">f</span><span class="p">():</span>
    <span class="nb">print</span>(<span class="s2">"x"</span>, <span class="mi">1</span>)</pre></div>"""
BOARD = [
    {"model": model, "games": 3, "wins": 2, "losses": 0, "ties": 1, "rating": rating, "low": 900.0, "high": 1200.0}
    for model, rating in (("n", 1100.0), ("m", 950.0))
]

LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]


async def check(page: Page, state: str) -> None:
    if not AXE.exists():
        reason = "axe-core isn't installed: npm ci, in tests/page"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    await page.evaluate(AXE.read_text())  # not a script tag: the page's policy would refuse it
    found: list[Any] = await page.evaluate(RUN)
    assert not found, (state, found)
    overflow = await page.evaluate("() => document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0, (state, overflow)


async def thinks(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm."))
    await exchange.send(chunk("A word" * 30) + b"data: [DONE]\n\n")
    await exchange.end()


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_the_chat(browser: Browser, service: Process, models: Models, scheme: Any, width: int) -> None:
    looks: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with visiting(browser, service.port, reduced_motion="reduce", **looks) as visit:
        chat = await visit.chat()
        await expect(chat.page.locator("#starters button").first).to_be_visible()
        await expect(chat.page.locator("#chat-model option").first).to_be_attached()
        await check(chat.page, "empty")
        await chat.page.locator("#mode").get_by_text("Agent").click()
        calls = in_turn(wants(("c1", "calculator", '{"expression": "1 / 0"}')), wants(("c2", "current_time", "{}")))
        await chat.send(models.plan(calls))
        await expect(chat.answer.get_by_role("button", name="Allow")).to_be_visible()
        await chat.answer.locator("summary").first.click()
        await check(chat.page, "a call that waits")
        await chat.stop_button.click()
        await chat.ended("Stopped by you")
        await chat.send(models.plan(status(500)))
        await chat.ended("The model server failed")
        await chat.send(models.plan(thinks))
        await chat.ended()
        await chat.answer.locator("summary").click()
        await check(chat.page, "ended answers")
        await visit.answer_with("/api/sessions/[^/]+/messages/", {"html": HTML})
        await chat.send(models.plan(say("Hello")))
        await expect(chat.answer.locator(".markdown h1")).to_be_visible()
        await check(chat.page, "a rendered answer")
        if width < 800:
            await chat.page.get_by_role("button", name="Open the menu").click()
            await check(chat.page, "the menu")
        await chat.sessions.first.hover()
        await chat.sessions.first.get_by_role("button", name="Delete").click()
        await check(chat.page, "the question before a chat is deleted")


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_the_compare(browser: Browser, service: Process, models: Models, scheme: Any, width: int) -> None:
    looks: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with visiting(browser, service.port, reduced_motion="reduce", **looks) as visit:
        compare = await visit.compare()
        await expect(compare.page.locator("#compare-models input").first).to_be_attached()
        await check(compare.page, "empty")
        cue = Cue("Hello " * 300)
        await compare.send(models.plan(by_model({"m": cue, "n": thinks, "o": status(500)})), "mno")
        await compare.shows(0, cue.said)
        await compare.ended(1, "Done")
        await compare.ended(2, "The model server failed")
        await check(compare.page, "two ended, one runs")
        await compare.stop_all.click()
        await expect(compare.stop_all).to_be_hidden()
        await check(compare.page, "all ended")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_leaderboard_and_the_login(browser: Browser, service: Process, scheme: Any) -> None:
    async with visiting(browser, service.port, color_scheme=scheme, viewport={"width": 390, "height": 800}) as visit:
        await visit.answer_with("/api/leaderboard", {"votes": 3, "models": BOARD})
        page = await visit.open("/leaderboard")
        await expect(page.locator("#board tr").first).to_be_visible()
        await check(page, "leaderboard")
        await visit.answer_with("/api/(sessions|models)", {"error": {"code": "unauthorized", "message": "who?"}}, 401)
        page = await visit.open("/")
        await expect(page.locator("#login")).to_be_visible()
        await check(page, "login")


async def test_the_check_can_fail(visit: Visit) -> None:
    page = await visit.open("/")
    await expect(page.locator("#starters button").first).to_be_visible()
    await page.evaluate("() => document.getElementById('starters').append(document.createElement('button'))")
    with pytest.raises(AssertionError, match="button-name"):
        await check(page, "broken")
