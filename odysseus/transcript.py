"""What a run's events say to somebody at a terminal, and which of them are new to it.

Pure: fed with events, it returns what is to be shown. `terminal` shows it, `chat_client` brings the events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum, auto
from typing import Any, NamedTuple

import orjson

from odysseus.replay import SNAPSHOT, event_id
from odysseus.sse import Event

__all__ = ["Answered", "Approval", "Ending", "Kind", "Output", "Show", "Transcript", "clean", "one_line"]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_MAX_LINE = 160  # of a tool's arguments or output
_DONE = b"[DONE]"


class Kind(Enum):
    TEXT = auto()
    REASONING = auto()
    NOTE = auto()
    """A line about what happens beside the answer."""
    PROBLEM = auto()


class Show(NamedTuple):
    kind: Kind
    text: str


class Approval(NamedTuple):
    """The run waits for a decision on this call. `question` has the whole call: who decides must see all of it."""

    call_id: str
    question: str


class Answered(NamedTuple):
    """The call has its result, so nobody need decide on it any more."""

    call_id: str


Output = Show | Approval | Answered


class Ending(NamedTuple):
    status: str
    stop_reason: str | None
    tokens: tuple[int, int] | None
    """Of the prompt and of the answer; None where the model server doesn't count them."""
    seconds: float | None

    def summary(self, session_id: str) -> str:
        words = [self.status if self.stop_reason is None else f"{self.status} ({self.stop_reason})"]
        words.append(f"session {session_id}")
        if self.tokens is not None:
            words.append("{} + {} tokens".format(*self.tokens))
        if self.seconds is not None:
            words.append(f"{self.seconds:.1f} s")
        return one_line(", ".join(words))


def clean(text: str) -> str:
    """Return *text* without what a terminal would obey instead of show: C0 but for line ends and tabs, DEL, C1."""
    return _CONTROLS.sub("", text)


def one_line(text: str, most: int | None = None) -> str:
    """Return *text* as one line in which whatever can't be seen, and what turns its direction, is written out."""
    line = " ".join(text.split())
    if most is not None and len(line) > most:
        line = f"{line[:most]}.."
    return _visible(line)


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Transcript:
    """What has been shown of run *run_id*, over however many connections its events come."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.ending: Ending | None = None
        """Set by the run's last event."""
        self._seen = -1
        """The number of the last event that was taken."""
        self._whole = False
        """A snapshot has told all that was said."""
        self._shown: dict[str, list[str]] = {"text": [], "reasoning": []}
        self._tools: set[tuple[str, str]] = set()
        """The kinds and call ids of the calls and results that were shown."""

    @property
    def last_event_id(self) -> str | None:
        if self._whole:
            return event_id(self.run_id, SNAPSHOT)
        return None if self._seen < 0 else event_id(self.run_id, self._seen)

    def take(self, event: Event) -> Sequence[Output]:
        """Return what *event* adds. What was taken before adds nothing, nor does a type that a newer service has."""
        if event.data == _DONE or not self._is_new(event.last_event_id):
            return ()
        payload = orjson.loads(event.data)
        if self._whole and payload.get("type") not in ("error", "ended"):
            return ()
        return tuple(self._outputs(payload))

    def _is_new(self, last_event_id: str) -> bool:
        run_id, _, seq = last_event_id.rpartition(".")
        if not seq.isdecimal():  # of a snapshot, or the `ended` after it
            return run_id in ("", self.run_id)
        if run_id != self.run_id or int(seq) <= self._seen:
            return False
        self._seen = int(seq)
        return True

    def _outputs(self, payload: Mapping[str, Any]) -> Iterator[Output]:
        match payload:
            case {"type": "delta", "text": str(text)}:
                yield self._said("text", text)
            case {"type": "reasoning", "text": str(text)}:
                yield self._said("reasoning", text)
            case {"type": "tool_call" | "tool_result"}:
                yield from self._tool(payload)
            case {"type": "approval_request", "call_id": str(call_id), "name": str(name), "arguments": arguments}:
                yield Approval(call_id, f"allow {_visible(name)}({_visible(_json(arguments))})?")
            case {"type": "snapshot", "parts": list(parts)}:
                yield from self._missing(parts)
                self._whole = True
            case {"type": "error", "code": str(code), "message": str(message)}:
                yield Show(Kind.PROBLEM, one_line(f"{message} ({code})"))
            case {"type": "ended"}:
                self.ending = _ending(payload)

    def _said(self, kind: str, text: str) -> Show:
        self._shown[kind].append(text)
        return Show(Kind.TEXT if kind == "text" else Kind.REASONING, text)

    def _tool(self, piece: Mapping[str, Any]) -> Iterator[Output]:
        """Show the call, or the result, unless it was shown."""
        match piece:
            case {"type": "tool_call", "call_id": str(call_id), "name": str(name), "arguments": arguments}:
                line = f"{name}({one_line(_json(arguments), _MAX_LINE)})"
            case {"type": "tool_result", "call_id": str(call_id), "name": str(name), "output": str(output)}:
                yield Answered(call_id)
                failed = " failed" if piece.get("is_error") else ""
                line = f"{name}{failed}: {one_line(output, _MAX_LINE)}"
            case _:
                return
        if (key := (piece["type"], call_id)) not in self._tools:
            self._tools.add(key)
            yield Show(Kind.NOTE, one_line(line))

    def _missing(self, parts: Sequence[Mapping[str, Any]]) -> Iterator[Output]:
        """Yield what of the stored message wasn't shown.

        Each of the two is a beginning of the other: after a kill -9 more may have been streamed than was stored.
        """
        left = {kind: sum(map(len, pieces)) for kind, pieces in self._shown.items()}
        for part in parts:
            match part:
                case {"type": "text" | "reasoning" as kind, "text": str(text)}:
                    if new := text[left[kind] :]:
                        yield self._said(kind, new)
                    left[kind] = max(0, left[kind] - len(text))
                case _:
                    yield from self._tool(part)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


def _ending(payload: Mapping[str, Any]) -> Ending:
    tokens, seconds = None, None
    match payload:
        case {"usage": {"prompt_tokens": int(asked), "completion_tokens": int(answered)}}:
            tokens = asked, answered
    match payload:
        case {"timings": {"duration_ms": int() | float() as duration_ms}}:
            seconds = duration_ms / 1000
    reason = payload.get("stop_reason")
    return Ending(str(payload.get("status")), None if reason is None else str(reason), tokens, seconds)
