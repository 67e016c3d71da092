"""Clients of OpenAI-compatible model servers, and the demo model that stands in for one.

What a generation needs of a model server is here; `client` asks a real one over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypedDict

from odysseus.events import UsageCount

__all__ = ["Ask", "ChatMessage", "Finish", "Piece", "Reasoning", "Text", "Tokens", "Upstream"]


class ChatMessage(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a model is asked. None means: the model server's own default."""

    model: str
    messages: Sequence[ChatMessage]
    temperature: float | None = None
    max_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    reason: str


@dataclass(frozen=True, slots=True)
class Tokens:
    usage: UsageCount


Piece = Text | Reasoning | Finish | Tokens


class Upstream(Protocol):
    """A model server."""

    def ask(self, ask: Ask) -> AsyncGenerator[Sequence[Piece], None]:
        """Ask a model; yield what each read of its answer brought, neighbours of one kind joined.

        Raises `UpstreamError` after everything that had arrived has been yielded. Closing the generator closes the
        connection before it returns, without waiting for the model.
        """
