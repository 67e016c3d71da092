"""The states of a run and of its message, why a run ended, and the one table of allowed moves.

Pure values: who may ask for an ending, and what an ending costs, is decided elsewhere (`runs`, `store`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["MOVES", "Ending", "ForbiddenMove", "Status", "StopReason", "move"]


class Status(StrEnum):
    STREAMING = "streaming"
    DONE = "done"
    STOPPED = "stopped"
    ERROR = "error"
    INTERRUPTED = "interrupted"


class StopReason(StrEnum):
    USER_STOP = "user_stop"
    CLIENT_DISCONNECT = "client_disconnect"
    REPLACED = "replaced"
    IDLE_TIMEOUT = "idle_timeout"
    WALL_CLOCK_TIMEOUT = "wall_clock_timeout"
    LOG_LIMIT = "log_limit"
    UNATTENDED = "unattended"
    UPSTREAM_ERROR = "upstream_error"
    INTERNAL_ERROR = "internal_error"
    SHUTDOWN = "shutdown"
    NODE_LOST = "node_lost"


_STATUS_OF: Mapping[StopReason | None, Status] = {
    None: Status.DONE,
    StopReason.USER_STOP: Status.STOPPED,
    StopReason.CLIENT_DISCONNECT: Status.STOPPED,
    StopReason.REPLACED: Status.STOPPED,
    StopReason.IDLE_TIMEOUT: Status.STOPPED,
    StopReason.WALL_CLOCK_TIMEOUT: Status.STOPPED,
    StopReason.LOG_LIMIT: Status.STOPPED,
    StopReason.UNATTENDED: Status.STOPPED,
    StopReason.UPSTREAM_ERROR: Status.ERROR,
    StopReason.INTERNAL_ERROR: Status.ERROR,
    StopReason.SHUTDOWN: Status.INTERRUPTED,
    StopReason.NODE_LOST: Status.INTERRUPTED,
}

MOVES: Mapping[Status, frozenset[Status]] = {
    Status.STREAMING: frozenset(_STATUS_OF.values()),
    Status.DONE: frozenset(),
    Status.STOPPED: frozenset(),
    Status.ERROR: frozenset(),
    Status.INTERRUPTED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. The status follows from the reason, so the two can't contradict each other."""

    stop_reason: StopReason | None = None

    @property
    def status(self) -> Status:
        return _STATUS_OF[self.stop_reason]


class ForbiddenMove(Exception):
    """A run that has ended was asked to end again: always a bug of ours."""

    def __init__(self, current: Status, to: Status) -> None:
        super().__init__(current, to)
        self.current, self.to = current, to

    def __str__(self) -> str:
        return f"{self.current} -> {self.to}"


def move(current: Status, to: Status) -> Status:
    """Return *to*; raises `ForbiddenMove` when `MOVES` doesn't have the step. Every change goes through here."""
    if to not in MOVES[current]:
        raise ForbiddenMove(current, to)
    return to
