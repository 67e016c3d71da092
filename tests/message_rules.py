"""What a strict provider demands of a conversation with tools.

Source: OpenAI's API reference, "Create chat completion", and the errors its API answers with: each `tool_calls` is
followed at once by one `tool` message for each of its ids, and by nothing else before them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["BrokenRule", "check_request"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class BrokenRule(AssertionError):
    """The provider would answer 400."""


def check_request(body: Mapping[str, Any]) -> None:
    """Raise `BrokenRule` unless *body* is a request that a strict provider takes."""
    names = [_checked_tool(tool) for tool in body.get("tools", ())]
    _demand("tools" not in body or names, "tools is empty")
    _demand(len(set(names)) == len(names), f"two tools have one name: {names}")
    _check_messages(body["messages"])


def _checked_tool(tool: Any) -> str:
    _demand(tool["type"] == "function" and set(tool["function"]) <= {"name", "description", "parameters"}, tool)
    name, parameters = tool["function"]["name"], tool["function"]["parameters"]
    _demand(_NAME.fullmatch(name) and parameters["type"] == "object", tool)
    return name


def _check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    _demand(messages, "there is no message")
    owed: set[str] = set()
    for place, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            _demand(message["tool_call_id"] in owed, f"messages.{place}: a tool's message without its call")
            owed.discard(message["tool_call_id"])
            _demand(set(message) == {"role", "tool_call_id", "content"}, message)
            _demand(isinstance(message["content"], str), message)
            continue
        _demand(not owed, f"messages.{place}: calls without results: {owed}")
        _demand(role != "system" or place == 0, f"messages.{place}: system isn't first")
        if role == "assistant" and "tool_calls" in message:
            owed = _checked_calls(message["tool_calls"])
            _demand(set(message) == {"role", "content", "tool_calls"}, message)
            _demand(message["content"] is None or message["content"], message)
        else:
            _demand(role in ("system", "user", "assistant") and set(message) == {"role", "content"}, message)
            _demand(isinstance(message["content"], str) and message["content"], message)
    _demand(not owed, f"calls without results at the end: {owed}")


def _checked_calls(calls: Sequence[Mapping[str, Any]]) -> set[str]:
    _demand(calls, "tool_calls is empty")
    for call in calls:
        _demand(set(call) == {"id", "type", "function"} and call["type"] == "function", call)
        _demand(set(call["function"]) == {"name", "arguments"} and _NAME.fullmatch(call["function"]["name"]), call)
        _demand(isinstance(json.loads(call["function"]["arguments"]), dict), call)
        _demand(isinstance(call["id"], str) and 0 < len(call["id"]) <= 64, call)
    ids = {call["id"] for call in calls}
    _demand(len(ids) == len(calls), f"two calls have one id: {calls}")
    return ids


def _demand(kept: object, problem: object) -> None:
    if not kept:
        raise BrokenRule(str(problem)[:500])
