"""What of a model server's answer would tell who gave it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest

from odysseus.concealed import Unsigned
from odysseus.errors import UpstreamError
from odysseus.upstream import Ask, Call, Finish, Piece, Reasoning, Take, Text, Tokens

ASK = Ask(model="secret", messages=[])


class Signing:
    """Answers with *reads*, then fails if it is to."""

    def __init__(self, reads: Sequence[Sequence[Piece]], error: UpstreamError | None = None) -> None:
        self.asked: list[Ask] = []
        self.closed = False
        self._reads, self._error = reads, error

    async def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[Piece], None]:
        self.asked.append(ask)
        try:
            for pieces in self._reads:
                if take is None or not take(pieces):
                    yield pieces
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


async def test_what_the_model_says_stays() -> None:
    tokens = Tokens({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    said = [[Text("I am secret"), Reasoning("Hm")], [tokens], [Finish("stop")]]
    server = Signing(said)
    assert [pieces async for pieces in Unsigned(server).ask(ASK)] == said
    assert server.asked == [ASK]


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "function_call", "content_filter"])
async def test_reasons_that_everybody_gives_stay(reason: str) -> None:
    assert [it async for it in Unsigned(Signing([[Finish(reason)]])).ask(ASK)] == [[Finish(reason)]]


@pytest.mark.parametrize("reason", ["end_turn", "secret-stop", "", "STOP", "eos"])
async def test_a_reason_of_its_own_is_hidden(reason: str) -> None:
    assert [it async for it in Unsigned(Signing([[Finish(reason)]])).ask(ASK)] == [[Finish("other")]]


async def test_ids_of_calls_are_ours() -> None:
    calls = [Call("toolu_secret", "f", "{}"), Call("toolu_secret", "g", "{}")]
    [[one, other]] = [pieces async for pieces in Unsigned(Signing([calls])).ask(ASK)]
    assert isinstance(one, Call) and isinstance(other, Call)
    assert (one.name, other.name) == ("f", "g")
    assert one.id.startswith("call_") and other.id.startswith("call_") and one.id != other.id


async def test_what_is_taken_at_once_passes() -> None:
    taken: list[Sequence[Piece]] = []

    def take(pieces: Sequence[Piece]) -> bool:
        taken.append(pieces)
        return len(taken) == 1

    said = [[Text("a")], [Text("b")]]
    assert [it async for it in Unsigned(Signing(said)).ask(ASK, take)] == [[Text("b")]]
    assert taken == said


async def test_closing_it_closes_the_server() -> None:
    server = Signing([[Text("a")], [Text("b")]])
    async with aclosing(Unsigned(server).ask(ASK)) as reads:
        await anext(reads)
    assert server.closed


async def test_an_error_comes_through() -> None:
    with pytest.raises(UpstreamError):
        [it async for it in Unsigned(Signing([], UpstreamError("upstream_status", "x"))).ask(ASK)]
