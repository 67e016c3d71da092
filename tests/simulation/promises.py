"""What must hold of every schedule when it is over: DESIGN, section 2, as far as frames and rows can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from odysseus.messages import Turn
from odysseus.run import IfBusy, Limits, Run
from odysseus.states import Ending, Status, StopReason
from tests.simulation.agents import Workshop, approvals_of
from tests.simulation.schedule import End, Request
from tests.simulation.world import Client, Model, Row, Store, World

__all__ = ["Call", "Subscriber", "at_rest", "check"]

_DONE = b"data: [DONE]\n\n"
_EPSILON = 1e-9  # a save's pauses aren't multiples of a tick
_CLING_S = 1.0  # for so long an end waits for tools that take no notice of it


@dataclass(eq=False)
class Call:
    """A request, and what became of it."""

    request: Request
    model: Model
    workshop: Workshop
    client: Client
    task: asyncio.Task[None] | None = None  # None: it hasn't arrived
    run: Run[bytes] | None = None
    accepted: bool = False
    cancelled: bool = False  # its task was cancelled while it ran
    left_at: float | None = None  # when a direct one's client left a run whose ending was open
    stopped: bool = False  # the first to ask its run to stop was a user
    closings: list[tuple[Ending, float]] = field(default_factory=list)
    pulled: int = 0  # frames before its closing
    ended: bool = False  # somebody has seen its end
    seen_at: list[float] = field(default_factory=list)  # when each frame could be seen
    lengths: list[int] = field(default_factory=list)  # of its log, 1.2 s and 0.2 s before a kill

    @property
    def turn(self) -> Turn:
        return self.request.turn

    @property
    def id(self) -> str:
        return self.turn.run_id

    @property
    def log(self) -> list[bytes]:
        return [] if self.run is None else frames_of(self.run)


@dataclass(eq=False)
class Subscriber:
    run: Run[bytes]
    start: int
    got: list[bytes] = field(default_factory=list)
    whole: bool = False
    """It came to its end; otherwise it left."""


def frames_of(run: Run[bytes]) -> list[bytes]:
    return list(run.log.read(0, 2**62))


def at_rest(call: Call) -> list[str]:
    """Return the promises broken by what still goes on for *call*, whose source has been closed."""
    approvals = approvals_of(call.run)
    promises = {
        "was saved before its upstream was closed": not call.model.open,
        "was saved while its tools were at work": not call.workshop.undisturbed,
        "was saved while it waited for approval": approvals is None or not approvals.waiting(),
    }
    return [promise for promise, kept in promises.items() if not kept]


def check(
    world: World,
    store: Store,
    calls: Sequence[Call],
    subscribers: Sequence[Subscriber],
    limits: Limits,
    *,
    killed: bool,
) -> None:
    for call in calls:
        row = store.rows.get(call.turn.message_id)
        broken = _broken(call, row, calls, limits, killed=killed)
        for promise in broken:
            world.expect(False, f"{call.id}: {promise}")
        world.say(f"{call.id}: {row and row.status} {row and row.stop_reason}, {len(call.log)} frames")
    for nth, subscriber in enumerate(subscribers):
        frames = frames_of(subscriber.run)[subscriber.start :]
        got, name = subscriber.got, f"subscriber {nth} of {subscriber.run.id}"
        world.expect(got == (frames if subscriber.whole else frames[: len(got)]), f"{name} got {got}, not {frames}")
        world.expect(not (subscriber.whole and got) or got[-1].endswith(_DONE), f"{name} wasn't told of the end")
        world.say(f"{name} got {len(got)} of {len(frames)}")


def _broken(call: Call, row: Row | None, calls: Sequence[Call], limits: Limits, *, killed: bool) -> list[str]:
    """Return the promises that *call* shows to be broken."""
    if row is None:
        left = call.accepted or call.closings or call.log or call.model.opened_at is not None
        return ["it was refused, and left something"] if left else []
    if not call.accepted and not killed:
        return ["it was refused, and is stored"]
    promises = {
        f"it was ended {row.finishes} times": row.finishes == 1,
        f"its status is {row.status}, its reason {row.stop_reason}": row.status is Ending(row.stop_reason).status,
        "its upstream is open": killed or not call.model.open,
        "its tools are at work": killed or not call.workshop.at_work,
        **_paired(row.parts),
    }
    if killed and not call.ended:
        promises |= _killed(call, row)
    else:
        promises |= _ended(call, row, calls, limits, killed=killed)
    return [promise for promise, kept in promises.items() if not kept]


def _killed(call: Call, row: Row) -> dict[str, bool]:
    text, told, saved = _text(call.log), _parts(call.log), _without_cut_short(row.parts)
    if row.stop_reason is not StopReason.NODE_LOST:
        return {
            "it ended as nobody asked": [ending.stop_reason for ending, _ in call.closings] == [row.stop_reason],
            "its last save isn't whole": row.content == text and saved == _without_cut_short(told),
        }
    size = _size(saved)
    old, recent = (_size(_parts(call.log[:length])) for length in call.lengths)
    excused = row.troubled or bool(call.closings)  # its last save had begun, and no checkpoint comes after that
    return {
        "what was saved was never streamed": text.startswith(row.content) and _begins(told, saved),
        "its content isn't its parts": row.content == "".join(it["text"] for it in saved if it["type"] == "text"),
        "its checkpoint is more than a second old": excused or size >= old,
        "its checkpoint is more than 2 KB behind": excused or recent - size < 2048,
    }


def _ended(call: Call, row: Row, calls: Sequence[Call], limits: Limits, *, killed: bool) -> dict[str, bool]:
    run, frames, client, model = call.run, call.log, call.client, call.model
    if run is None or len(call.closings) != 1:
        return {f"it was closed {len(call.closings)} times": False}
    [(ending, closing_at)] = call.closings
    asked_at = min((at for at in (run.stop_asked_at, call.left_at) if at is not None), default=None)
    silence_s = closing_at - ([0, *call.seen_at[: call.pulled]])[-1]
    held_up_s = min(_CLING_S, call.workshop.held_up_s) + _EPSILON
    took_s = 0 if model.opened_at is None else closing_at - model.opened_at
    partly = killed or call.cancelled or client.broken or call.turn.detached
    reason = row.stop_reason
    stopped = StopReason.USER_STOP if call.stopped else StopReason.CLIENT_DISCONNECT
    undisputed = call.stopped or (call.left_at is not None and run.stop_asked_at is None)
    return {
        f"it is {run.status} here, {row.status} there": run.status is ending.status is row.status,
        f"it ended {run.stop_reason}, saved {reason}": run.stop_reason is ending.stop_reason is reason,
        f"it ended {reason} without a cause": _caused(call, reason, closing_at, silence_s, calls, limits),
        f"it ended {reason}, not {stopped}": not undisputed or reason is stopped,
        "its silence was too long": model.opened_at is None or silence_s <= limits.idle_timeout_s + held_up_s,
        "it took too long": took_s <= limits.wall_clock_timeout_s + held_up_s,
        "it was held up": model.opened_at is None or asked_at is None or closing_at <= asked_at + held_up_s,
        "its log is too long": sum(map(len, frames[: max(0, call.pulled - 1)])) <= limits.max_log_bytes,
        "its content isn't what was streamed": row.content == _text(frames),
        "its parts aren't what was streamed": row.parts == _parts(frames),
        "its events aren't counted": row.events == len(frames),
        "its frames aren't numbered": all(
            frame.startswith(b"id: %b.%d\ndata: {" % (call.id.encode(), seq)) for seq, frame in enumerate(frames)
        ),
        "its frames don't tell what happened": _tells(call, frames, row),
        f"its ledger doesn't tell what happened: {_ledger(run)}": _is_told_in_order(_ledger(run), row),
        "its upstream outlived the stop": asked_at is None or model.closed_at is None or model.closed_at <= asked_at,
        "its client got something else": client.got == (frames[: len(client.got)] if partly else frames),
    }


def _caused(
    call: Call, reason: StopReason | None, at: float, silence_s: float, calls: Sequence[Call], limits: Limits
) -> bool:
    match reason:
        case None:
            return call.request.end is End.COMPLETE
        case StopReason.USER_STOP:
            return call.stopped
        case StopReason.CLIENT_DISCONNECT:
            return not call.turn.detached and (call.cancelled or call.client.broken)
        case StopReason.REPLACED:
            same = (other for other in calls if other.turn.session_id == call.turn.session_id and other is not call)
            return any(other.request.if_busy is IfBusy.REPLACE and other.run is not None for other in same)
        case StopReason.IDLE_TIMEOUT:
            return silence_s >= limits.idle_timeout_s - _EPSILON
        case StopReason.WALL_CLOCK_TIMEOUT:
            return at >= limits.wall_clock_timeout_s
        case StopReason.LOG_LIMIT:
            return sum(map(len, call.log[: call.pulled])) > limits.max_log_bytes
        case StopReason.UPSTREAM_ERROR:
            return call.request.end is End.FAILS
        case StopReason.INTERNAL_ERROR:
            return call.request.end is End.BUG or call.model.opened_at is None
        case StopReason.SHUTDOWN:
            return True  # every schedule that isn't killed is drained
        case _:
            return False


def _tells(call: Call, frames: Sequence[bytes], row: Row) -> bool:
    """Whether the frames begin with `started` if it was pulled, and end with the error, if any, `ended`, `[DONE]`."""
    events = _events(frames)
    types = [event["type"] for event in events]
    failed = ["error"] if row.status is Status.ERROR else []
    last = events[-1] if events else {}
    return (
        types[len(types) - len(failed) - 1 :] == [*failed, "ended"]
        and types.count("ended") == b"".join(frames).count(_DONE) == 1
        and frames[-1].endswith(_DONE)
        and (call.model.opened_at is None or types[0] == "started")
        and (last["status"], last["stop_reason"], last["message_id"])
        == (row.status, row.stop_reason, call.turn.message_id)
    )


def _ledger(run: Run[bytes]) -> list[str]:
    return [str(entry["event"]) for entry in run.ledger.entries() if "subscriber" not in entry]


def _is_told_in_order(ledger: Sequence[str], row: Row) -> bool:
    """Whether each thing that happened was written down once, the save among them, and a stop if there was one."""
    first = [event for event in ledger if event == "first_token"][:1]
    asked = ["started", *first, "upstream_closed"] if "started" in ledger else []
    stops = 1 if row.status in (Status.STOPPED, Status.INTERRUPTED) else 0
    way = [event for event in ledger if event != "stop_asked"]
    return way == ["accepted", *asked, "saved", "ended"] and ledger.count("stop_asked") == stops


def _events(frames: Sequence[bytes]) -> list[Any]:
    return [orjson.loads(frame.split(b"\n", 2)[1].removeprefix(b"data: ")) for frame in frames]


def _text(frames: Sequence[bytes]) -> str:
    return "".join(event["text"] for event in _events(frames) if event["type"] == "delta")


def _parts(frames: Sequence[bytes]) -> list[Any]:
    """Return what an answer's *frames* tell as the parts it must be stored in."""
    parts: list[Any] = []
    for event in _events(frames):
        match event["type"]:
            case "tool_call" | "tool_result":
                parts.append(event)
            case "delta" | "reasoning" as said:
                kind = "text" if said == "delta" else said
                if not parts or parts[-1]["type"] != kind:
                    parts.append({"type": kind, "text": ""})
                parts[-1]["text"] += event["text"]
    return parts


def _begins(told: Sequence[Any], saved: Sequence[Any]) -> bool:
    """Whether *told* begins with *saved*, whose last text may have gone on."""
    if not saved:
        return True
    *before, last = saved
    if list(told[: len(before)]) != before or len(told) < len(saved):
        return False
    begun = told[len(before)]
    return begun == last or (
        "text" in last and begun["type"] == last["type"] and begun["text"].startswith(last["text"])
    )


def _size(parts: Sequence[Any]) -> int:
    """Characters, as checkpoints count them."""
    return sum(len(it.get("text") or it.get("output") or str(it.get("arguments", ""))) for it in parts)


def _paired(parts: Sequence[Any]) -> dict[str, bool]:
    """Whether every call has its one result: no provider takes a conversation without."""
    calls = [it["call_id"] for it in parts if it["type"] == "tool_call"]
    results = [it["call_id"] for it in parts if it["type"] == "tool_result"]
    return {
        f"two of its calls have one id: {calls}": len(set(calls)) == len(calls),
        f"not every call of {calls} has one result: {results}": sorted(calls) == sorted(results),
    }


def _without_cut_short(parts: Sequence[Any]) -> list[Any]:
    """Return *parts* without the results that an answer's end gave to its open calls."""
    return [it for it in parts if it["type"] != "tool_result" or it["output"] != "stopped"]
