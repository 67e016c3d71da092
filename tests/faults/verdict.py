"""What was seen, and what of it must not be. Pure: it is given records, whoever made them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = ["FINAL", "Row", "RunSeen", "Watched", "verdict"]

_REFUSALS = ("409 busy", "409 stopped_before_start")
"""Those that a request may meet for good; all others are sent again."""

FINAL = {"done", "stopped", "error", "interrupted"}


@dataclass(frozen=True)
class Row:
    """A stored message."""

    session_id: str
    role: str
    status: str
    stop_reason: str | None
    content: str
    run_id: str | None
    message_id: str


@dataclass
class Watched:
    """One subscriber's stream, over all its connections."""

    run_id: str
    text: str = ""
    last_event_id: str | None = None
    """As an `EventSource` keeps it: what has no id doesn't change it."""
    frames: dict[int, bytes] = field(default_factory=dict)
    """By `seq`, since the last reset or snapshot."""
    ended: tuple[str, str | None, str] | None = None
    """The status, its reason and the message's id, as the stream told them."""
    over: bool = False
    """There is nothing more to come: it was told so."""
    left: bool = False
    """It left for good."""
    resets: int = 0
    snapshots: int = 0
    broken: list[str] = field(default_factory=list)
    _next: int | None = 0  # None: after a snapshot, whatever comes first

    def take(self, frame: bytes) -> None:
        """Take one frame, as a careful client does: ids that begin anew at 0 reset, and a snapshot replaces."""
        fields = dict(line.split(b": ", 1) for line in frame.rstrip(b"\n").split(b"\n"))
        if fields[b"data"] == b"[DONE]":
            self.over = True
            return
        payload = orjson.loads(fields[b"data"])
        if b"id" in fields and not self._number(fields[b"id"].decode(), frame):
            return
        match payload["type"]:
            case "snapshot":
                self.text, self._next, self.snapshots = payload["content"], None, self.snapshots + 1
                self.frames.clear()
            case "delta":
                self.text += payload["text"]
            case "ended":
                self.ended = payload["status"], payload["stop_reason"], payload["message_id"]

    def nothing_more(self) -> None:
        """It came back and was answered 204."""
        self.over = True
        if self.ended is None:
            self.broken.append("was told that there is nothing more before it was told of an end")

    def _number(self, event_id: str, frame: bytes) -> bool:
        """Note the frame's number; whether it is one that may come now."""
        run_id, _, seq = event_id.rpartition(".")
        if run_id != self.run_id:
            self.broken.append(f"got a frame of {run_id}")
            return False
        self.last_event_id = event_id
        if seq in ("snapshot", "end"):
            return True
        number = int(seq)
        if number == 0 and self._next != 0:
            self.text, self.ended, self.resets = "", None, self.resets + 1
            self.frames.clear()
        elif self._next is not None and number != self._next:
            self.broken.append(f"got frame {number} where {self._next} should come")
        self._next = number + 1
        self.frames[number] = frame
        return True


@dataclass
class RunSeen:
    """One request, and what its client and others saw of it."""

    run_id: str
    prompt: str
    said: str
    """All that the model says if nobody stops it."""
    direct: bool = False
    """Only the one stream that began it shows it, unless it is kept."""
    pane: str = ""
    """The path of its stream, if it is a compare's."""
    kept: bool = False
    """It was told that it goes on as a detached run."""
    deleted: bool = False
    """Somebody has begun to delete its session."""
    accepted: bool = False
    """It was answered with a 202, or with a stream."""
    unanswered: int = 0
    """How often it was sent without an answer: such an attempt may come to something after another one's refusal."""
    refusal: str | None = None
    """The code of the error that it was answered with, for good."""
    session_id: str = ""
    asked: int = 0
    """How often a model was asked."""
    watched: list[Watched] = field(default_factory=list)
    receipts: list[Mapping[str, Any]] = field(default_factory=list)
    """Of stops that named this run, and said that they stopped it."""
    replay: Watched | None = None
    """What a subscriber gets when all is over."""
    is_active: bool = False
    """Its session said so when all was over."""

    def find_id(self, rows: Sequence[Row]) -> None:
        """Take from *rows* what a pane's client wasn't told, when its attempt had no answer."""
        if self.pane:
            mine = [row.run_id for row in rows if row.session_id == self.session_id and row.run_id is not None]
            self.run_id = mine[0] if mine else self.run_id


def verdict(runs: Sequence[RunSeen], rows: Sequence[Row], open_requests: int) -> list[str]:
    """Return what is broken: of *runs*, of the stored *rows*, of the requests that models still answer."""
    broken = [f"{run.run_id}: {problem}" for run in runs for problem in _of_run(run, rows_of(rows, run))]
    known = {run.run_id for run in runs}
    broken += [f"nobody asked for {row.run_id}" for row in rows if row.run_id is not None and row.run_id not in known]
    broken += [f"message {row.message_id} of {row.run_id} still streams" for row in rows if row.status not in FINAL]
    if open_requests:
        broken.append(f"{open_requests} requests to models are still open")
    return broken


def rows_of(rows: Sequence[Row], run: RunSeen) -> Sequence[Row]:
    """Return the rows of the run: its answers, and the user's messages that ask for them."""
    return [row for row in rows if row.run_id == run.run_id or (row.role == "user" and row.content == run.prompt)]


def _of_run(run: RunSeen, rows: Sequence[Row]) -> Iterator[str]:
    yield from _of_deleted(run, rows) if run.deleted else _of_kept(run, rows)


def _of_kept(run: RunSeen, rows: Sequence[Row]) -> Iterator[str]:
    count = Counter(row.role for row in rows)
    expected = 1 if run.accepted else 0
    if not run.accepted and run.refusal is None:
        yield f"was never answered; has {count['user']} messages and {count['assistant']} answers"
    elif run.unanswered and not run.accepted and count["user"] == count["assistant"] == 1:
        pass
    elif (count["user"], count["assistant"]) != (expected, expected):
        yield f"has {count['user']} messages and {count['assistant']} answers, not {expected} each"
    if run.refusal not in (None, *_REFUSALS):
        yield f"was refused with {run.refusal}"
    if run.asked > 1:
        yield f"its model was asked {run.asked} times"
    if run.is_active:
        yield "is active for ever"
    answers = [row for row in rows if row.role == "assistant"]
    if len(answers) == 1:
        yield from _of_answer(run, answers[0])


def _of_deleted(run: RunSeen, rows: Sequence[Row]) -> Iterator[str]:
    """Nothing of it is left, but for an attempt without an answer that came to something after that."""
    left = [row for row in rows if row.session_id == run.session_id or not run.unanswered]
    if left:
        yield f"was deleted, and {len(left)} messages are stored"
    for number, watched in enumerate(run.watched):
        for problem in watched.broken:
            yield f"subscriber {number} {problem}"
        if not (watched.over or watched.left):
            yield f"subscriber {number} never came to an end"
        if not run.said.startswith(watched.text):
            yield f"subscriber {number} got {watched.text[-40:]!r}, which its model didn't say"


def _of_answer(run: RunSeen, answer: Row) -> Iterator[str]:
    if not run.said.startswith(answer.content):
        yield f"what is stored isn't what its model said: {answer.content[-40:]!r}"
    if answer.status == "done" and answer.content != run.said:
        yield f"is done with {len(answer.content)} of {len(run.said)} characters"
    for receipt in run.receipts:
        told = receipt["status"], receipt["message_id"], receipt["chars"]
        if told != (answer.status, answer.message_id, len(answer.content)):
            yield f"its stop told {told}, stored is {answer.status} with {len(answer.content)}"
    for number, watched in enumerate(run.watched):
        for problem in (*watched.broken, *_of_watcher(run, watched, answer)):
            yield f"subscriber {number} {problem}"
    if run.replay is not None:
        for problem in (*run.replay.broken, *_of_watcher(run, run.replay, answer)):
            yield f"the replay {problem}"


def _of_watcher(run: RunSeen, watched: Watched, answer: Row) -> Iterator[str]:
    if watched.left and not watched.over:
        yield from _of_leaver(watched, answer)
    elif not watched.over:
        yield "never came to an end"
    elif watched.text != answer.content:
        yield f"has {len(watched.text)} characters, stored are {len(answer.content)}"
    if watched.ended not in (None, (answer.status, answer.stop_reason, answer.message_id)):
        yield f"was told {watched.ended}, stored is {(answer.status, answer.stop_reason, answer.message_id)}"
    if watched.over and not watched.snapshots and sorted(watched.frames) != list(range(len(watched.frames))):
        yield "has a gap"
    if watched.over and run.replay is not None and not run.replay.snapshots:
        whole = run.replay.frames
        different = [seq for seq, frame in watched.frames.items() if whole.get(seq) != frame]
        if different:
            yield f"got other bytes than the replay at {different[:5]}"


def _of_leaver(watched: Watched, answer: Row) -> Iterator[str]:
    """What it saw is a beginning of what is stored; if the node died, what it saw may not have come to anybody else."""
    longer = answer.status == "interrupted" and watched.text.startswith(answer.content)
    if not longer and not answer.content.startswith(watched.text):
        yield f"left with {watched.text[-40:]!r}, which isn't how the stored one begins"
