"""An answer outlives its page: whatever happens to the page, the network or the service, it goes on where it was."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.page.pages import Visit, visiting
from tests.process.models import Cue, Models
from tests.process.proxy import proxied
from tests.process.raw_client import until
from tests.process.service import Process, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]


async def finish(cue: Cue) -> str:
    cue.say("and the rest, with ünïcode 🦉.")
    cue.end()
    return cue.said


async def test_a_reload_in_the_middle_of_an_answer(visit: Visit, models: Models) -> None:
    cue = Cue("One two ")
    chat = await visit.chat()
    await chat.send(models.plan(cue))
    await chat.shows("One two ")
    await chat.page.reload()
    await chat.shows("One two ")
    await expect(chat.questions).to_have_count(1)
    cue.say("three ")
    await chat.shows("One two three ")
    await chat.shows(await finish(cue))
    await chat.ended()


async def test_a_page_that_is_closed_and_opened_again(visit: Visit, models: Models) -> None:
    cue = Cue("One ")
    chat = await visit.chat()
    await chat.send(models.plan(cue))
    await chat.shows("One ")
    place = f"#/chat/{chat.session_id}"
    await chat.page.close()
    cue.say("two, while nobody looks, ")
    chat = await visit.chat(place)
    await chat.shows(cue.said)
    await chat.stop_button.click()
    await chat.ended("Stopped by you")
    await chat.shows(cue.said)


async def test_two_tabs_show_the_same(visit: Visit, models: Models) -> None:
    cue = Cue("One ")
    first = await visit.chat()
    prompt = models.plan(cue)
    await first.send(prompt)
    await first.shows("One ")
    second = await visit.chat(f"#/chat/{first.session_id}")
    cue.say("two ")
    for tab in (first, second):
        await tab.shows("One two ")
    await second.stop_button.click()
    await models.closed(prompt)
    for tab in (first, second):
        await tab.ended("Stopped by you")
        await tab.shows("One two ")


async def test_a_second_tab_sees_what_the_first_one_asks_later(visit: Visit, models: Models) -> None:
    first = await visit.chat()
    cue = Cue()
    await first.send(models.plan(cue))
    said = await finish(cue)
    await first.ended()
    second = await visit.chat(f"#/chat/{first.session_id}")
    await second.shows(said)
    again = Cue("More ")
    await first.send(models.plan(again))
    await first.shows("More ")
    await second.page.evaluate("() => dispatchEvent(new Event('focus'))")
    await expect(second.answers).to_have_count(2)
    await second.shows("More ")
    await second.shows(await finish(again))


async def test_a_session_that_runs_in_the_background_shows_it(visit: Visit, models: Models) -> None:
    cue = Cue("One ")
    chat = await visit.chat()
    await chat.send(models.plan(cue))
    await chat.shows("One ")
    row = chat.page.locator(f".session[data-session='{chat.session_id}']")
    await chat.page.locator("#new-chat").click()
    await expect(row.locator(".runs")).to_be_visible()
    await expect(chat.stop_button).to_be_hidden()
    said = await finish(cue)
    await expect(row.locator(".runs")).to_have_count(0)
    await row.locator("a").click()
    await chat.shows(said)


async def test_a_network_that_is_cut(browser: Browser, service: Process, models: Models) -> None:
    async with proxied(service.port) as wire, visiting(browser, wire.port) as visit:
        cue = Cue("One ")
        chat = await visit.chat()
        await chat.send(models.plan(cue))
        await chat.shows("One ")
        failed: list[str] = []  # the stream, and each attempt to come back
        chat.page.on("requestfailed", lambda request: failed.append(request.url))
        wire.cut()
        await expect(chat.answer.locator(".wait")).to_contain_text("The connection is lost")
        cue.say("two, unheard, ")
        await until(_returns(lambda: len(failed) >= 3))
        await chat.shows("One ")
        await wire.heal()
        await chat.page.evaluate("() => dispatchEvent(new Event('online'))")
        await chat.shows(cue.said)
        await chat.shows(await finish(cue))
        await chat.ended()


async def test_a_message_that_is_sent_without_a_network(browser: Browser, service: Process, models: Models) -> None:
    async with proxied(service.port) as wire, visiting(browser, wire.port) as visit:
        cue = Cue()
        prompt = models.plan(cue)
        chat = await visit.chat()
        await expect(chat.page.locator("#chat-model option").first).to_be_attached()
        wire.cut()
        await chat.send(prompt)
        await expect(chat.answer.locator(".wait")).to_contain_text("The connection is lost")
        await wire.heal()
        await chat.page.evaluate("() => dispatchEvent(new Event('online'))")
        await chat.shows(await finish(cue))
        assert len(models.asked(prompt)) == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (signal.SIGTERM, "Interrupted: the service was restarted"),
        (signal.SIGKILL, "Interrupted: the service broke down"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
async def test_a_service_that_is_restarted(
    browser: Browser, models: Models, tmp_path: Path, how: signal.Signals, words: str
) -> None:
    cue = Cue("One ")
    prompt = models.plan(cue)
    async with serving(models, tmp_path, drain_s=0) as first, visiting(browser, first.port) as visit:
        chat = await visit.chat()
        await chat.send(prompt)
        await chat.shows("One ")
        first.terminate(how)
        await first.wait()
        async with serving(models, tmp_path, port=first.port) as second:
            await chat.page.evaluate("() => dispatchEvent(new Event('online'))")
            await expect(chat.answer.locator(".state")).to_have_text(words)
            await chat.ended(words)
            [_, stored] = await second.messages(chat.session_id)
            await chat.shows(stored["content"])
            assert "One ".startswith(stored["content"])
            again = Cue()
            await chat.send(models.plan(again))
            await chat.shows(await finish(again))


def _returns(look: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def looked() -> bool:
        return bool(look())

    return looked
