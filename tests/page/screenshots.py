"""Takes the pictures in docs/screenshots: `make screenshots`, or `python -m tests.page.screenshots`.

The real service answers, and asks a model server that says what suits a picture. The leaderboard is what votes make it.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, expect

from tests.browser import chromium
from tests.fake_upstream import Exchange, Script, chunk, in_turn, say, wants
from tests.page.pages import ChatPage, ComparePage, by_model, visiting
from tests.process.models import Models
from tests.process.service import Process, serving

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
MODELS = ("qwen3-32b", "llama-3.3-70b", "mistral-small", "gemma-3-27b")
SIZES = {"1280": (1280, 800), "390": (390, 844)}
Scheme = Literal["light", "dark"]

EARLIER = (
    "Plan a weekend in Lisbon",
    "Regex for ISO dates",
    "Why is my aiohttp handler cancelled?",
    "Translate the release notes",
    "Names for a sailing boat",
)
QUESTION = "My streams die behind nginx after a minute. How do I keep them alive?"
REASONING = "The user runs server-sent events behind nginx. Two things break it: buffering, and the read timeout."
ANSWER = """nginx does two things to a stream: it **buffers** it, and it **closes** it after 60 silent seconds.

1. Turn buffering off for the location, or send `X-Accel-Buffering: no` with the response.
2. Send a comment every 15 seconds: that is 4 in each `proxy_read_timeout`.

```nginx
location /api/ {
    proxy_pass http://127.0.0.1:8080;
    proxy_http_version 1.1;
    proxy_buffering off;
}
```

A comment is a line that begins with a colon, and an `EventSource` ignores it.
"""
CALL = ("c1", "calculator", '{"expression": "60 / 15"}')
COMPARED = "Explain backpressure to a new colleague, in a few sentences."
SAID = {
    "qwen3-32b": "Backpressure is how a slow consumer tells a fast producer to wait.\n\nIn a kitchen, "
    "plates pile up when nobody carries them away. In software the pile is a queue, and *pausing* is "
    "backpressure.",
    "llama-3.3-70b": "Think of water in a pipe with a narrow end.\n\n- **Without** backpressure, pumping harder "
    "bursts it: data piles up until something breaks.\n- **With** it, the sender notices that the receiver is "
    "behind, and slows down.",
    "mistral-small": "When one part of a system produces faster than the next can take, the surplus has to go "
    "somewhere. Backpressure is the signal that travels *backwards* and says: not so fast.",
    "gemma-3-27b": "It is the polite way of saying “I'm full”. TCP does it with its window, streams do it with "
    "`await drain()`, and people do it by not answering mail.",
}
DUEL = "Which of you is better?"
GAMES = (  # how often the one won, the other, none
    ("qwen3-32b", "llama-3.3-70b", 8, 6, 2),
    ("qwen3-32b", "gemma-3-27b", 9, 4, 1),
    ("qwen3-32b", "mistral-small", 10, 3, 0),
    ("llama-3.3-70b", "gemma-3-27b", 7, 4, 2),
    ("llama-3.3-70b", "mistral-small", 9, 4, 1),
    ("gemma-3-27b", "mistral-small", 6, 5, 0),
)


def answers(text: str, reasoning: str = "", pause_s: float = 0.002, done: bool = True) -> Script:
    tokens = re.findall(r"\S+\s*", text)

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        if reasoning:
            await exchange.send(chunk(reasoning=reasoning))
        for token in tokens:
            await exchange.send(chunk(token))
            await asyncio.sleep(pause_s)
        if not done:
            await asyncio.Event().wait()
        await exchange.send(chunk(finish_reason="stop"))
        usage = {"prompt_tokens": 31, "completion_tokens": len(tokens), "total_tokens": 31 + len(tokens)}
        await exchange.send(chunk(usage=usage) + b"data: [DONE]\n\n")
        await exchange.end()

    return script


class Studio(Models):
    """Answers each prompt of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.models = MODELS
        compared = {
            model: answers(text, pause_s=pause_s, done=model != "gemma-3-27b")
            for (model, text), pause_s in zip(SAID.items(), (0.008, 0.012, 0.005, 0.02), strict=True)
        }
        scripts = {prompt: say("Gladly.") for prompt in (*EARLIER, DUEL)} | {COMPARED: by_model(compared)}
        for prompt, script in scripts.items():
            self.plan_for(prompt, script)


async def take(browser: Browser, service: Process, models: Studio, scheme: Scheme, size: str) -> None:
    width, height = SIZES[size]
    looks: dict[str, Any] = {"color_scheme": scheme, "viewport": {"width": width, "height": height}}
    async with visiting(browser, service.port, device_scale_factor=2, **looks) as visit:
        chat = ChatPage(await visit.open("/"))
        await chat.page.locator("#mode").get_by_text("Agent").click()
        models.plan_for(QUESTION, in_turn(wants(CALL), answers(ANSWER, REASONING)))
        await chat.send(QUESTION)
        await chat.ended()
        await chat.page.mouse.move(width / 2, 5)
        await chat.page.screenshot(path=FOLDER / f"chat-{scheme}-{size}.png")
        await service.call("DELETE", f"/api/sessions/{chat.session_id}")  # or it would stand in the next picture's list

        compare = ComparePage(await visit.open("/#/compare"))
        chips = compare.page.locator("#compare-models")
        await expect(chips.locator("input").first).to_be_attached()
        for model in MODELS[2:]:
            await chips.get_by_text(model).click()
        await compare.area.fill(COMPARED)
        await compare.area.press("Enter")
        await compare.shows(3, SAID[MODELS[3]])
        for number in range(3):
            await compare.ended(number, "Done")
        await compare.page.mouse.move(width / 2, 5)
        await compare.page.screenshot(path=FOLDER / f"compare-{scheme}-{size}.png")
        await compare.page.close()

        page = await visit.open("/leaderboard")
        await expect(page.locator("#board tr").first).to_be_visible()
        await page.screenshot(path=FOLDER / f"leaderboard-{scheme}-{size}.png")


async def vote(service: Process, models: Sequence[str], winner: str | None) -> None:
    """Have *models* compared blindly, and vote for *winner*, None for a tie."""
    made = await service.post("/api/compare", {"message": DUEL, "models": models, "blind": True})
    for pane in made.json["panes"]:
        async with await service.open("GET", pane["stream"]) as client:
            await client.read_all()
    compare_id = made.json["compare_id"]
    # Only the store knows who is who before the vote.
    with closing(sqlite3.connect(service.folder / "odysseus.db")) as database:
        query = "SELECT model FROM compare_panes WHERE compare_id = ? ORDER BY number"
        names = [name for (name,) in database.execute(query, [compare_id])]
    answer = await service.post(
        f"/api/compare/{compare_id}/vote", {"winner": "tie" if winner is None else names.index(winner)}
    )
    assert answer.status == 200, answer


async def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        async with Studio() as models, serving(models, Path(folder)) as service, chromium() as browser:
            for prompt in EARLIER:
                async with await service.chat(prompt) as client:
                    await client.read_all()
            for first, second, wins, losses, ties in GAMES:
                for winner in (*repeat(first, wins), *repeat(second, losses), *repeat(None, ties)):
                    await vote(service, (first, second), winner)
            for scheme in ("light", "dark"):
                for size in SIZES:
                    await take(browser, service, models, scheme, size)


if __name__ == "__main__":
    asyncio.run(main())
