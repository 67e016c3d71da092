"""What a model, a tool, a question or an error says is text or harmless markup: none of it runs or asks strangers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.fake_upstream import Exchange, Script, chunk, in_turn, say, wants
from tests.page.pages import ChatPage, Visit, by_model
from tests.process.models import Models
from tests.process.service import Process

pytestmark = [pytest.mark.process, pytest.mark.asyncio(loop_scope="package")]

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
    # Those below are Markdown, which is made into markup: only what it makes must be harmless.
    "[a](JaVaScRiPt:run()) [b](java&#115;cript:run()) [c](data:text/html;base64,PHNjcmlwdD5ydW4oKTwvc2NyaXB0Pg==)",
    "[a](<javascript:run()>) [b]( javascript:run()) [c](\x01javascript:run()) [d](//example.com) [e](/api/logout)",
    "![x](https://example.com/x.png) ![x](javascript:run()) [![x](https://example.com/y.png)](https://example.com)",
    '[a](https://example.com \'" onmouseover=run() x="\') <https://example.com/"onmouseover=run()>',
    "[a]: javascript:run()\n[a] ![b][a]",
    "| <img src=x onerror=run()> |\n|---|\n| <script>run()</script> `</td><script>run()</script>` |",
    "```html\n<script>run()</script><img src=x onerror=run()>\n```\n",
    '```"><script>run()</script>\n</code></pre><script>run()</script>\n```\n',
    "# <svg onload=run()>\n> <img src=x onerror=run()>\n- <iframe src=javascript:run()>\n",
    "&lt;script&gt;run()&lt;/script&gt; &#60;img src=x onerror=run()&#62; \\<script>run()\\</script>",
)
WATCH = """window.ran = 0;
window.run = () => { ran += 1; };
addEventListener("securitypolicyviolation", run);
"""
ADDED = """() => {
    const foreign = "script, iframe, object, embed, link, style, math, form form,"
        + "input:not(:is(form, label, .session) input), [srcdoc], [formaction],"
        + ".markdown :is([style], [id], img, input, form, svg:not(.code button *)),"
        + "img:not([src='/static/icon.svg'])";
    const handlers = e => [...e.attributes].some(({ name }) => name.startsWith("on"));
    const good = e => /^(https?:|mailto:)/.test(e.getAttribute("href")) && e.target === "_blank"
        && ["noopener", "noreferrer", "nofollow"].every(it => e.relList.contains(it));
    const parts = [...document.querySelectorAll("main, .sidebar, #confirm, title")];
    return parts
        .flatMap(part => [...part.querySelectorAll("*")])
        .filter(e => e.matches(foreign) || handlers(e) || (e.matches(".markdown a") && !good(e)))
        .map(found => found.outerHTML.slice(0, 200));
}"""


async def check(page: Page, said: str = "") -> None:
    """Nothing of what was *said* has become what it mustn't."""
    assert await page.evaluate(ADDED) == [], said
    assert await page.evaluate("() => ran") == 0, said


def thinks(text: str, end: asyncio.Event) -> Script:
    """Say *text* as a thought and as an answer, in small pieces, and end when the test has looked."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(chunk(reasoning=text))
        for at in range(0, len(text), 5):
            await exchange.send(chunk(text[at : at + 5]))
        await end.wait()
        await exchange.send(chunk(finish_reason="stop") + b"data: [DONE]\n\n")
        await exchange.end()

    return script


async def test_in_questions_answers_and_reasoning(visit: Visit, models: Models) -> None:
    """Each payload as it streams, as it is rendered when it has ended, and all of them as they are loaded."""
    await visit.context.add_init_script(WATCH)
    chat = await visit.chat()
    for payload in PAYLOADS:
        end = asyncio.Event()
        await chat.send(models.plan(thinks(payload, end), f"{payload} "))
        await chat.shows(payload)
        await chat.answer.locator("summary").click()
        await expect(chat.answer.locator(".reasoning .text")).to_be_visible()
        await check(chat.page, payload)
        end.set()
        await chat.ended()
        await expect(chat.answer.locator(".markdown")).to_be_attached()
        await check(chat.page, payload)
    await chat.page.reload()
    await expect(chat.answers.locator(".markdown")).to_have_count(len(PAYLOADS))
    await check(chat.page)
    for payload, rendered in zip(PAYLOADS, await chat.answers.locator(".markdown").all_inner_texts(), strict=True):
        for tag in ("<script>", "<svg", "<iframe", "<style>", "<math>", "<form"):
            assert tag not in payload or tag in rendered, "it must be there, as text"


async def test_in_titles(visit: Visit, service: Process) -> None:
    await visit.context.add_init_script(WATCH)
    for payload in PAYLOADS:
        made = await service.post("/api/sessions", {"title": payload[:200]})
        assert made.status == 201
    chat = await visit.chat()
    rows = chat.sessions.filter(has_text="run()")
    await expect(rows.first).to_be_visible()
    await check(chat.page)
    for row in (rows.first, rows.last):
        await row.locator("a").click()
        await expect(chat.page.locator("#title")).to_contain_text("run()")
        await row.get_by_role("button", name="Delete").click()
        await expect(chat.page.locator("#confirm")).to_be_visible()
        await check(chat.page)
        await chat.page.keyboard.press("Escape")
    await rows.last.get_by_role("button", name="Rename").click()
    await expect(chat.page.get_by_role("textbox", name="New title")).to_be_focused()
    await check(chat.page)
    await chat.page.keyboard.press("Escape")
    await chat.page.locator("#search").fill("<script>run()</script>")
    await expect(chat.sessions.filter(has_not_text="<script>")).to_have_count(0)
    await check(chat.page)


async def test_in_tools_and_their_results(visit: Visit, models: Models) -> None:
    await visit.context.add_init_script(WATCH)
    everything = "".join(PAYLOADS)
    chat = await visit.chat()
    found = models.plan(say("Nothing."), f"anglerfish {everything}".replace("\n", " "))
    await chat.send(found)
    await chat.ended()
    await chat.page.locator("#new-chat").click()
    await chat.page.locator("#mode").get_by_text("Agent").click()
    calls = (
        ("c1", "calculator", json.dumps({"expression": everything})),
        ("c2", "<img src=x onerror=run()>", json.dumps({everything: everything})),
        ("c3", "search_sessions", json.dumps({"query": "anglerfish"})),
    )
    await chat.send(models.plan(in_turn(*map(wants, calls), say("Done."))))
    await chat.shows("Done.")
    for _ in range(2):
        await open_all(chat)
        await expect(chat.answer.locator(".tool").nth(2)).to_contain_text("anglerfish <script>run()</script>")
        await check(chat.page)
        await chat.page.reload()
        await chat.shows("Done.")


async def open_all(chat: ChatPage) -> None:
    for summary in await chat.answer.locator("summary").all():
        await summary.click()


async def test_in_a_compare_and_in_errors(visit: Visit, models: Models) -> None:
    await visit.context.add_init_script(WATCH)
    everything = "".join(PAYLOADS)
    error = {"error": {"code": everything, "message": everything}}
    await visit.answer_with("/keep$", error, 500)
    compare = await visit.compare()
    end = asyncio.Event()
    prompt = models.plan(by_model({"m": thinks(everything, end), "n": say(*PAYLOADS)}), everything.replace("\n", " "))
    await compare.send(prompt, "mn")
    await compare.shows(0, everything)
    await check(compare.page)
    end.set()
    for number in range(2):
        await compare.ended(number, "Done")
        await expect(compare.pane(number).locator(".markdown")).to_be_visible()
    await check(compare.page)
    await compare.pane(0).get_by_role("button", name="Keep").click()
    await expect(compare.notice).to_contain_text("<script>run()</script>")
    await check(compare.page)
    await compare.page.reload()
    await expect(compare.pane(1).locator(".markdown")).to_be_visible()
    await check(compare.page)
    page = await visit.open("/#/compare")
    await expect(page.locator("#recent-list")).to_contain_text("<script>run()</script>")
    await check(page)


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
