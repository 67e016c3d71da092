"""Models behind labels: what a pane of a blind compare asks, and what of the answer would tell which model gave it.

The label is the turn's model: it is what is stored, streamed and told, so that no place where a model is named has to
know that there are names to keep. The name itself goes to the model server, and to logs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import NamedTuple

from odysseus.errors import Concealed, InvalidField
from odysseus.messages import Session, label_of, new_id
from odysseus.upstream import Ask, Call, Finish, Piece, Take, Upstream
from odysseus.upstream.catalog import Catalog

__all__ = ["Chosen", "Unsigned", "choose"]

_REASONS = frozenset({"stop", "length", "tool_calls", "function_call", "content_filter"})


class Chosen(NamedTuple):
    """What a turn asks: see `Turn.model` and `Turn.asks`."""

    model: str
    asks: str | None
    upstream: Upstream


async def choose(
    catalog: Catalog, session: Session | None, model: str | None, claims: tuple[str, int] | None
) -> Chosen:
    """Return what a turn in *session* (None: a new one) asks if *model* is named for it; *claims* is the pane it takes.

    Raises `Concealed` for anything but its pane in a concealed session, and what `Catalog.find` raises.
    """
    if session is None or not session.concealed:
        found, upstream = await catalog.find(model or (None if session is None else session.model))
        return Chosen(found, None, upstream)
    if claims is None:
        raise Concealed
    try:
        found, upstream = await catalog.find(model)
    except InvalidField:  # its words have the name
        raise InvalidField("model", "the pane's model is no longer served") from None
    return Chosen(label_of(claims[1]), found, Unsigned(upstream))


class Unsigned:
    """A model server without the words of its own by which it could be known: those that no model has said."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[Piece], None]:
        """See `odysseus.upstream.Upstream.ask`."""
        async with aclosing(self._upstream.ask(ask, take)) as reads:
            async for pieces in reads:
                yield [_unsigned(piece) for piece in pieces]


def _unsigned(piece: Piece) -> Piece:
    match piece:
        case Finish(reason) if reason not in _REASONS:
            return Finish("other")
        case Call():  # their ids look different with every provider
            return replace(piece, id=new_id("call"))
    return piece
