"""The page as a test uses it: what a person does there, and what they then see."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.fake_upstream import Exchange, Script

__all__ = ["ChatPage", "ComparePage", "Visit", "by_model", "visiting"]

expect.set_options(timeout=30_000)

# What is rendered ends without white space. Waits in the page: asking again and again costs more than all it does.
_SHOWS = """async (bodies, [text, grows]) => {
    for (const end = performance.now() + 30_000; ; await new Promise(resolve => setTimeout(resolve, 15))) {
        const shown = bodies().at(-1)?.querySelector(":scope > .text, :scope > .markdown");
        const cut = it => shown?.matches(".markdown") ? it.trimEnd() : it;
        const [seen, wanted] = [cut(shown?.textContent ?? ""), cut(text)];
        if (seen === wanted) return null;
        if (grows && !wanted.startsWith(seen)) return `${seen.slice(-80)} can't become ${wanted.slice(-80)}`;
        if (performance.now() > end) return `${seen.slice(-80)} never became ${wanted.slice(-80)}`;
    }
}"""


async def _shows(page: Page, bodies: str, text: str, *, grows: bool) -> None:
    """Wait until the last of *bodies*, a selector, shows *text*, to the character; it *grows*: nothing else before."""
    problem: str | None = await page.evaluate(
        f"([selector, ...rest]) => ({_SHOWS})(() => [...document.querySelectorAll(selector)], rest)",
        [bodies, text, grows],
    )
    assert problem is None, problem


class ChatPage:
    """A tab that shows the chat."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.area = page.locator("#chat-composer textarea")
        self.stop_button = page.locator("#chat-composer button.stop")
        self.send_button = page.locator("#chat-composer button[type=submit]")
        self.answers = page.locator(".message.assistant")
        self.questions = page.locator(".message.user")
        self.answer = self.answers.last
        self.notice = page.locator("#chat-composer .notice")
        self.sessions = page.locator(".session")

    async def send(self, text: str) -> None:
        await self.area.fill(text)
        await self.area.press("Enter")

    async def shows(self, text: str) -> None:
        """Wait until the last answer is *text*; fails as soon as it can't become it any more."""
        await _shows(self.page, ".message.assistant .body", text, grows=True)

    async def ended(self, words: str | None = None) -> None:
        """Wait until the last answer has ended, and with *words*, if they are given."""
        await expect(self.answer.locator(".facts")).to_be_visible()
        await expect(self.answer.locator(".state")).to_have_text([] if words is None else [words])
        await expect(self.send_button).to_be_visible()

    @property
    def session_id(self) -> str:
        found = re.search(r"#/chat/(ses_\w+)$", self.page.url)
        assert found is not None, self.page.url
        return found[1]


class ComparePage:
    """A tab that shows a compare."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.area = page.locator("#compare-composer textarea")
        self.stop_all = page.locator("#compare-composer button.stop")
        self.panes = page.locator(".pane")
        self.notice = page.locator("#compare-composer .notice")

    async def send(self, text: str, models: Sequence[str], *, blind: bool = False) -> None:
        chips = self.page.locator("#compare-models input")
        await expect(chips.first).to_be_attached()
        for chip in await chips.all():
            await chip.set_checked((await chip.get_attribute("value") or "") in models, force=True)
        await self.page.locator("#blind").set_checked(blind)
        await self.area.fill(text)
        await self.area.press("Enter")
        await expect(self.panes).to_have_count(len(models))

    def pane(self, number: int) -> Locator:
        return self.page.locator(f".pane[data-pane='{number}']")

    async def shows(self, number: int, text: str) -> None:
        await _shows(self.page, f".pane[data-pane='{number}'] .body", text, grows=False)

    async def ended(self, number: int, words: str) -> None:
        await expect(self.pane(number).locator(".state")).to_have_text(words)

    @property
    def compare_id(self) -> str:
        return self.page.url.rpartition("/")[2]


class Visit:
    """A person's browser, who looks at the service at *origin*."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.context = context
        self.origin = origin
        self.faults: list[str] = []
        """Errors that no code of the page caught, what its Content-Security-Policy refused, requests to strangers."""
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("console", lambda message: self._heard(message.text))
        context.on("request", lambda request: self._asked(request.url))

    async def chat(self, place: str = "") -> ChatPage:
        return ChatPage(await self.open(f"/{place}"))

    async def compare(self, place: str = "#/compare") -> ComparePage:
        return ComparePage(await self.open(f"/{place}"))

    async def open(self, path: str) -> Page:
        page = await self.context.new_page()
        await page.goto(f"{self.origin}{path}")
        return page

    async def answer_with(self, path: str, answer: Callable[[], Any] | Mapping[str, Any], status: int = 200) -> None:
        """Answer what the page asks at *path*, a pattern, in the service's place."""
        await self.context.route(
            re.compile(path),
            lambda route: route.fulfill(json=answer() if callable(answer) else answer, status=status),
        )

    def _heard(self, text: str) -> None:
        if "Content Security Policy" in text or "Refused to" in text:
            self.faults.append(text)

    def _asked(self, url: str) -> None:
        if not url.startswith((f"{self.origin}/", "data:")):
            self.faults.append(url)


@asynccontextmanager
async def visiting(browser: Browser, port: int, **options: Any) -> AsyncIterator[Visit]:
    """Open a profile of its own; in the end nothing may have gone wrong in it. Motion is off: it costs time."""
    context = await browser.new_context(reduced_motion="reduce", **options)
    try:
        visit = Visit(context, f"http://127.0.0.1:{port}")
        yield visit
    finally:
        await context.close()
    assert visit.faults == []


def by_model(scripts: Mapping[str, Script]) -> Script:
    """Return the script that is another one for each model."""

    async def script(exchange: Exchange) -> None:
        await scripts[exchange.body["model"]](exchange)

    return script
