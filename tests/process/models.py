"""One fake model server for all tests of a module: what it says depends on the prompt, not on who came first."""

from __future__ import annotations

import asyncio
import itertools
import socket
import time

from tests.fake_upstream import Exchange, FakeUpstream, Script, chunk, silent, status
from tests.message_rules import BrokenRule, check_request
from tests.process.raw_client import LIMIT_S

__all__ = ["Cue", "Flood", "Models", "before_headers", "before_token", "words"]


class Models(FakeUpstream):
    """Serves the models `m` and `n`, strictly. A prompt that `plan` has made is answered by its own script."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        super().__init__(self._play, ("m", "n"), sock=sock)
        self.refused: list[str] = []
        """Why requests were refused that no strict provider would take."""
        self._plans: dict[str, Script] = {}
        self._numbers = itertools.count()

    def plan(self, script: Script, beginning: str = "") -> str:
        """Return a prompt of its own for *script*, with a *beginning* that has no empty line."""
        prompt = f"{beginning}prompt {self.next_number()}"
        self.plan_for(prompt, script)
        return prompt

    def plan_for(self, prompt: str, script: Script) -> None:
        """Answer *prompt* by *script* from now on."""
        self._plans[prompt] = script

    def next_number(self) -> int:
        return next(self._numbers)

    @property
    def open(self) -> list[Exchange]:
        """The requests whose connection is still open, oldest first."""
        return [exchange for exchange in self.exchanges if not exchange.closed.is_set()]

    def asked(self, prompt: str) -> list[Exchange]:
        """Return what *prompt* has led to so far."""
        return [exchange for exchange in self.exchanges if _prompt(exchange) == prompt]

    async def exchange_of(self, prompt: str) -> Exchange:
        """Wait until *prompt* has been asked."""
        async with asyncio.timeout(LIMIT_S), self._arrived:
            await self._arrived.wait_for(lambda: self.asked(prompt))
        return self.asked(prompt)[0]

    async def closed(self, prompt: str) -> float:
        """Wait until every connection that was asked *prompt* is closed; return `time.monotonic()` of the last."""
        async with asyncio.timeout(LIMIT_S):
            for exchange in self.asked(prompt):
                await exchange.closed.wait()
        return max((exchange.closed_at or 0.0 for exchange in self.asked(prompt)), default=0.0)

    async def closes(self, prompt: str, since: float, limit_s: float) -> float:
        """Wait until all that was asked *prompt* is closed; return how long after *since*. Fails past *limit_s*."""
        await self.exchange_of(prompt)
        lasted_s = await self.closed(prompt) - since
        assert lasted_s < limit_s
        return lasted_s

    async def all_closed(self) -> None:
        """Wait until no connection is open."""
        async with asyncio.timeout(LIMIT_S):
            while self.connections:
                for exchange in tuple(self.exchanges):
                    await exchange.closed.wait()
                await asyncio.sleep(0.01)  # one that was kept for another request, or listed models

    async def _play(self, exchange: Exchange) -> None:
        try:
            check_request(exchange.body)
        except BrokenRule as error:
            self.refused.append(str(error))
            await status(400)(exchange)
            return
        await self._plans[_prompt(exchange)](exchange)


def _prompt(exchange: Exchange) -> str:
    """Return the last user's message: the service joins it to one before it that got no answer."""
    prompt: str = next(it["content"] for it in reversed(exchange.body["messages"]) if it["role"] == "user")
    return prompt.rpartition("\n\n")[2]


class Cue:
    """A script that says what the test tells it to, when it tells it."""

    def __init__(self, *texts: str) -> None:
        self._texts: asyncio.Queue[str | None] = asyncio.Queue()
        self.said = ""
        for text in texts:
            self.say(text)

    def say(self, text: str) -> None:
        self.said += text
        self._texts.put_nowait(text)

    def end(self) -> None:
        self._texts.put_nowait(None)

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head()
        while (text := await self._texts.get()) is not None:
            await exchange.send(chunk(text))
        await _end(exchange)


def words(
    count: int, *, pause_s: float = 0, size: int = 0, breaks_after: int | None = None, ends: bool = True
) -> tuple[Script, str]:
    """Return a script that says *count* different words, padded to *size*, then ends; and all that it says.

    With *breaks_after* it says no more of them than that, and breaks its connection; with ends=False it hangs after
    them.
    """
    texts = [f"w{number} ".ljust(size, ".") for number in range(count)]

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for text in texts[:breaks_after]:
            await exchange.send(chunk(text))
            if pause_s:
                await asyncio.sleep(pause_s)
        if breaks_after is not None:
            exchange.abort()
        elif ends:
            await _end(exchange)
        else:
            await silent(exchange)

    return script, "".join(texts)


async def _end(exchange: Exchange) -> None:
    await exchange.send(chunk(finish_reason="stop"))
    await exchange.send(b"data: [DONE]\n\n")
    await exchange.end()


async def before_headers(_: Exchange) -> None:
    """Take the request and say nothing at all."""
    await asyncio.Event().wait()


async def before_token(exchange: Exchange) -> None:
    """Answer with the headers alone."""
    await exchange.head()
    await asyncio.Event().wait()


class Flood:
    """A script that says numbered blocks of 2000 characters, up to *blocks*, as fast as somebody takes them."""

    def __init__(self, pause_s: float = 0, blocks: int = 1_000_000, at_once: int = 1) -> None:
        self._pause_s = pause_s
        self._blocks = blocks
        self._at_once = at_once
        self._waits_since: float | None = None

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.head()
        for first in range(0, self._blocks, self._at_once):
            self._waits_since = time.monotonic()
            await exchange.send(b"".join(chunk(_block(first + number)) for number in range(self._at_once)))
            self._waits_since = None
            await asyncio.sleep(self._pause_s)
        await _end(exchange)

    async def stuck(self) -> None:
        """Wait until nobody has taken anything for a while: the service itself waits, for its client."""
        async with asyncio.timeout(LIMIT_S):
            while self._waits_since is None or time.monotonic() - self._waits_since < 0.1:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    @staticmethod
    def said(text: str) -> bool:
        """Whether *text* is what it says, from its beginning on, in whole blocks, and not nothing."""
        blocks = [text[at : at + _BLOCK] for at in range(0, len(text), _BLOCK)]
        return bool(blocks) and blocks == [_block(number) for number in range(len(blocks))]


_BLOCK = 2000


def _block(number: int) -> str:
    return f"{number:08} ".ljust(_BLOCK, ".")
