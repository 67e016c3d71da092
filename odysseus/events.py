"""What a stream says: the events of a run, and the encoder that numbers them.

What each field means to a client stands in the README, "Frames"; `odysseus.web.openapi` describes these very classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from typing_extensions import TypedDict  # pydantic reads only this one before Python 3.12

from odysseus import sse
from odysseus.replay import END, SNAPSHOT, event_id
from odysseus.states import Status, StopReason

__all__ = [
    "ApprovalRequest",
    "Delta",
    "Ended",
    "Error",
    "Frames",
    "Part",
    "Reasoning",
    "Snapshot",
    "Started",
    "StreamEvent",
    "TextKind",
    "TextPart",
    "Timings",
    "ToolCall",
    "ToolCallPart",
    "ToolResult",
    "ToolResultPart",
    "Usage",
    "UsageCount",
    "last_frame_of_lost",
    "snapshot_frames",
]

_DONE = sse.encode(b"[DONE]")


TextKind = Literal["text", "reasoning"]


class TextPart(TypedDict):
    type: TextKind
    text: str


class ToolCallPart(TypedDict):
    type: Literal["tool_call"]
    call_id: str
    name: str
    arguments: Mapping[str, Any]


class ToolResultPart(TypedDict):
    type: Literal["tool_result"]
    call_id: str
    name: str
    output: str
    is_error: bool
    duration_ms: float | None


Part = TextPart | ToolCallPart | ToolResultPart
"""One piece of a message, in the order it was streamed."""


class UsageCount(TypedDict):
    """Tokens, as the model server counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Timings(TypedDict):
    """Milliseconds since the model was asked: to its first text or reasoning (null without any), and to the end."""

    ttft_ms: float | None
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Started:
    type: Literal["started"] = field(default="started", init=False)
    run_id: str
    session_id: str
    message_id: str
    mode: str
    model: str
    detached: bool


@dataclass(frozen=True, slots=True)
class Delta:
    type: Literal["delta"] = field(default="delta", init=False)
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    type: Literal["reasoning"] = field(default="reasoning", init=False)
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model calls a tool; its `tool_result` follows, however the run ends."""

    type: Literal["tool_call"] = field(default="tool_call", init=False)
    call_id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave. `duration_ms` counts from the tool's start; null if it never ran to its end."""

    type: Literal["tool_result"] = field(default="tool_result", init=False)
    call_id: str
    name: str
    output: str
    is_error: bool
    duration_ms: float | None


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """The call waits for somebody's decision: `POST /api/chat/approve/{session_id}`."""

    type: Literal["approval_request"] = field(default="approval_request", init=False)
    call_id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    type: Literal["usage"] = field(default="usage", init=False)
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole message so far, where the frames themselves are gone."""

    type: Literal["snapshot"] = field(default="snapshot", init=False)
    content: str
    reasoning: str
    parts: list[Part]
    status: Status


@dataclass(frozen=True, slots=True)
class Error:
    type: Literal["error"] = field(default="error", init=False)
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of every stream; it comes after the commit."""

    type: Literal["ended"] = field(default="ended", init=False)
    status: Status
    stop_reason: StopReason | None
    message_id: str
    finish_reason: str | None
    usage: UsageCount | None
    timings: Timings | None


StreamEvent = Started | Delta | Reasoning | ToolCall | ToolResult | ApprovalRequest | Usage | Snapshot | Error | Ended


class Frames:
    """Encodes the events of one run, each once, and numbers them as the run's log will."""

    __slots__ = ("_head", "count")

    def __init__(self, run_id: str) -> None:
        self._head = f"id: {event_id(run_id, '')}".encode()
        self.count = 0
        """How many events have been numbered so far."""

    def encode(self, event: StreamEvent) -> bytes:
        frame = b"%b%d\ndata: %b\n\n" % (self._head, self.count, orjson.dumps(event))  # JSON has no line ends
        self.count += 1
        return frame

    def encode_last(self, event: Ended) -> bytes:
        """Return the run's last frame: *event*, and the `[DONE]` that has no number of its own."""
        return self.encode(event) + _DONE


def last_frame_of_lost(run_id: str, ended: Ended) -> bytes:
    """Return the last frame of a run that ends without the one who numbered its frames: he may have given out more
    numbers than anybody else knows of."""
    return sse.encode(orjson.dumps(ended), event_id(run_id, END)) + _DONE


def snapshot_frames(run_id: str, snapshot: Snapshot, ended: Ended) -> bytes:
    """Return the stream that stands in for a run whose frames are gone."""
    return sse.encode(orjson.dumps(snapshot), event_id(run_id, SNAPSHOT)) + last_frame_of_lost(run_id, ended)
