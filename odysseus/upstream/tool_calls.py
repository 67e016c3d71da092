"""Tool calls, put together from the fragments in which a model server streams them. Pure.

By the dialect, a fragment names its call by `index`, the first one has `id` and `function.name`, and all have a bit of
`function.arguments`. Servers differ: some leave `index` out, some number every whole call 0, some repeat the name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from odysseus.errors import UpstreamError
from odysseus.upstream import Call

__all__ = ["ToolCalls"]

_MAX_CALLS = 1000
_MAX_CHARS = 1024 * 1024  # of all arguments together: nothing of them is streamed on, so no other limit sees them


@dataclass(slots=True)
class _Growing:
    index: object
    id: str
    name: str
    arguments: list[str]


class ToolCalls:
    """The calls of one turn of the model."""

    def __init__(self) -> None:
        self._calls: list[_Growing] = []
        self._chars = 0

    def add(self, fragments: object) -> None:
        """Add what `delta.tool_calls` held. Raises `UpstreamError` when it is more than anybody can mean."""
        for fragment in fragments if isinstance(fragments, list) else ():
            if isinstance(fragment, dict):
                self._add(fragment)
        if len(self._calls) > _MAX_CALLS or self._chars > _MAX_CHARS:
            raise UpstreamError("upstream_protocol", "the model called too many tools at once, or with too much")

    def take(self) -> Sequence[Call]:
        """Return the calls, now that they are whole, and forget them."""
        calls = [Call(call.id, call.name, "".join(call.arguments)) for call in self._calls]
        self._calls.clear()
        return calls

    def _add(self, fragment: dict[str, object]) -> None:
        id_, function = fragment.get("id"), fragment.get("function")
        id_ = id_ if isinstance(id_, str) else ""
        function = function if isinstance(function, dict) else {}
        name, arguments = function.get("name"), function.get("arguments")
        name = name if isinstance(name, str) else ""
        call = self._known(fragment.get("index"), id_, name)
        if call is None:
            call = _Growing(fragment.get("index"), id_, name, [])
            self._calls.append(call)
        call.id, call.name = call.id or id_, call.name or name
        if isinstance(arguments, dict):
            arguments = orjson.dumps(arguments).decode()
        if isinstance(arguments, str):
            call.arguments.append(arguments)
            self._chars += len(arguments)

    def _known(self, index: object, id_: str, name: str) -> _Growing | None:
        """Return the call that a fragment goes on with. Another id under a known index begins another call, and so
        does a name where there is neither index nor id."""
        if index is None and not id_ and name:
            return None
        for call in reversed(self._calls):
            if (index is None or call.index == index) and (not id_ or call.id in ("", id_)):
                return call
        return None
