"""A compare in the browser: each model with its own Stop, all of them with the page; the vote, and what is kept."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import expect

from tests.page.pages import ComparePage, Visit, by_model
from tests.process.models import Cue, Models
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]


def plan(models: Models, names: str) -> tuple[str, dict[str, Cue]]:
    cues = {name: Cue(f"I am {name}. ") for name in names}
    return models.plan(by_model(cues)), cues


async def begun(compare: ComparePage, models: Models, names: str, **options: Any) -> tuple[str, dict[str, Cue]]:
    prompt, cues = plan(models, names)
    await compare.send(prompt, names, **options)
    for number, name in enumerate(names):
        await compare.shows(number, f"I am {name}. ")
    return prompt, cues


async def test_stopping_one_of_four_leaves_the_others(visit: Visit, models: Models) -> None:
    compare = await visit.compare()
    prompt, cues = await begun(compare, models, "mnop")
    await compare.pane(1).get_by_role("button", name="Stop n").click()
    await next(it for it in models.asked(prompt) if it.body["model"] == "n").closed.wait()
    await expect(compare.pane(1).locator(".state")).to_contain_text("Stopped")
    await compare.shows(1, "I am n. ")
    for number, name in ((0, "m"), (2, "o"), (3, "p")):
        cues[name].say("Still here.")
        cues[name].end()
        await compare.shows(number, cues[name].said)
        await compare.ended(number, "Done")
        await expect(compare.pane(number).locator(".facts")).to_contain_text("to first token")
        await expect(compare.pane(number).locator(".facts")).to_contain_text(f"{len(cues[name].said)} characters")
    await expect(compare.stop_all).to_be_hidden()


async def test_stop_all(visit: Visit, models: Models) -> None:
    compare = await visit.compare()
    prompt, _ = await begun(compare, models, "mnop")
    await compare.stop_all.click()
    await models.closed(prompt)
    for number in range(4):
        await expect(compare.pane(number).locator(".state")).to_contain_text("Stopped")
    await expect(compare.stop_all).to_be_hidden()


async def test_results_stay_readable_after_a_reload(visit: Visit, models: Models) -> None:
    compare = await visit.compare()
    _, cues = await begun(compare, models, "mn")
    cues["m"].end()
    await compare.ended(0, "Done")
    await compare.page.reload()  # which leaves n without its client
    await compare.shows(0, "I am m. ")
    await compare.ended(0, "Done")
    await compare.ended(1, "Stopped: its stream was closed")
    await compare.shows(1, "I am n. ")


@pytest.mark.parametrize("how", ["close the page", "go to a chat"])
async def test_leaving_stops_every_model(visit: Visit, service: Process, models: Models, how: str) -> None:
    compare = await visit.compare()
    prompt, _ = await begun(compare, models, "mno")
    await (compare.page.close() if how == "close the page" else compare.page.locator("#new-chat").click())
    await models.closed(prompt)


async def test_closing_a_pane_stops_its_model(visit: Visit, models: Models) -> None:
    compare = await visit.compare()
    prompt, cues = await begun(compare, models, "mn")
    await compare.pane(0).get_by_role("button", name="Close m").click()
    await expect(compare.panes).to_have_count(1)
    await next(it for it in models.asked(prompt) if it.body["model"] == "m").closed.wait()
    cues["n"].end()
    await compare.ended(1, "Done")


async def test_eight_panes_over_http_1(visit: Visit, models: Models) -> None:
    """A browser has six connections for all: those that wait begin when others end, and Stop all gets through."""
    compare = await visit.compare()
    names = "mnopqrst"
    prompt, cues = plan(models, names)
    await compare.send(prompt, names)
    for number, name in enumerate(names[:5]):
        await compare.shows(number, f"I am {name}. ")
    await expect(compare.pane(5)).to_contain_text("Waits for a free connection")
    cues["o"].end()
    await compare.shows(5, "I am r. ")
    await compare.stop_all.click()
    await models.closed(prompt)
    await expect(compare.stop_all).to_be_hidden()
    await compare.ended(7, "Not started")
    assert len(models.asked(prompt)) == 6


async def test_what_the_service_refuses_is_said(visit: Visit, models: Models) -> None:
    error = {"error": {"code": "draining", "message": "no"}}
    await visit.answer_with("/api/compare$", error, 503)
    compare = await visit.compare()
    await expect(compare.page.locator("#compare-models input").first).to_be_attached()
    await compare.area.fill("Hello?")
    await compare.area.press("Enter")
    await expect(compare.notice).to_contain_text("about to restart")
    await expect(compare.area).to_have_value("Hello?")
