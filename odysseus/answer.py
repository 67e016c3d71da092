"""An answer while it grows: its parts in the order they came. Pure."""

from __future__ import annotations

from odysseus.events import Part, PartKind

__all__ = ["Answer"]


class Answer:
    """Collects text and reasoning. Pieces are joined when somebody looks, so adding stays linear in a long answer."""

    __slots__ = ("_parts", "size")

    def __init__(self) -> None:
        self._parts: list[tuple[PartKind, list[str]]] = []
        self.size = 0
        """Characters of text and reasoning together."""

    def add(self, kind: PartKind, text: str) -> None:
        """Append *text*: to the last part if that is of the same kind, else as a new part."""
        if not self._parts or self._parts[-1][0] != kind:
            self._parts.append((kind, []))
        self._parts[-1][1].append(text)
        self.size += len(text)

    def parts(self) -> list[Part]:
        return [{"type": kind, "text": "".join(pieces)} for kind, pieces in self._parts]

    @property
    def content(self) -> str:
        return self._joined("text")

    @property
    def reasoning(self) -> str:
        return self._joined("reasoning")

    def _joined(self, wanted: PartKind) -> str:
        return "".join(piece for kind, pieces in self._parts if kind == wanted for piece in pieces)
