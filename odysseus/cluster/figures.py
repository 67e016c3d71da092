"""What can be counted of a node among others."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["Figures"]


class Figures(NamedTuple):
    """What an operator may want to know; the defaults are true of a node without others."""

    reached: bool | None = None
    """Redis answers; None where there is none."""
    nodes: int = 1
    behind: int = 0
    """Runs of this node that wait to be written to Redis."""
    followed: int = 0
    """Runs of other nodes that are followed here."""
    errors: Mapping[str, int] = MappingProxyType({"write": 0, "read": 0, "letter": 0})
    """What Redis failed, since the start."""
