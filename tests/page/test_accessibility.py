"""What axe-core finds in every state of the page, light and wide, dark and narrow: nothing serious."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.fake_upstream import Exchange, chunk, in_turn, say, status, wants
from tests.page.axe import check
from tests.page.pages import Visit, by_model, visiting
from tests.process.models import Cue, Models
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]

SETTINGS = {"tools_need_approval": "current_time"}

EVERYTHING = """# Title

See [this](https://example.com) and `that`, **bold** and ~~struck~~.

> Quoted

1. one
2. two

| a | b |
|---|---|
| 1 | 2 |

```python
# why
def f(x: int) -> None:
    print("x", 1, x)
```

```html
<p class="x">&amp;</p>
```
"""

# Contrast depends on the scheme, the layout on the width: neither on both.
LOOKS = [("light", 1280), ("dark", 390)]


async def thinks(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm."))
    await exchange.send(chunk("A word" * 30) + b"data: [DONE]\n\n")
    await exchange.end()


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
async def test_the_chat(browser: Browser, service: Process, models: Models, scheme: Any, width: int) -> None:
    looks: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    async with visiting(browser, service.port, **looks) as visit:
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
        await chat.send(models.plan(say(EVERYTHING)))
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
    async with visiting(browser, service.port, **looks) as visit:
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
        await compare.send(models.plan(say("Hello")), "mn", blind=True)
        vote = compare.page.locator("#verdict")
        await vote.get_by_role("button", name="A").click(trial=True)
        await check(compare.page, "before the vote")
        await vote.get_by_role("button", name="A").click()
        await expect(vote).to_contain_text("You chose A")
        await check(compare.page, "after the vote")
        await vote.get_by_role("link", name="Leaderboard").click()
        await expect(compare.page.locator("#board tr").first).to_be_visible()
        await check(compare.page, "leaderboard")


async def test_the_check_can_fail(visit: Visit) -> None:
    page = await visit.open("/")
    await expect(page.locator("#starters button").first).to_be_visible()
    await page.evaluate("() => document.getElementById('starters').append(document.createElement('button'))")
    with pytest.raises(AssertionError, match="button-name"):
        await check(page, "broken")
