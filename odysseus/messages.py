"""What is stored: sessions, their messages, compares. Plain values, shared by the store and those who use it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from odysseus.events import Part, Timings, UsageCount
from odysseus.states import Status, StopReason

__all__ = [
    "Admit",
    "Ahead",
    "Compare",
    "CompareHead",
    "Final",
    "Found",
    "Message",
    "Mode",
    "Pane",
    "Role",
    "Session",
    "Turn",
    "Vote",
    "label_of",
    "new_id",
    "now",
]


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class Mode(StrEnum):
    CHAT = "chat"
    AGENT = "agent"


def new_id(kind: str) -> str:
    """Return a new id such as `ses_5f0c..`; *kind* tells a reader of logs what it names."""
    return f"{kind}_{secrets.token_hex(12)}"


def label_of(pane: int) -> str:
    """Return what stands for a pane's model where it isn't told: A, B, ..; there are no more than 8."""
    return chr(ord("A") + pane)


def now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    id: str
    owner: str
    """Whose it is, as accounts name them; empty where there are none."""
    title: str | None
    model: str | None
    system: str | None
    created_at: datetime
    updated_at: datetime
    compare_id: str | None = None
    """Set for the session of a compare pane: it isn't listed among the chats."""
    concealed: bool = False
    """Until the vote, for a pane of a blind compare: `model` is the pane's label, and only the pane may run here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    id: str
    session_id: str
    role: Role
    content: str
    reasoning: str
    parts: list[Part]
    status: Status
    created_at: datetime
    # The rest belongs to answers; a user's message has none of it.
    stop_reason: StopReason | None = None
    model: str | None = None
    run_id: str | None = None
    mode: Mode | None = None
    detached: bool | None = None
    finish_reason: str | None = None
    usage: UsageCount | None = None
    timings: Timings | None = None
    events: int | None = None
    """How many events the run gave out; None while it streams, and for good if its process died."""
    ended_at: datetime | None = None
    node: str | None = None
    """Whose process runs it, or ran it; None where there is one node."""


class Ahead(NamedTuple):
    """A live run of another node that a session has before a new one."""

    run_id: str
    node: str


Admit = Callable[[Sequence[Ahead]], None]
"""Is told of the session's live runs on other nodes; what it raises refuses the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A user's message and the answer to be made: what one request adds to a session."""

    session_id: str
    message_id: str
    run_id: str
    owner: str
    text: str
    model: str
    mode: Mode
    detached: bool
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    new_session: bool = False
    """The session is made together with the turn."""
    claims: tuple[str, int] | None = None
    """The compare pane (compare id, number) that this turn takes; it can be taken once."""
    asks: str | None = None
    """Where `model` is the label of a blind pane: the model's name."""

    @property
    def asked(self) -> str:
        """The model that is asked. For model servers, logs and the operator; clients are told `model`."""
        return self.asks or self.model


@dataclass(frozen=True, slots=True, kw_only=True)
class Final:
    """An answer as it ended: what the one write that ends a message holds, also when it waits in the spool."""

    message_id: str
    status: Status
    stop_reason: StopReason | None
    content: str
    reasoning: str
    parts: list[Part]
    finish_reason: str | None
    usage: UsageCount | None
    timings: Timings | None
    events: int | None
    """None if nobody knows how many the run gave out: its process died."""
    ended_at: datetime
    ledger: Sequence[Mapping[str, Any]] | None = None
    """The run's entries up to this save, which writes itself down as the last one; see `odysseus.ledger`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pane:
    number: int
    session_id: str
    model: str
    claimed: bool

    @property
    def label(self) -> str:
        return label_of(self.number)


@dataclass(frozen=True, slots=True)
class Vote:
    winner: int | None
    """A pane's number; None for a tie."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareHead:
    """A compare as a list has it."""

    id: str
    prompt: str
    blind: bool
    vote: Vote | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare:
    id: str
    owner: str
    prompt: str
    mode: Mode
    created_at: datetime
    panes: Sequence[Pane]
    blind: bool = False
    vote: Vote | None = None

    @property
    def revealed(self) -> bool:
        """Whether its owner may know which model is which."""
        return not self.blind or self.vote is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A message that a search found, and where it stands."""

    session_id: str
    title: str | None
    role: Role
    created_at: datetime
    excerpt: str
