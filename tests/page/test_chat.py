"""A chat in the browser: asking, stopping, what tools do and wait for, errors in words, the list of sessions."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Route, expect

from tests.fake_upstream import Exchange, chunk, in_turn, say, status, wants
from tests.page.pages import Visit
from tests.process.models import Cue, Models, before_headers, before_token
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]

SETTINGS = {"tools_need_approval": "current_time"}

SUM = ("c1", "calculator", '{"expression": "17 * 23"}')
TIME = ("c2", "current_time", "{}")


async def thinks(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.send(chunk(reasoning="Hm, let me think."))
    await exchange.send(chunk("Yes."))
    await asyncio.sleep(0.05)  # what comes all at once has no speed
    await exchange.send(chunk(finish_reason="stop"))
    await exchange.send(chunk(usage={"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}))
    await exchange.send(b"data: [DONE]\n\n")
    await exchange.end()


async def test_a_question_and_its_answer(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await expect(chat.page.locator("#chat-welcome")).to_be_visible()
    prompt = models.plan(thinks)
    await chat.send(prompt)
    await chat.shows("Yes.")
    await chat.ended()
    await expect(chat.questions).to_have_text([f"You{prompt}"])
    await expect(chat.area).to_have_value("")
    facts = chat.answer.locator(".facts")
    await expect(facts).to_contain_text("to first token")
    await expect(facts).to_contain_text("40 tokens")
    await expect(facts).to_contain_text("tokens/s")
    reasoning = chat.answer.locator("details.reasoning")
    await expect(reasoning.locator(".inside")).to_be_hidden()
    await reasoning.locator("summary").click()
    await expect(reasoning.locator(".inside")).to_have_text("Hm, let me think.")
    await expect(chat.page.locator("#title")).to_have_text(prompt)
    await expect(chat.page.locator("#announcer")).to_contain_text("Yes.")


@pytest.mark.parametrize("silent", [before_headers, before_token], ids=lambda script: script.__name__)
async def test_stop_before_the_first_token(visit: Visit, models: Models, silent: object) -> None:
    chat = await visit.chat()
    prompt = models.plan(silent)  # type: ignore[arg-type]
    await chat.send(prompt)
    await models.exchange_of(prompt)
    await chat.stop_button.click()
    await models.closed(prompt)
    await chat.ended("Stopped by you")


async def test_stop_in_the_middle_and_ask_again(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    prompt = models.plan(in_turn(Cue("Half a"), say("All of it.")))
    await chat.send(prompt)
    await chat.shows("Half a")
    await chat.area.press("Escape")
    await chat.ended("Stopped by you")
    await chat.shows("Half a")
    await chat.answer.get_by_role("button", name="Ask again").click()
    await chat.shows("All of it.")
    await expect(chat.questions).to_have_count(2)


async def test_a_tool_and_its_approval(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await chat.page.locator("#mode").get_by_text("Agent").click()
    await chat.send(models.plan(in_turn(wants(SUM), wants(TIME), say("391, just now."))))
    tools = chat.answer.locator("details.tool")
    await expect(tools.nth(1).locator("summary")).to_contain_text("wants your approval")
    await tools.nth(0).locator("summary").click()
    await expect(tools.nth(0).locator(".given")).to_have_text(['{ "expression": "17 * 23" }', "391"])
    await chat.page.reload()  # what waits, waits for whoever comes back
    await tools.nth(1).get_by_role("button", name="Allow").click()
    await chat.shows("391, just now.")
    await chat.ended()
    await expect(tools.nth(1).get_by_role("button", name="Allow")).to_have_count(0)


async def test_a_call_that_is_denied(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await chat.page.locator("#mode").get_by_text("Agent").click()
    await chat.send(models.plan(in_turn(wants(TIME), say("Then not."))))
    await chat.answer.get_by_role("button", name="Deny").click()
    await chat.shows("Then not.")
    await expect(chat.answer.locator("details.tool.failed summary")).to_contain_text("failed")


async def test_a_model_server_that_fails(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await chat.send(models.plan(status(500)))
    await chat.ended("The model server failed")


async def test_a_message_that_is_refused_goes_back(visit: Visit, models: Models) -> None:
    error = {"error": {"code": "too_large", "message": "too large"}}
    await visit.answer_with("/api/chat_stream", error, 413)
    chat = await visit.chat()
    await chat.send("A long message")
    await expect(chat.notice).to_have_text("The message is too long.")
    await expect(chat.area).to_have_value("A long message")
    await expect(chat.answers).to_have_count(0)


async def test_a_chat_that_is_busy_already(visit: Visit, service: Process, models: Models) -> None:
    chat = await visit.chat()
    cue = Cue("First")
    await chat.send(models.plan(say("Hello")))
    await chat.ended()
    await visit.context.route("**/api/sessions?*", lambda route: route.abort())  # so that the page doesn't see it come
    await service.chat(models.plan(cue), session_id=chat.session_id)
    await chat.send("And me?")
    await expect(chat.notice).to_contain_text("still being answered")
    await expect(chat.answers).to_have_count(2)
    await expect(chat.area).to_have_value("And me?")
    await chat.shows("First")
    await chat.stop_button.click()
    await chat.ended("Stopped by you")


async def test_the_list_of_sessions(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await chat.send(models.plan(say("Hello")))
    await chat.ended()
    first = chat.session_id
    await chat.page.locator("#new-chat").click()
    await expect(chat.answers).to_have_count(0)
    await chat.send(models.plan(say("Hello again")))
    await chat.ended()
    second = chat.session_id
    assert first != second
    row = chat.page.locator(f".session[data-session='{second}']")
    await expect(row.locator("a")).to_have_attribute("aria-current", "page")
    await row.get_by_role("button", name="Rename").click()
    await row.get_by_role("textbox").fill("The sea")
    await row.get_by_role("textbox").press("Enter")
    await expect(row.locator("a")).to_have_text("The sea")
    await expect(chat.page.locator("#title")).to_have_text("The sea")
    await row.get_by_role("button", name="Delete").click()
    await chat.page.locator("#confirm").get_by_role("button", name="Keep it").click()
    await expect(row).to_have_count(1)
    await row.get_by_role("button", name="Delete").click()
    await chat.page.locator("#confirm").get_by_role("button", name="Delete").click()
    await expect(row).to_have_count(0)
    await expect(chat.page.locator("#title")).to_have_text("New chat")
    await expect(chat.page.locator(f".session[data-session='{first}']")).to_have_count(1)


async def test_a_search_finds_titles_and_what_was_said(visit: Visit, service: Process, models: Models) -> None:
    chat = await visit.chat()
    for number in range(2):
        await chat.page.locator("#new-chat").click()
        await chat.send(models.plan(say(f"The anglerfish of sea {number}"), f"Depth {number} "))
        await chat.ended()
    named, said = chat.page.locator(".session", has_text="Depth 0"), chat.page.locator(".session", has_text="Depth 1")
    search = chat.page.locator("#search")
    await search.fill(" ANGLERFISH of sea 1 ")
    await expect(named).to_have_count(0)
    await expect(chat.sessions).to_have_count(1)
    await expect(said).to_have_count(1)
    await search.fill("depth 0")
    await expect(said).to_have_count(0)
    await expect(chat.sessions).to_have_count(1)
    await named.locator("a").click()
    await chat.shows("The anglerfish of sea 0")
    await expect(search).to_have_value("depth 0")
    await search.fill("100%_\\")
    await expect(chat.page.locator("#sessions")).to_have_text("Nothing found.")
    await search.fill("")
    await expect(said).to_have_count(1)


async def test_a_search_isnt_lost_behind_a_list_that_is_on_its_way(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await chat.send(models.plan(say("Hello")))
    await chat.ended()
    unsearched, typed = re.compile(r"/api/sessions\?limit=\d+$"), asyncio.Event()

    async def hold(route: Route) -> None:
        await typed.wait()
        await route.continue_()

    await chat.page.route(unsearched, hold)
    async with chat.page.expect_request(unsearched):
        await chat.page.evaluate("() => dispatchEvent(new Event('focus'))")
    await chat.page.locator("#search").fill("nobody has said this")
    typed.set()
    await expect(chat.page.locator("#sessions")).to_have_text("Nothing found.", timeout=15_000)


async def test_an_ended_answer_is_rendered(visit: Visit, models: Models) -> None:
    text = """# Title

| a | b |
|---|---|
| 1 | 2 |

See [this](https://example.com/) and ![that](https://example.com/image.png).

```python
print(1)
```
"""
    chat = await visit.chat()
    await chat.send(models.plan(say(*text.splitlines(keepends=True))))
    answer = chat.answer
    for shown in ("streamed", "loaded"):
        await expect(answer.locator(".markdown h1"), shown).to_have_text("Title")
        await expect(answer.locator(".markdown td")).to_have_text(["1", "2"])
        await expect(answer.locator(".markdown a")).to_have_text(["this", "that"])
        await expect(answer.locator(".markdown .highlight .nb")).to_have_text("print")
        await expect(answer.locator(".text")).to_have_count(0)
        await chat.page.reload()
    await visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await answer.get_by_role("button", name="Copy the answer").click()
    assert await chat.page.evaluate("() => navigator.clipboard.readText()") == text
    await answer.get_by_role("button", name="Copy the code").click()
    assert await chat.page.evaluate("() => navigator.clipboard.readText()") == "print(1)\n"


async def test_the_model_that_was_chosen_answers(visit: Visit, models: Models) -> None:
    chat = await visit.chat()
    await chat.page.locator("#chat-model").select_option("p")
    prompt = models.plan(say("Hello"))
    await chat.send(prompt)
    await chat.ended()
    assert models.asked(prompt)[0].body["model"] == "p"
    await chat.page.reload()
    await expect(chat.page.locator("#chat-model")).to_have_value("p")
