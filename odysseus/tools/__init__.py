"""Tools: what a model may call while it answers in agent mode.

A tool takes an object of arguments and returns text. Here is what it is; `functions` makes one of a typed function,
`mcp` finds them at MCP servers, and `toolbox` holds those that are there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Caller", "Tool", "ToolError"]


class ToolError(Exception):
    """A call failed. The text is for the model, which may correct itself, and for whoever watches."""


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a tool is called."""

    session_id: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    name: str
    """What the model calls it: 1 to 64 of `A-Za-z0-9_-`, as OpenAI's API demands."""
    description: str
    parameters: Mapping[str, Any]
    """The JSON schema of its arguments, of type `object`."""
    source: str
    """`built-in`, or the name of the MCP server that has it."""
    needs_approval: bool = False
    call: Callable[[Mapping[str, Any], Caller], Awaitable[str]]
    """Raises `ToolError`, also for arguments that don't fit. Cancelling it ends its work."""
