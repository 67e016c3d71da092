"""A real `EventSource` in a real browser behind the real nginx: whatever nginx does, each frame comes once."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Page

from tests.browser import chromium, visitor
from tests.process.models import Cue, Models
from tests.process.nginx import in_front_of
from tests.process.raw_client import until
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

CUT_SOON = {"worker_shutdown_timeout 2h;": "worker_shutdown_timeout 1s;"}

OPEN = """path => {
    window.seen = []; window.opened = 0; window.broken = 0;
    window.source = new EventSource(path);
    source.onopen = () => opened++;
    source.onerror = () => broken++;
    source.onmessage = event => seen.push([event.lastEventId, event.data]);
}"""
LOOK = "() => ({opened, broken, state: source.readyState, text: seen.map(([, data]) => data).join('')})"
CLOSED = 2


async def look(page: Page) -> dict[str, Any]:
    seen: dict[str, Any] = await page.evaluate(LOOK)
    return seen


async def test_an_event_source_outlives_a_reload_and_a_restart(service: Process, models: Models) -> None:
    async with (
        in_front_of(service.port, changes=CUT_SOON) as nginx,
        chromium() as browser,
        visitor(browser) as context,
    ):
        page = await context.new_page()
        await page.goto(f"https://localhost:{nginx.port}/healthz")
        cue = Cue("one ")
        first = await service.chat(models.plan(cue))
        await page.evaluate(OPEN, f"/api/chat/resume/{first.session_id}")
        await until(lambda: look(page), lambda seen: "one " in seen["text"])

        await nginx.reload()  # the old worker goes on for a while
        cue.say("two ")
        await until(lambda: look(page), lambda seen: seen["broken"] == 1)
        cue.say("three ")  # while nobody listens, or just again
        await until(lambda: look(page), lambda seen: seen["opened"] == 2 and "three " in seen["text"])

        await nginx.stop()
        await until(lambda: look(page), lambda seen: seen["broken"] >= 2)
        cue.say("four ")
        await nginx.start()
        await until(lambda: look(page), lambda seen: seen["opened"] == 3 and "four " in seen["text"])

        cue.say("five")
        cue.end()
        await until(lambda: look(page), lambda seen: seen["state"] == CLOSED)
        seen = await page.evaluate("() => seen")
    await first.read_all()
    # What has no id of its own, as `[DONE]`, is reported under the last id there was.
    assert [(id_, data.encode()) for id_, data in seen] == [(event.last_event_id, event.data) for event in first.events]
    assert first.text == "one two three four five"


async def test_closing_the_page_stops_a_direct_stream(service: Process, models: Models) -> None:
    async with in_front_of(service.port) as nginx, chromium() as browser, visitor(browser) as context:
        page = await context.new_page()
        await page.goto(f"https://localhost:{nginx.port}/healthz")
        made = await service.post("/api/compare", {"message": models.plan(Cue("Hello")), "models": ["m", "n"]})
        pane = made.json["panes"][0]
        await page.evaluate(OPEN, pane["stream"])
        await until(lambda: look(page), lambda seen: "Hello" in seen["text"])
        await page.close()
        [answer] = await service.settled(pane["session_id"])
        assert (answer["content"], answer["stop_reason"]) == ("Hello", "client_disconnect")
