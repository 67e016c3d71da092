"""What a model, a tool, a question or an error says is text: none of it becomes markup, none of it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.fake_upstream import Exchange, chunk, in_turn, say, wants
from tests.page.pages import Visit, by_model
from tests.process.models import Models

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="module")]

PAYLOADS = (
    "<script>run()</script>",
    "<img src=x onerror=run()>",
    "<svg onload=run()><svg/onload=run()//",
    "<iframe srcdoc='<script>parent.run()</script>'></iframe>",
    "<body onload=run()><details open ontoggle=run()>",
    "<a href='javascript:run()'>link</a><a href='data:text/html,<script>run()</script>'>link</a>",
    '[link](javascript:run()) ![image](x" onerror="run()) <javascript:run()>',
    "\"><input autofocus onfocus=run()>'-run()-'",
    "</textarea></title></style></script><script>run()</script>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=run()&gt;'>",
    "<form action=javascript:run()><button formaction=javascript:run()>go</button></form>",
    "<style>@import 'https://example.com/x.css'; * { display: none }</style><link rel=stylesheet href=//example.com>",
    "{{constructor.constructor('run()')()}} ${run()} <!--[if IE]><script>run()</script><![endif]-->",
    "\u202e<script\x0b>run()</script\u2028>\ufeff",
)
WATCH = """window.ran = 0;
window.run = () => { ran += 1; };
addEventListener("securitypolicyviolation", run);
"""
ADDED = """() => {
    const foreign = "script, iframe, object, embed, link, style, math, form form, input:not(:is(form, label) input),"
        + "[onload], [onerror], [onfocus], [ontoggle], [srcdoc], a[href^=javascript], a[href^=data],"
        + "img:not([src='/static/icon.svg'])";
    return [...document.querySelectorAll("main, .sidebar, title")]
        .flatMap(part => [...part.querySelectorAll(foreign)])
        .map(found => found.outerHTML.slice(0, 100));
}"""


async def check(page: Page) -> None:
    assert await page.evaluate(ADDED) == []
    assert await page.evaluate("() => ran") == 0


async def thinks(exchange: Exchange) -> None:
    prompt = exchange.body["messages"][-1]["content"]
    await exchange.head()
    await exchange.send(chunk(reasoning=prompt))
    for character in prompt:
        await exchange.send(chunk(character))
    await exchange.send(chunk(finish_reason="stop") + b"data: [DONE]\n\n")
    await exchange.end()


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
async def test_a_payload_in_question_answer_reasoning_and_title(visit: Visit, models: Models, payload: str) -> None:
    await visit.context.add_init_script(WATCH)
    chat = await visit.chat()
    prompt = models.plan(thinks, f"{payload} ")
    await chat.send(prompt)
    await chat.shows(prompt)
    await chat.ended()
    await chat.answer.locator("summary").click()
    await expect(chat.sessions.first.locator("a")).not_to_have_text("Untitled chat")
    await check(chat.page)
    await chat.page.reload()
    await chat.shows(prompt)
    await check(chat.page)
    await chat.sessions.first.get_by_role("button", name="Delete").click()
    await expect(chat.page.locator("#confirm")).to_be_visible()
    await check(chat.page)


async def test_in_tools_and_their_results(visit: Visit, models: Models) -> None:
    await visit.context.add_init_script(WATCH)
    everything = "".join(PAYLOADS)
    chat = await visit.chat()
    await chat.page.locator("#mode").get_by_text("Agent").click()
    known = ("c1", "calculator", json.dumps({"expression": everything}))
    unknown = ("c2", "<img src=x onerror=run()>", json.dumps({everything: everything}))
    await chat.send(models.plan(in_turn(wants(known), wants(unknown), say("Done."))))
    await chat.shows("Done.")
    for summary in await chat.answer.locator("summary").all():
        await summary.click()
    await check(chat.page)


async def test_in_a_compare_and_in_errors(visit: Visit, models: Models) -> None:
    await visit.context.add_init_script(WATCH)
    everything = "".join(PAYLOADS)
    error = {"error": {"code": everything, "message": everything}}
    await visit.answer_with("/keep$", error, 500)
    compare = await visit.compare()
    prompt = models.plan(by_model({"m": say(everything), "n": say(everything)}))
    await compare.send(prompt, "mn")
    await compare.shows(0, everything)
    await compare.ended(0, "Done")
    await compare.pane(0).get_by_role("button", name="Keep").click()
    await expect(compare.notice).to_contain_text("<script>run()</script>")
    await check(compare.page)


async def test_markup_that_got_past_the_service_still_cannot_run(visit: Visit, models: Models) -> None:
    """The second wall: should the service's sanitiser ever fail, the page's policy refuses to run what came through."""
    await visit.context.add_init_script("window.ran = 0; window.run = () => { ran += 1; };")
    stored: dict[str, Any] = {"html": "<p onclick=run()>Click me</p>" + "".join(PAYLOADS)}
    await visit.answer_with("/api/sessions/[^/]+/messages/", stored)
    chat = await visit.chat()
    await chat.send(models.plan(say("Hello")))
    await chat.answer.get_by_text("Click me").click()
    assert await chat.page.evaluate("() => ran") == 0
    assert visit.faults, "the policy has refused nothing"
    visit.faults.clear()
