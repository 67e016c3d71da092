"""Long answers: nothing lost, no frame that takes long, and a reader who is left where they are."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.page.pages import Visit
from tests.process.models import Cue, Models, words
from tests.process.raw_client import until

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]

LINE = "".join(f"{number % 10}" for number in range(79)) + "\n"
LONG = LINE * 2500
WATCH = """() => {
    window.longest = 0;
    let last = performance.now();
    const frame = now => { longest = Math.max(longest, now - last); last = now; requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
}"""
LONGEST_FRAME_MS = 1500.0  # on a loaded machine without a graphics card


async def from_end(page: Page) -> float:
    distance: float = await page.locator("#conversation").evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight")
    return distance


async def test_200_000_characters(visit: Visit, models: Models) -> None:
    assert len(LONG) == 200_000
    chat = await visit.chat()
    await chat.page.evaluate(WATCH)
    cue = Cue(*(LONG[at : at + 400] for at in range(0, len(LONG), 400)))
    await chat.send(models.plan(cue))
    await chat.shows(LONG)
    assert await chat.answer.locator(".piece.settled").count() > 10
    cue.end()
    await chat.ended()
    await chat.shows(LONG)
    assert await chat.page.evaluate("() => longest") < LONGEST_FRAME_MS
    assert await from_end(chat.page) < 40
    await chat.page.reload()
    await chat.shows(LONG)


async def test_200_tokens_a_second(visit: Visit, models: Models) -> None:
    script, said = words(500, pause_s=0.005)
    chat = await visit.chat()
    await chat.page.evaluate(WATCH)
    await chat.send(models.plan(script))
    await chat.shows(said)
    await chat.ended()
    assert await chat.page.evaluate("() => longest") < LONGEST_FRAME_MS


async def test_the_end_is_followed_only_while_the_reader_is_there(visit: Visit, models: Models) -> None:
    cue = Cue(LINE * 60)
    chat = await visit.chat()
    await chat.send(models.plan(cue))
    await chat.shows(cue.said)
    await until(lambda: from_end(chat.page), lambda distance: distance < 2)
    await chat.page.mouse.move(700, 300)
    await chat.page.mouse.wheel(0, -900)
    jump = chat.page.get_by_role("button", name="Latest")
    await expect(jump).to_be_visible()
    top = await chat.page.evaluate("() => document.getElementById('conversation').scrollTop")
    cue.say(LINE * 40)
    await chat.shows(cue.said)
    assert await chat.page.evaluate("() => document.getElementById('conversation').scrollTop") == top
    await jump.click()
    await expect(jump).to_be_hidden()
    cue.say(LINE * 10)
    await chat.shows(cue.said)
    await until(lambda: from_end(chat.page), lambda distance: distance < 2)
    await chat.stop_button.click()
    await chat.ended("Stopped by you")
