"""A tool made of a function: its schema, its description, and what becomes of a model's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.functions import tool_of

CALLER = Caller("session-1", "ann")


async def greet(
    name: Annotated[str, Field(description="whom", max_length=10)],
    times: int = 1,
    tone: Literal["warm", "cool"] = "warm",
) -> str:
    """Greet somebody.

    Use it at the beginning.
    """
    return f"{tone}: " + " ".join([f"hello {name}"] * times)


async def whose(caller: Caller, title: str = "session") -> str:
    """Tell whose session it is."""
    return f"{title} {caller.session_id}"


class Counter:
    def __init__(self) -> None:
        self.count = 0

    async def add(self, amounts: list[int]) -> str:
        """Add to the count."""
        self.count += sum(amounts)
        return str(self.count)


async def nothing() -> str:
    return "done"


def test_the_schema_is_of_the_types() -> None:
    tool = tool_of(greet)
    assert (tool.name, tool.source, tool.needs_approval) == ("greet", "built-in", False)
    assert tool.description == "Greet somebody.\n\nUse it at the beginning."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "whom", "maxLength": 10},
            "times": {"type": "integer", "default": 1},
            "tone": {"type": "string", "enum": ["warm", "cool"], "default": "warm"},
        },
        "required": ["name"],
        "additionalProperties": False,
    }


def test_a_function_of_nothing_has_an_empty_object() -> None:
    tool = tool_of(nothing, needs_approval=True)
    assert tool.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert (tool.description, tool.needs_approval) == ("", True)


@pytest.mark.parametrize(
    ("tool", "arguments", "result"),
    [
        (tool_of(greet), {"name": "Ann"}, "warm: hello Ann"),
        (tool_of(greet), {"name": "Ann", "times": 2, "tone": "cool"}, "cool: hello Ann hello Ann"),
        (tool_of(greet), {"name": "Ann", "times": "2"}, "warm: hello Ann hello Ann"),
        (tool_of(greet), MappingProxyType({"name": "Ann"}), "warm: hello Ann"),
        (tool_of(nothing), {}, "done"),
        (tool_of(Counter().add), {"amounts": [1, 2]}, "3"),
    ],
)
async def test_arguments_are_given_as_their_types(tool: Tool, arguments: Mapping[str, Any], result: str) -> None:
    assert await tool.call(arguments, CALLER) == result


async def test_the_caller_is_filled_in_and_the_model_knows_nothing_of_it() -> None:
    tool = tool_of(whose)
    assert tool.parameters["properties"] == {"title": {"type": "string", "default": "session"}}
    assert await tool.call({}, CALLER) == "session session-1"
    with pytest.raises(ToolError, match="caller: Extra inputs are not permitted"):
        await tool.call({"caller": {"session_id": "session-2"}}, CALLER)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "name: Field required"),
        ({"name": None}, "name: Input should be a valid string"),
        ({"name": "Bartholomew"}, "name: String should have at most 10 characters"),
        ({"name": "Ann", "times": "twice"}, "times: Input should be a valid integer"),
        ({"name": "Ann", "tone": "rude"}, "tone: Input should be 'warm' or 'cool'"),
        ({"name": "Ann", "age": 3}, "age: Extra inputs are not permitted"),
        ({"times": 0.5, "tone": 1}, "times: .*; tone: "),
        (["Ann"], "arguments: Input should be a valid dictionary"),
    ],
)
async def test_arguments_that_dont_fit_are_told_by_name(arguments: Any, problem: str) -> None:
    with pytest.raises(ToolError, match=f"^the arguments don't fit: .*{problem}"):
        await tool_of(greet).call(arguments, CALLER)
