"""Everything with the keyboard alone: each step begins where the focus is."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.fake_upstream import in_turn, say, wants
from tests.page.pages import ChatPage, Visit
from tests.process.models import Cue, Models

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]

SETTINGS = {"tools_need_approval": "current_time"}

NAME = """() => {
    const e = document.activeElement;
    const label = e.getAttribute("aria-label") ?? e.labels?.[0]?.textContent ?? e.textContent;
    return label.trim();
}"""
OUTLINED = """() => {
    const e = document.activeElement;
    const marked = [e, e.nextElementSibling, e.closest(".field, .search")].filter(Boolean);
    const outlined = it => (it.outlineStyle !== "none" && parseFloat(it.outlineWidth) > 0) || it.boxShadow !== "none";
    return e === document.body || marked.some(it => outlined(getComputedStyle(it)));
}"""


async def tab_to(page: Page, name: str, key: str = "Tab", most: int = 60) -> None:
    """Press Tab until what is called *name* has the focus; each stop on the way must show that it has it."""
    for _ in range(most):
        await page.keyboard.press(key)
        assert await page.evaluate(OUTLINED), await page.evaluate(NAME)
        if (await page.evaluate(NAME)).startswith(name):
            return
    raise AssertionError(f"{name} isn't reached")


async def test_a_chat(visit: Visit, models: Models) -> None:
    chat: ChatPage = await visit.chat()
    page = chat.page
    await expect(chat.area).to_be_focused()
    cue = Cue("Half")
    await page.keyboard.type(models.plan(in_turn(cue, wants(("c1", "current_time", "{}")), say("Late."))))
    await page.keyboard.press("Enter")
    await chat.shows("Half")
    await page.keyboard.type("a line")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("another")
    await expect(chat.area).to_have_value("a line\nanother")
    await page.keyboard.press("Enter")  # while it answers, nothing is sent
    await expect(chat.questions).to_have_count(1)
    await page.keyboard.press("Escape")
    await chat.ended("Stopped by you")
    await chat.area.fill("")
    await tab_to(page, "Chat")
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("#mode input[value=agent]")).to_be_checked()
    await tab_to(page, "Ask again", "Shift+Tab")
    await page.keyboard.press("Enter")
    await tab_to(page, "Allow", "Shift+Tab")
    await page.keyboard.press("Enter")
    await chat.shows("Late.")


async def test_the_list_of_sessions(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    page = chat.page
    prompt = models.plan(say("Hello"))
    await chat.send(prompt)
    await chat.ended()
    await tab_to(page, f"Rename {prompt}", "Shift+Tab")
    await page.keyboard.press("Enter")
    await page.keyboard.type("By keyboard")
    await page.keyboard.press("Enter")
    await expect(page.locator("#title")).to_have_text("By keyboard")
    await tab_to(page, "Delete By keyboard")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Escape")
    await expect(page.locator("#title")).to_have_text("By keyboard")
    await page.keyboard.press("Enter")
    await tab_to(page, "Delete")
    await page.keyboard.press("Enter")
    await expect(page.locator("#title")).to_have_text("New chat")


async def test_a_compare(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    page = chat.page
    await tab_to(page, "Compare", "Shift+Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#compare-composer textarea")).to_be_focused()
    await tab_to(page, "o")
    await page.keyboard.press("Space")
    await tab_to(page, "Question", "Shift+Tab")
    prompt = models.plan(Cue())
    await page.keyboard.type(prompt)
    await page.keyboard.press("Enter")
    await expect(page.locator(".pane")).to_have_count(3)
    await tab_to(page, "Stop n", "Shift+Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator(".pane[data-pane='1'] .state")).to_contain_text("Stopped")
    await page.keyboard.press("Escape")
    await models.closed(prompt)
    await expect(page.locator(".pane .state")).to_have_count(3)
