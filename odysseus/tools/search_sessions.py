"""The tool that finds what was said in other sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

import orjson
from pydantic import Field

from odysseus.errors import StoreError
from odysseus.messages import Found
from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.functions import tool_of

__all__ = ["Search", "search_sessions_tool"]


class Search(Protocol):
    async def __call__(self, text: str, *, limit: int, owner: str, but_session: str) -> Sequence[Found]:
        """Return the messages of *owner* that hold a word of *text*, the best match first. Raises `StoreError`."""


def search_sessions_tool(search: Search) -> Tool:
    async def search_sessions(
        query: Annotated[str, Field(description="The words to look for; a message needs to hold only one of them.")],
        caller: Caller,
        limit: Annotated[int, Field(ge=1, le=20, description="At most so many messages.")] = 5,
    ) -> str:
        """Search the user's earlier conversations, and return excerpts of the best matching messages as JSON.

        Use it when the user refers to something said before that isn't in this conversation. Words are matched as they
        are written: give several likely ones, and other forms of them.
        """
        try:
            found = await search(query, limit=limit, owner=caller.owner, but_session=caller.session_id)
        except StoreError as error:
            raise ToolError("the search isn't available now") from error
        if not found:
            return "No message in another conversation holds any of these words."
        return orjson.dumps([_shown(one) for one in found], option=orjson.OPT_OMIT_MICROSECONDS).decode()

    return tool_of(search_sessions)


def _shown(found: Found) -> dict[str, object]:
    return {
        "session_id": found.session_id,
        "title": found.title,
        "role": found.role,
        "time": found.created_at,
        "excerpt": found.excerpt,
    }
