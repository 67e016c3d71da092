"""An answer while it grows: its parts in the order they came. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from odysseus.events import Part, TextKind, ToolCall, ToolCallPart, ToolResult

__all__ = ["Answer", "stopped_results", "with_stopped_results"]


_PIECES = 64


class _Growing:
    """A part of text. Pieces are joined by the dozen, and those when somebody looks: adding stays linear in a long
    answer, and small pieces don't cost an object each."""

    __slots__ = ("_joined", "_pieces", "kind")

    def __init__(self, kind: TextKind) -> None:
        self.kind = kind
        self._joined: list[str] = []
        self._pieces: list[str] = []

    def add(self, text: str) -> None:
        self._pieces.append(text)
        if len(self._pieces) == _PIECES:
            self._joined.append("".join(self._pieces))
            self._pieces.clear()

    @property
    def text(self) -> str:
        return "".join((*self._joined, *self._pieces))


class Answer:
    """Collects text, reasoning, tool calls and their results."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[_Growing | ToolCall | ToolResult] = []

    def add(self, kind: TextKind, text: str) -> None:
        """Append *text*: to the last part if that is of the same kind, else as a new part."""
        last = self._parts[-1] if self._parts else None
        if not isinstance(last, _Growing) or last.kind != kind:
            last = _Growing(kind)
            self._parts.append(last)
        last.add(text)

    def add_tool(self, event: ToolCall | ToolResult) -> None:
        self._parts.append(event)

    def parts(self) -> list[Part]:
        return [_part(part) for part in self._parts]

    @property
    def content(self) -> str:
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        return self._joined("reasoning")

    def _joined(self, wanted: TextKind) -> str:
        return "".join(part.text for part in self._parts if isinstance(part, _Growing) and part.kind == wanted)


def stopped_results(parts: Iterable[Part]) -> Sequence[ToolResult]:
    """Return the results that *parts* lack, for an answer that ends while tools are at work.

    A provider refuses a conversation in which a call has no result, so that the session could never go on.
    """
    calls: dict[str, ToolCallPart] = {}
    for part in parts:
        if part["type"] == "tool_call":
            calls[part["call_id"]] = part
        elif part["type"] == "tool_result":
            calls.pop(part["call_id"], None)
    return [
        ToolResult(call_id, call["name"], "stopped", is_error=True, duration_ms=None) for call_id, call in calls.items()
    ]


def with_stopped_results(parts: Sequence[Part]) -> list[Part]:
    return [*parts, *(_part(result) for result in stopped_results(parts))]


def _part(part: _Growing | ToolCall | ToolResult) -> Part:
    match part:
        case _Growing():
            return {"type": part.kind, "text": part.text}
        case ToolCall():
            return {"type": "tool_call", "call_id": part.call_id, "name": part.name, "arguments": part.arguments}
        case ToolResult():
            return {
                "type": "tool_result",
                "call_id": part.call_id,
                "name": part.name,
                "output": part.output,
                "is_error": part.is_error,
                "duration_ms": part.duration_ms,
            }
