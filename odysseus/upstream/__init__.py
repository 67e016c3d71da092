"""Clients of OpenAI-compatible model servers, and the demo model that stands in for one.

What a generation needs of a model server is here; `client` asks a real one over HTTP.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, Protocol, TypedDict

from odysseus.events import UsageCount

__all__ = [
    "Ask",
    "Call",
    "ChatMessage",
    "Finish",
    "FunctionCall",
    "Offer",
    "Piece",
    "Reasoning",
    "Take",
    "Text",
    "Tokens",
    "Upstream",
]


class Function(TypedDict):
    name: str
    arguments: str
    """JSON."""


class FunctionCall(TypedDict):
    id: str
    type: Literal["function"]
    function: Function


class PlainMessage(TypedDict):
    role: Literal["system", "user"]
    content: str


class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    """None only beside calls."""
    tool_calls: NotRequired[Sequence[FunctionCall]]


class ToolMessage(TypedDict):
    role: Literal["tool"]
    tool_call_id: str
    content: str


ChatMessage = PlainMessage | AssistantMessage | ToolMessage


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool as the model is told of it. *parameters* is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What a model is asked. None means: the model server's own default."""

    model: str
    messages: Sequence[ChatMessage]
    temperature: float | None = None
    max_tokens: int | None = None
    tools: Sequence[Offer] = ()


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


@dataclass(frozen=True, slots=True)
class Call:
    """The model calls a tool. It comes when the model's turn is over and every byte of the call is there."""

    id: str
    """As the model server gave it: perhaps empty, perhaps not unique."""
    name: str
    arguments: str
    """Meant to be a JSON object; whether it is one, only the model knows."""


Piece = Text | Reasoning | Call | Finish | Tokens

Take = Callable[[Sequence[Piece]], bool]
"""Takes what a read brought, or returns False and leaves it. It must neither wait nor raise."""


class Upstream(Protocol):
    """A model server."""

    def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[Piece], None]:
        """Ask a model; yield what each read of its answer brought, neighbours of one kind joined.

        Text that comes while somebody waits for it may be offered to *take* first, which spares waking who waits: the
        better part of what a token costs. What it takes isn't yielded.
        Raises `UpstreamError` after everything that had arrived has been yielded. Closing the generator closes the
        connection before it returns, without waiting for the model.
        """
