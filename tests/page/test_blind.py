"""Blind compares and what comes of them: no name before the vote, the names after it, and the leaderboard."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.fake_upstream import say, status
from tests.page.pages import ComparePage, Visit, by_model, visiting
from tests.process.models import Cue, Models
from tests.process.service import Process, Service, serving

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]

MODELS = NAMES = ("zebra-7b", "quagga-70b", "okapi-405b")

# Whatever the page has of the compare: its title and elements with their attributes, without the lists to choose from.
HELD = """() => {
    const page = document.documentElement.cloneNode(true);
    for (const list of page.querySelectorAll("#compare-models, #chat-model")) list.remove();
    return page.outerHTML;
}"""


async def check_nameless(page: Page) -> None:
    held: str = await page.evaluate(HELD)
    assert "Model A" in held
    assert [name for name in NAMES if name.partition("-")[0] in held.lower()] == []


async def order(service: Service, compare_id: str) -> list[str]:
    """Return the models' names in the order of their panes, as the service tells them after the vote."""
    answer = await service.get(f"/api/compare/{compare_id}")
    return [pane["model"] for pane in answer.json["panes"]]


async def asked_for(visit: Visit, models: Models, count: int = 2) -> ComparePage:
    """Have a blind compare, all of whose panes have ended."""
    compare = await visit.compare()
    await compare.send(models.plan(say("Hello.")), NAMES[:count], blind=True)
    for number in range(count):
        await compare.ended(number, "Done")
    return compare


async def test_no_name_before_the_vote_and_all_after_it(visit: Visit, service: Process, models: Models) -> None:
    cue = Cue("Streaming. ")
    told_by_error = status(400, b'{"error": {"message": "okapi-405b is too busy grazing"}}')
    prompt = models.plan(by_model({NAMES[0]: cue, NAMES[1]: say("Done."), NAMES[2]: told_by_error}))
    compare = await visit.compare()
    await compare.send(prompt, NAMES, blind=True)
    names = compare.panes.locator("h2")
    await expect(names).to_have_text(["AModel A", "BModel B", "CModel C"])
    await expect(compare.panes.filter(has_text="Streaming. ")).to_have_count(1)
    await expect(compare.panes.filter(has_text="The model server failed")).to_have_count(1)
    await check_nameless(compare.page)
    vote = compare.page.locator("#verdict")
    await expect(vote).to_be_hidden()  # until all have ended
    cue.end()
    await expect(vote.get_by_role("button")).to_have_text(["A", "B", "C", "Tie"])
    await expect(compare.page.get_by_role("button", name="Keep")).to_have_count(0)
    await check_nameless(compare.page)

    await vote.get_by_role("button", name="B").click()
    await expect(vote).to_contain_text("You chose B")
    shuffled = await order(service, compare.compare_id)
    assert sorted(shuffled) == sorted(NAMES)
    for _ in range(2):
        await expect(names).to_have_text([f"{label}{name}" for label, name in zip("ABC", shuffled, strict=True)])
        await expect(vote).to_contain_text(f"You chose B: {shuffled[1]}")
        await expect(compare.page.locator(".pane.won")).to_have_attribute("data-pane", "1")
        await expect(vote.get_by_role("button")).to_have_count(0)
        await compare.page.reload()  # the service has kept it
    await compare.pane(0).get_by_role("button", name=f"Keep {shuffled[0]}").click()
    await expect(compare.pane(0).get_by_role("link", name="Kept")).to_be_visible()


async def test_a_vote_after_a_reload(visit: Visit, models: Models) -> None:
    compare = await asked_for(visit, models)
    await compare.page.reload()
    vote = compare.page.locator("#verdict")
    await expect(vote.get_by_role("button")).to_have_text(["A", "B", "Tie"])
    await check_nameless(compare.page)
    await vote.get_by_role("button", name="Tie").click()
    await expect(vote).to_contain_text("You called it a tie")
    await expect(compare.page.locator(".pane.won")).to_have_count(0)


async def test_leaving_in_the_middle_and_voting_later(visit: Visit, models: Models) -> None:
    cues = {name: Cue("Half. ") for name in NAMES[:2]}
    compare = await visit.compare()
    await compare.send(models.plan(by_model(cues)), NAMES[:2], blind=True)
    for number in range(2):
        await compare.shows(number, "Half. ")
    await compare.page.reload()
    for number in range(2):
        await compare.ended(number, "Stopped: its stream was closed")
    vote = compare.page.locator("#verdict")
    await vote.get_by_role("button", name="A").click()
    await expect(vote).to_contain_text("You chose A")


async def test_only_the_first_of_two_tabs_votes(visit: Visit, models: Models) -> None:
    first = await asked_for(visit, models)
    second = await visit.compare(f"#/compare/{first.compare_id}")
    buttons = second.page.locator("#verdict").get_by_role("button")
    await expect(buttons).to_have_count(3)
    await first.page.locator("#verdict").get_by_role("button", name="A").click()
    await expect(first.page.locator("#verdict")).to_contain_text("You chose A")
    await buttons.nth(1).click()
    await expect(second.notice).to_have_text("A vote has been cast already.")
    await expect(second.page.locator("#verdict")).to_contain_text("You chose A")


async def test_earlier_compares(visit: Visit, models: Models) -> None:
    voted = await asked_for(visit, models)
    await voted.page.locator("#verdict").get_by_role("button", name="A").click()
    await expect(voted.page.locator("#verdict")).to_contain_text("You chose A")
    left = await asked_for(visit, models)
    prompt = await left.page.locator("#compare-prompt").inner_text()
    page = await visit.open("/#/compare")
    recent = page.locator("#recent-list a")
    await expect(recent.nth(0)).to_contain_text("not voted")
    await expect(recent.nth(1)).not_to_contain_text("not voted")
    await expect(recent.nth(1)).to_have_attribute("href", f"#/compare/{voted.compare_id}")
    await recent.nth(0).click()
    await expect(page.locator("#compare-prompt")).to_have_text(prompt)
    await expect(page.locator("#verdict")).to_contain_text("Which answer is best?")


async def test_the_leaderboard(browser: Browser, models: Models, tmp_path: Path) -> None:
    async with serving(models, tmp_path) as service, visiting(browser, service.port) as visit:
        board = await visit.open("/leaderboard")
        await expect(board.locator("#votes")).to_have_text("Nobody has voted yet.")
        await board.get_by_role("link", name="Vote in a blind compare").click()
        await expect(board.locator("#compare-composer textarea")).to_be_visible()
        wins: Counter[str] = Counter()
        for choice in ("A", "A", "Tie"):
            compare = await asked_for(visit, models)
            vote = compare.page.locator("#verdict")
            await vote.get_by_role("button", name=choice, exact=True).click()
            await expect(vote.get_by_role("link", name="Leaderboard")).to_be_visible()
            wins[(await order(service, compare.compare_id))[0]] += choice == "A"
        await vote.get_by_role("link", name="Leaderboard").click()
        await expect(compare.page.locator("#votes")).to_have_text("3 votes so far.")
        answer: dict[str, Any] = (await service.get("/api/leaderboard")).json
        rows = compare.page.locator("#board tr")
        await expect(rows).to_have_count(2)
        for rank, row in enumerate(answer["models"], 1):
            won = wins[row["model"]]
            rating, low, high = (math.floor(row[name] + 0.5) for name in ("rating", "low", "high"))
            shown = [str(rank), row["model"], str(rating), f"{low} to {high}", str(won), str(2 - won), "1", "3"]
            await expect(rows.nth(rank - 1).locator("th, td")).to_have_text(shown)
