"""The tool over a search of its own: what it asks for, what it says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from odysseus.errors import StoreError
from odysseus.messages import Found, Role
from odysseus.tools import Caller, ToolError
from odysseus.tools.search_sessions import search_sessions_tool

FOUND = Found(
    session_id="ses_1",
    title=None,
    role=Role.ASSISTANT,
    created_at=datetime(2025, 2, 28, 23, 59, 59, 123456, tzinfo=UTC),
    excerpt='…"brown" pélicans…',
)


class FakeSearch:
    def __init__(self, *found: Found, error: Exception | None = None) -> None:
        self.asked: list[tuple[str, int, str, str]] = []
        self._found = found
        self._error = error

    async def __call__(self, text: str, *, limit: int, owner: str, but_session: str) -> Sequence[Found]:
        self.asked.append((text, limit, owner, but_session))
        if self._error is not None:
            raise self._error
        return self._found


async def called(search: FakeSearch, **arguments: Any) -> str:
    return await search_sessions_tool(search).call(arguments, Caller("ses_9", "ann"))


def test_what_the_model_is_told() -> None:
    tool = search_sessions_tool(FakeSearch())
    assert (tool.name, tool.source, tool.needs_approval) == ("search_sessions", "built-in", False)
    assert tool.description.startswith("Search the user's earlier conversations")
    properties: Mapping[str, Any] = tool.parameters["properties"]
    assert list(properties) == ["query", "limit"]
    assert tool.parameters["required"] == ["query"]
    assert [properties["limit"][name] for name in ("default", "minimum", "maximum")] == [5, 1, 20]


async def test_what_was_found() -> None:
    search = FakeSearch(FOUND, FOUND)
    text = await called(search, query="brown pelicans")
    assert search.asked == [("brown pelicans", 5, "ann", "ses_9")], "among the caller's own, without this session"
    assert (
        json.loads(text)
        == [
            {
                "session_id": "ses_1",
                "title": None,
                "role": "assistant",
                "time": "2025-02-28T23:59:59+00:00",
                "excerpt": '…"brown" pélicans…',
            }
        ]
        * 2
    )
    assert ": " not in text and "pélicans" in text, "every character of it is paid for"


async def test_nothing_was_found() -> None:
    assert await called(FakeSearch(), query="x", limit=20) == (
        "No message in another conversation holds any of these words."
    )


@pytest.mark.parametrize(
    "arguments",
    [{}, {"query": 5}, {"query": "x", "limit": 0}, {"query": "x", "limit": 21}, {"query": "x", "caller": "ses_1"}],
)
async def test_arguments_that_do_not_fit(arguments: dict[str, Any]) -> None:
    search = FakeSearch(FOUND)
    with pytest.raises(ToolError, match="don't fit"):
        await called(search, **arguments)
    assert search.asked == []


async def test_a_database_that_fails() -> None:
    with pytest.raises(ToolError, match=r"^the search isn't available now$"):
        await called(FakeSearch(error=StoreError("no route to 10.0.0.1")), query="x")
