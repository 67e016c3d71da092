"""Every error Odysseus raises on purpose, by whose fault it is.

    OdysseusError
    ├── SettingsError            the operator: a setting, the data folder, the database
    ├── RequestError             the caller asked wrongly, or too much
    │   ├── Unauthorized         nobody knows who is asking
    │   ├── Forbidden            it is known who asks, and that they may not
    │   ├── InvalidField         a value that can't be used
    │   ├── NotFound             no such thing, or not theirs
    │   ├── Busy                 the session already runs
    │   ├── StoppedBeforeStart   the stop overtook its run
    │   ├── AlreadyClaimed       a compare pane is started once
    │   ├── AlreadyDecided       a tool call is approved or denied once
    │   ├── Concealed            a pane's session is closed until the vote
    │   ├── NotBlind             only a blind compare is voted on
    │   ├── NotStarted           of a pane that nobody opened nothing can be kept
    │   ├── NotEnded             a vote comes when all is said
    │   ├── AlreadyVoted         a compare is voted on once
    │   ├── TooMany              a limit is reached: the service's, an account's, a session's, a run's
    │   ├── TooManyRequests      an account asks too often
    │   ├── Draining             the service is going down
    │   ├── RunExists            another run has the id that was asked for
    │   ├── NodeExpelled         the other nodes took this one for dead
    │   ├── NodeUnreachable      the node that has the run doesn't answer
    │   ├── LogUnreachable       the runs' logs can't be shared now, so none is started
    │   └── ModelsUnknown        no model server has said what it serves
    ├── StoreError               the database failed us
    ├── AnswerTaken              another node has ended the answer
    └── StreamFailed             a generation can't go on
        └── UpstreamError        the model server failed it

They carry data; the text is built in `__str__` for people. Statuses of HTTP belong to `odysseus.web.errors`.
"""

from __future__ import annotations

from enum import StrEnum

from odysseus.states import StopReason

__all__ = [
    "AlreadyClaimed",
    "AlreadyDecided",
    "AlreadyVoted",
    "AnswerTaken",
    "Busy",
    "Concealed",
    "Draining",
    "Forbidden",
    "InvalidField",
    "LogUnreachable",
    "ModelsUnknown",
    "NodeExpelled",
    "NodeUnreachable",
    "NotBlind",
    "NotEnded",
    "NotFound",
    "NotStarted",
    "OdysseusError",
    "RequestError",
    "RunExists",
    "SettingsError",
    "StoppedBeforeStart",
    "StoreError",
    "StreamFailed",
    "TooMany",
    "TooManyRequests",
    "Unauthorized",
    "UpstreamError",
    "Whose",
]


class OdysseusError(Exception):
    """The root of the tree."""


class SettingsError(OdysseusError):
    """The service can't start like this. *setting* names what to change, *problem* says why, in one line."""

    def __init__(self, setting: str, problem: str) -> None:
        super().__init__(setting, problem)
        self.setting, self.problem = setting, problem

    def __str__(self) -> str:
        return f"{self.setting}: {self.problem}"


class RequestError(OdysseusError):
    """What the caller asked can't be done. `code` is for programs and never changes."""

    code = "bad_request"


class Unauthorized(RequestError):
    """The request doesn't say who is asking, or can't prove it. *reason* is shown to whoever sent it."""

    code = "unauthorized"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class Forbidden(RequestError):
    """Whoever asks may not do this, whatever they show. *reason* is shown to whoever sent it."""

    code = "forbidden"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class InvalidField(RequestError):
    code = "invalid_field"

    def __init__(self, field: str | None, problem: str) -> None:
        super().__init__(field, problem)
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class NotFound(RequestError):
    """There is no such thing, or it isn't the caller's: the two must look alike."""

    code = "not_found"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"no such {self.what}"


class Busy(RequestError):
    """The session already has a live run, whose id is *run_id*."""

    code = "busy"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"the session is busy with run {self.run_id}; stop it, or send if_busy: replace or queue"


class StoppedBeforeStart(RequestError):
    code = "stopped_before_start"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"run {self.run_id} was stopped before its request arrived"


class AlreadyClaimed(RequestError):
    code = "already_claimed"

    def __str__(self) -> str:
        return "this pane has been started"


class AlreadyDecided(RequestError):
    """Somebody has decided call *call_id*, or its time is over."""

    code = "already_decided"

    def __init__(self, call_id: str) -> None:
        super().__init__(call_id)
        self.call_id = call_id

    def __str__(self) -> str:
        return f"call {self.call_id} no longer waits for approval"


class Concealed(RequestError):
    """The session belongs to a pane of a blind compare; until the vote, only that pane may run in it."""

    code = "concealed"

    def __str__(self) -> str:
        return "this session belongs to a blind compare, and can be used when that has been voted on"


class NotBlind(RequestError):
    code = "not_blind"

    def __str__(self) -> str:
        return "only a blind compare can be voted on"


class NotStarted(RequestError):
    code = "not_started"

    def __str__(self) -> str:
        return "this pane hasn't been started, so there is nothing to keep"


class NotEnded(RequestError):
    code = "not_ended"

    def __str__(self) -> str:
        return "every pane must have been started and have ended before the vote"


class AlreadyVoted(RequestError):
    code = "already_voted"

    def __str__(self) -> str:
        return "this compare has been voted on, otherwise"


class Whose(StrEnum):
    """Whose limit is reached."""

    SERVICE = "the service"
    OWNER = "your account"
    SESSION = "the session"
    RUN = "the run"


class TooMany(RequestError):
    """A limit is reached; *what* is counted, *limit* is the setting's value."""

    def __init__(self, what: str, limit: int, whose: Whose = Whose.SERVICE) -> None:
        super().__init__(what, limit, whose)
        self.what, self.limit, self.whose = what, limit, whose

    @property
    def code(self) -> str:  # type: ignore[override]  # one class for every counted thing
        return f"too_many_{self.what}"

    def __str__(self) -> str:
        return f"{self.whose} already has {self.limit} {self.what.replace('_', ' ')}; try again soon"


class TooManyRequests(RequestError):
    """The account has used up its *per_minute* requests; the next one is allowed after *retry_after_s* seconds."""

    code = "too_many_requests"

    def __init__(self, per_minute: int, retry_after_s: float) -> None:
        super().__init__(per_minute, retry_after_s)
        self.per_minute, self.retry_after_s = per_minute, retry_after_s

    def __str__(self) -> str:
        return f"your account may send {self.per_minute} requests a minute; try again when Retry-After says"


class Draining(RequestError):
    code = "draining"

    def __str__(self) -> str:
        return "the service is shutting down; try again soon"


class RunExists(RequestError):
    """Run *run_id* began somewhere between the look for it and the start of another one."""

    code = "run_exists"

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return f"run {self.run_id} has been started by another request"


class NodeExpelled(RequestError):
    code = "node_expelled"

    def __str__(self) -> str:
        return "this node was silent for too long, and is joining the others again; try again soon"


class NodeUnreachable(RequestError):
    """The node that has the run doesn't answer; *what* says what becomes of the request."""

    code = "node_unreachable"

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the node that has this run doesn't answer; {self.what}"


class LogUnreachable(RequestError):
    code = "redis_unreachable"

    def __str__(self) -> str:
        return "Redis can't be reached, and without it no run is started here; try again soon"


class ModelsUnknown(RequestError):
    code = "upstream_unreachable"

    def __str__(self) -> str:
        return "no model server could say which models it serves; try again soon"


class StoreError(OdysseusError):
    """The database failed; *problem* is for the log, not for a client."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class AnswerTaken(OdysseusError):
    """Another node has ended the answer, and what was made of it here doesn't count."""

    def __init__(self, message_id: str) -> None:
        super().__init__(message_id)
        self.message_id = message_id

    def __str__(self) -> str:
        return f"message {self.message_id} was ended by another node"


class StreamFailed(OdysseusError):
    """A generation can't go on. What came before stays. *code* and *problem* are shown to the client as they are."""

    stop_reason = StopReason.INTERNAL_ERROR

    def __init__(self, code: str, problem: str) -> None:
        super().__init__(code, problem)
        self.code, self.problem = code, problem

    def __str__(self) -> str:
        return f"{self.code}: {self.problem}"


class UpstreamError(StreamFailed):
    """The model server failed: `upstream_unreachable`, `upstream_status`, `upstream_timeout`, `upstream_protocol`."""

    stop_reason = StopReason.UPSTREAM_ERROR
