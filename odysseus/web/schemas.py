"""The shapes of requests and answers. They check what comes in, and `openapi` describes them to programs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from odysseus.approvals import Decision
from odysseus.events import Part, Timings, UsageCount
from odysseus.ledger import Event
from odysseus.messages import Mode, Role
from odysseus.run import IfBusy
from odysseus.states import Status, StopReason

__all__ = [
    "Accepted",
    "ApproveRequest",
    "Approved",
    "AuditOut",
    "ChatRequest",
    "CompareAccepted",
    "CompareHeadOut",
    "CompareOut",
    "CompareRequest",
    "ComparesOut",
    "ErrorOut",
    "Health",
    "Leaderboard",
    "LoginOut",
    "LoginRequest",
    "MessageOut",
    "Models",
    "PaneNew",
    "PaneOut",
    "PaneVoted",
    "RatingOut",
    "Readiness",
    "SessionChange",
    "SessionNew",
    "SessionOut",
    "SessionWithMessages",
    "Sessions",
    "ShareOut",
    "ShareRequest",
    "StopOut",
    "StreamStatusOut",
    "ToolOut",
    "ToolServerOut",
    "Tools",
    "VoteOut",
    "VoteRequest",
]


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character can't be stored")
    return text


Plain = AfterValidator(_storable)
Prompt = Annotated[str, Field(min_length=1, max_length=200_000), Plain]
System = Annotated[str, Field(max_length=200_000), Plain]
Title = Annotated[str, Field(max_length=200), Plain]
ModelId = Annotated[str, Field(min_length=1, max_length=200), Plain]
RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=100), Plain]
Reason = Annotated[str, Field(min_length=1, max_length=2000), Plain]
SessionId = Annotated[str, Field(min_length=1, max_length=100), Plain]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ChatRequest(_In):
    message: Prompt
    session_id: SessionId | None = Field(None, description="an existing session; without it a new one is made")
    model: ModelId | None = Field(None, description="one of `/api/models`; default: the session's, then the service's")
    mode: Annotated[Mode, Field(strict=False)] = Mode.CHAT
    compare_mode: bool = Field(False, description="true: streamed directly; closing the stream stops the model")
    system: System | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, ge=1)
    if_busy: Annotated[IfBusy, Field(strict=False)] = IfBusy.REJECT
    run_id: RunId | None = Field(None, description="the client's own id: a retried request joins the run that has it")


class ApproveRequest(_In):
    call_id: CallId
    decision: Annotated[Decision, Field(strict=False)]
    reason: Reason | None = Field(None, description="what the model is told about a denial")


class ShareRequest(_In):
    run_id: RunId | None = Field(None, description="default: the session's latest run")
    expires_in_s: int = Field(24 * 3600, ge=1, le=30 * 24 * 3600)


class LoginRequest(_In):
    token: str = Field(min_length=1, max_length=8192)


class CompareRequest(_In):
    message: Prompt
    models: list[ModelId] = Field(min_length=2, max_length=8)
    mode: Annotated[Mode, Field(strict=False)] = Mode.CHAT
    system: System | None = None
    blind: bool = Field(False, description="true: shuffled, and which model is which isn't told before the vote")


class VoteRequest(_In):
    winner: Annotated[int, Field(ge=0)] | Literal["tie"] = Field(description="the number of the pane that won, from 0")


class SessionNew(_In):
    title: Title | None = None
    model: ModelId | None = None
    system: System | None = None


class SessionChange(SessionNew):
    """Fields that aren't sent stay as they are; null unsets."""


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Problem(_Out):
    code: str
    message: str
    field: str | None = Field(None, description="only for a bad field")
    run_id: str | None = Field(None, description="only for `busy`: the run that is live")


class ErrorOut(_Out):
    error: Problem


class Accepted(_Out):
    run_id: str
    session_id: str
    message_id: str
    stream: str = Field(description="the path an EventSource opens")


class StopOut(_Out):
    stopped: bool
    run_id: str | None = None
    status: Status | None = None
    message_id: str | None = None
    chars: int | None = Field(None, description="characters of the answer's text alone")
    upstream_closed_ms: float | None = Field(None, description="from the stop to the closing of the model's connection")


class ShareOut(BaseModel):
    run_id: str
    stream: str = Field(description="the path that an EventSource opens")
    expires_at: datetime


class LoginOut(BaseModel):
    owner: str
    expires_at: datetime | None


class Approved(_Out):
    call_id: str
    decision: Decision


class WaitingCall(_Out):
    call_id: str
    name: str
    arguments: dict[str, Any]


class StreamStatusOut(_Out):
    run_id: str
    status: Status
    stop_reason: StopReason | None
    detached: bool
    mode: Mode
    model: str
    events: int | None
    last_event_id: str | None
    subscribers: int
    approvals: list[WaitingCall] = Field(description="tool calls that wait for `POST /api/chat/approve/{session_id}`")
    started_at: datetime
    ended_at: datetime | None


class AuditEntry(_Out):
    at: datetime
    event: Event
    subscriber: int | None = Field(None, description="of `subscriber_joined` and `_left`: a number of its own")
    count: int | None = Field(None, description="of `subscribers_omitted`: how many entries it stands for")
    by: str | None = Field(None, description="of `stop_asked`: `user`, or the `stop_reason` it led to")
    owner: str | None = Field(None, description="of `stop_asked`: whose request it was, where there are accounts")
    to: Literal["store", "spool"] | None = Field(None, description="of `saved`; from the spool the store gets it later")
    attempts: int | None = Field(None, description="of `saved`: on the store")
    status: Status | None = Field(None, description="of `ended`")
    stop_reason: StopReason | None = Field(None, description="of `ended`")


class AuditOut(_Out):
    run_id: str
    session_id: str
    model: str
    detached: bool
    status: Status
    stop_reason: StopReason | None
    entries: list[AuditEntry] = Field(description="oldest first")


class SessionOut(_Out):
    id: str
    title: str | None
    model: str | None
    system: str | None
    created_at: datetime
    updated_at: datetime
    active_run: str | None = None


class Sessions(_Out):
    sessions: list[SessionOut]


class MessageOut(_Out):
    id: str
    role: Role
    content: str
    reasoning: str
    parts: list[Part]
    status: Status
    stop_reason: StopReason | None
    model: str | None
    run_id: str | None
    usage: UsageCount | None
    timings: Timings | None
    created_at: datetime
    html: str | None = Field(None, description="an ended answer's `content`, rendered and sanitised; else null")


class SessionWithMessages(SessionOut):
    messages: list[MessageOut]


class PaneNew(_Out):
    session_id: str
    model: str | None = Field(description="null in a blind compare")
    label: str
    stream: str = Field(description="the path an EventSource opens; the first GET starts the model")


class CompareAccepted(_Out):
    compare_id: str
    panes: list[PaneNew]


class PaneOut(_Out):
    session_id: str
    run_id: str | None = Field(description="null while nobody has started the pane")
    model: str | None = Field(description="null in a blind compare before the vote")
    label: str
    status: Status | None = Field(description="null while nobody has started the pane")
    stop_reason: StopReason | None
    text: str
    html: str | None = Field(description="an ended answer's `text`, rendered and sanitised; else null")
    usage: UsageCount | None
    timings: Timings | None
    kept: bool = Field(description="whether it is a chat by now")


Winner = Annotated[int | Literal["tie"] | None, Field(description="null before the vote; else a pane's number, or tie")]


class CompareOut(_Out):
    compare_id: str
    prompt: str
    blind: bool
    revealed: bool = Field(
        description="whether the panes' models are told: always, unless it is blind; then by the vote"
    )
    winner: Winner
    panes: list[PaneOut]


class CompareHeadOut(_Out):
    compare_id: str
    prompt: str
    blind: bool
    winner: Winner
    created_at: datetime


class ComparesOut(_Out):
    compares: list[CompareHeadOut]


class PaneVoted(_Out):
    pane: int
    label: str
    model: str


class KeepOut(_Out):
    session_id: str
    run_id: str
    status: Status
    stream: str
    """The path an `EventSource` opens to go on with it."""


class VoteOut(_Out):
    compare_id: str
    winner: int | Literal["tie"]
    panes: list[PaneVoted]


class RatingOut(_Out):
    model: str
    games: int
    wins: int
    losses: int
    ties: int
    rating: float = Field(description="1000 is the middle; 400 more are ten wins for each loss")
    low: float = Field(description="the ends of the 95 % confidence interval")
    high: float


class Leaderboard(_Out):
    votes: int
    models: list[RatingOut] = Field(description="the best first")


class ModelOut(_Out):
    id: str
    upstream: str
    default: bool


class Models(_Out):
    models: list[ModelOut]


class ToolOut(_Out):
    name: str
    description: str
    parameters: dict[str, Any] = Field(description="the JSON schema of its arguments")
    source: str = Field(description="`built-in`, or an MCP server's name")
    needs_approval: bool


class ToolServerOut(_Out):
    name: str
    transport: Literal["stdio", "http"]
    state: Literal["starting", "ready", "failed"]
    problem: str | None


class Tools(_Out):
    tools: list[ToolOut]
    servers: list[ToolServerOut] = Field(description="the MCP servers; one that failed is tried again")


class Health(_Out):
    status: Literal["ok"]


class Readiness(_Out):
    ready: bool
    store: bool = Field(description="the database answers")
    engine: bool = Field(description="one more run would be accepted")
    redis: bool | None = Field(
        description="Redis answers; null without one. Away, it makes no node less ready: all others lack it, too"
    )
    draining: bool
