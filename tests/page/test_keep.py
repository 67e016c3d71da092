"""A pane that is kept is a chat from then on: it goes on without its compare, and without its page."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Locator, expect

from tests.fake_upstream import in_turn, say
from tests.page.pages import ChatPage, ComparePage, Visit, by_model, visiting
from tests.process.models import Cue, Models
from tests.process.proxy import proxied
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]


class Kept:
    """A compare of m and n that stream, of which m was kept in the middle of its answer."""

    def __init__(self, compare: ComparePage, prompt: str, m: Cue, n: Cue) -> None:
        self.compare, self.prompt, self.m, self.n = compare, prompt, m, n
        self.page = compare.page
        self.row: Locator = self.page.locator(".session", has_text=prompt)
        self.link: Locator = compare.pane(0).get_by_role("link", name="Kept")

    @classmethod
    async def of(cls, visit: Visit, models: Models) -> Kept:
        m, n = Cue("I am m, "), Cue("I am n, ")
        prompt = models.plan(by_model({"m": in_turn(m, say("And on.")), "n": n}))
        compare = await visit.compare()
        await compare.send(prompt, "mn")
        await compare.shows(0, m.said)
        await compare.shows(1, n.said)
        kept = cls(compare, prompt, m, n)
        await expect(kept.row).to_have_count(0)
        await compare.pane(0).get_by_role("button", name="Keep m").click()
        await expect(kept.link).to_be_visible()
        return kept

    async def finish(self) -> str:
        self.m.say("to the end.")
        self.m.end()
        return self.m.said


async def closed(models: Models, kept: Kept, model: str) -> None:
    await next(it for it in models.asked(kept.prompt) if it.body["model"] == model).closed.wait()


def runs_on(models: Models, kept: Kept) -> bool:
    return not next(it for it in models.asked(kept.prompt) if it.body["model"] == "m").closed.is_set()


async def test_the_pane_goes_on_and_is_listed(visit: Visit, models: Models) -> None:
    kept = await Kept.of(visit, models)
    await expect(kept.row.locator(".runs")).to_be_visible()
    await expect(kept.compare.pane(0).get_by_role("button", name="Keep")).to_have_count(0)
    await kept.compare.shows(0, await kept.finish())
    await kept.compare.ended(0, "Done")
    await kept.link.click()
    chat = ChatPage(kept.page)
    await chat.shows(kept.m.said)
    await closed(models, kept, "n")
    await chat.send(kept.prompt)  # a chat as any other
    await chat.shows("And on.")
    roles = [message["role"] for message in models.asked(kept.prompt)[-1].body["messages"]]
    assert roles == ["user", "assistant", "user"]


async def test_closing_the_page_stops_the_others_alone(visit: Visit, models: Models) -> None:
    kept = await Kept.of(visit, models)
    await kept.page.close()
    await closed(models, kept, "n")
    kept.m.say("while nobody looks, ")
    chat = await visit.chat()
    await chat.page.locator(".session", has_text=kept.prompt).locator("a").click()
    await chat.shows(kept.m.said)
    assert runs_on(models, kept)
    await chat.stop_button.click()
    await closed(models, kept, "m")
    await chat.ended("Stopped by you")


async def test_after_a_reload_the_pane_is_followed(visit: Visit, models: Models) -> None:
    kept = await Kept.of(visit, models)
    await kept.page.reload()
    await expect(kept.link).to_be_visible()
    await kept.compare.shows(0, kept.m.said)
    await kept.compare.ended(1, "Stopped: its stream was closed")
    await kept.compare.shows(0, await kept.finish())
    await kept.compare.ended(0, "Done")
    await kept.page.reload()  # it is known to be kept when all is over, too
    await kept.compare.ended(0, "Done")
    await expect(kept.link).to_be_visible()
    await expect(kept.compare.pane(0).get_by_role("button", name="Keep")).to_have_count(0)


async def test_closing_the_pane_leaves_the_chat(visit: Visit, models: Models) -> None:
    kept = await Kept.of(visit, models)
    await kept.compare.pane(0).get_by_role("button", name="Close m").click()
    await expect(kept.compare.panes).to_have_count(1)
    kept.n.end()
    await kept.compare.ended(1, "Done")
    await kept.row.locator("a").click()
    chat = ChatPage(kept.page)
    await chat.shows(kept.m.said)
    assert runs_on(models, kept)
    await chat.shows(await kept.finish())
    await chat.ended()


async def test_stop_stops_it_still(visit: Visit, models: Models) -> None:
    kept = await Kept.of(visit, models)
    await kept.compare.pane(0).get_by_role("button", name="Stop m").click()
    await closed(models, kept, "m")
    await kept.compare.ended(0, "Stopped by you")
    await kept.compare.shows(0, kept.m.said)
    kept.n.end()
    await kept.compare.ended(1, "Done")


async def test_a_lost_network_doesnt_end_it(browser: Browser, service: Process, models: Models) -> None:
    async with proxied(service.port) as wire, visiting(browser, wire.port) as visit:
        kept = await Kept.of(visit, models)
        wire.cut()
        await closed(models, kept, "n")
        kept.m.say("unheard, ")
        await expect(kept.compare.pane(0)).to_contain_text("The connection is lost")
        await wire.heal()
        await kept.page.evaluate("() => dispatchEvent(new Event('online'))")
        await kept.compare.shows(0, kept.m.said)
        await kept.compare.shows(0, await kept.finish())
        await kept.compare.ended(0, "Done")
        await kept.compare.ended(1, "Stopped: its stream was closed")


async def test_an_answer_that_has_ended_can_be_kept(visit: Visit, models: Models) -> None:
    prompt = models.plan(by_model({"m": say("Hello."), "n": say("Hi.")}))
    compare = await visit.compare()
    await compare.send(prompt, "mn")
    await compare.ended(0, "Done")
    await compare.ended(1, "Done")
    await compare.pane(1).get_by_role("button", name="Keep n").click()
    await compare.pane(1).get_by_role("link", name="Kept").click()
    chat = ChatPage(compare.page)
    await chat.shows("Hi.")
    await expect(chat.page.locator(".session", has_text=prompt)).to_have_count(1)
