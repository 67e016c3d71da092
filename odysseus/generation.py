"""One answer: ask a model, stream it as frames, save it exactly once. The same for both lifetimes.

A `Generation` doesn't know who pulls it. `opening`, `stream_with_save` and `closing` are the three things a run calls;
the run decides how it ended and says so to `closing`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Protocol

from odysseus import events
from odysseus.agent import AgentPiece
from odysseus.answer import Answer, stopped_results
from odysseus.approvals import Approvals
from odysseus.checkpoints import Checkpoints
from odysseus.conversation import conversation
from odysseus.errors import AnswerTaken, StoreError, StreamFailed
from odysseus.events import Ended, Frames, Part, Started, Timings, UsageCount
from odysseus.ledger import Event, Ledger
from odysseus.messages import Admit, Final, Message, Turn, now
from odysseus.saves import Saves
from odysseus.states import Ending, StopReason
from odysseus.upstream import Ask, Call, Finish, Reasoning, Take, Text, Tokens

__all__ = ["Generation", "Transcript"]

_log = logging.getLogger(__name__)

_PAUSES_S = (0.2, 1.0, 3.0)  # between attempts to read what was said before, after which a turn can't go on


class Transcript(Protocol):
    """What a generation needs of the store."""

    async def begin(self, turn: Turn, admit: Admit | None = None) -> None:
        """Store the user's message and the answer's row, in status `streaming`, in one step.

        *admit* is told of the session's live runs on other nodes; what it raises is raised, and nothing is stored.
        """

    async def history(self, turn: Turn) -> Sequence[Message]:
        """Return the session's messages before the turn's answer, oldest first. Raises `StoreError`."""

    def checkpoint(self, message_id: str, content: str, reasoning: str, parts: list[Part]) -> asyncio.Future[None]:
        """Overwrite the answer so far, if it is still `streaming`."""


class Model(Protocol):
    """What a generation asks: a model server, or an agent in front of one."""

    def ask(self, ask: Ask, take: Take | None = None) -> AsyncGenerator[Sequence[AgentPiece], None]:
        """See `odysseus.upstream.Upstream.ask`."""


class Lane(Protocol):
    """What a generation needs of whoever pulls it: see `odysseus.run.Lane`."""

    @property
    def free(self) -> bool: ...

    def push(self, frame: bytes) -> bool: ...


class Generation:
    def __init__(
        self,
        turn: Turn,
        model: Model,
        transcript: Transcript,
        saves: Saves,
        approvals: Approvals | None = None,
    ) -> None:
        self.turn = turn
        self.answer = Answer()
        self.ledger = Ledger(turn.owner)
        """For the run, too."""
        self.approvals = approvals
        """Where the model's tools ask for approval; None if they don't."""
        self.upstream_closed_at: float | None = None
        """Loop time at which the model server's connection was closed; None before, and if it was never asked."""
        self.error_code: str | None = None
        """What the run ended with, if the model server failed it."""
        self.save_s: float | None = None
        """How long the last save took, with every attempt; None before it is done."""
        self.timings: Timings | None = None
        """Set at the end, unless the model was never asked."""
        self.finish_reason: str | None = None
        """Why the model ended its answer, in its own word, or `tool_rounds`."""
        self.usage: UsageCount | None = None
        """What the model server has counted so far."""
        self._model = model
        self._transcript = transcript
        self._saves = saves
        self._lane: Lane | None = None
        self._frames = Frames(turn.run_id)
        self._checkpoints = Checkpoints(self._checkpoint)
        self._asked_at: float | None = None
        self._first_at: float | None = None

    async def opening(self, admit: Admit | None = None) -> None:
        """Accept the turn: from here on the session holds it, whatever happens. Raises what the store raises."""
        await self._transcript.begin(self.turn, admit)

    def connect(self, lane: Lane) -> None:
        """Take *lane* for frames that come while the next one is being waited for; they aren't yielded."""
        self._lane = lane

    async def stream_with_save(self) -> AsyncGenerator[bytes, None]:
        """Yield the answer's frames, each encoded once, and keep checkpoints of it.

        Raises `StreamFailed`. The last save is `closing`'s: it must also happen when this was never started.
        """
        turn = self.turn
        yield self._frames.encode(
            Started(turn.run_id, turn.session_id, turn.message_id, turn.mode, turn.model, turn.detached)
        )
        messages = conversation(turn.system, await self._history())
        ask = Ask(model=turn.asked, messages=messages, temperature=turn.temperature, max_tokens=turn.max_tokens)
        self._asked_at = _time()
        self.ledger.add(Event.STARTED)
        try:
            async with aclosing(self._model.ask(ask, self._take_now)) as reads:
                async for pieces in reads:
                    for frame in self._encoded(pieces):
                        yield frame
        finally:
            self.upstream_closed_at = _time()
            self.ledger.add(Event.UPSTREAM_CLOSED)

    async def _history(self) -> Sequence[Message]:
        """The turn has been accepted, so a database that has gone since then is waited for."""
        for pause_s in (*_PAUSES_S, None):
            try:
                return await self._transcript.history(self.turn)
            except StoreError as error:
                if pause_s is None:
                    problem = "the database that has the conversation can't be reached; ask again"
                    raise StreamFailed("store_unavailable", problem) from error
                _log.warning("run %s waits for its session's messages: %s", self.turn.run_id, error)
                await asyncio.sleep(pause_s)
        raise AssertionError  # the last attempt returns or raises

    async def closing(self, ending: Ending, failure: BaseException | None) -> list[bytes]:
        """Save the answer, then return the frames that announce its end: results of the calls that have none first.

        Raises `AnswerTaken`.
        """
        self._checkpoints.close()
        frames = []
        for result in stopped_results(self.answer.parts()):
            self.answer.add_tool(result)
            frames.append(self._frames.encode(result))
        error = _error(ending, failure)
        if isinstance(failure, StreamFailed) and ending.stop_reason is failure.stop_reason:
            self.error_code = failure.code
        self.timings = timings = self._timings()
        saving_at = _time()
        saved = await self._saves.save(
            Final(
                message_id=self.turn.message_id,
                status=ending.status,
                stop_reason=ending.stop_reason,
                content=self.answer.content,
                reasoning=self.answer.reasoning,
                parts=self.answer.parts(),
                finish_reason=self.finish_reason,
                usage=self.usage,
                timings=timings,
                events=self._frames.count + (1 if error is None else 2),
                ended_at=now(),
                ledger=self.ledger.entries(),
            )
        )
        if self._saves.shared and not saved.first:
            raise AnswerTaken(self.turn.message_id)
        self.save_s = _time() - saving_at
        self.ledger.add(Event.SAVED, to=saved.to, attempts=saved.attempts)
        ended = Ended(ending.status, ending.stop_reason, self.turn.message_id, self.finish_reason, self.usage, timings)
        if error is not None:
            frames.append(self._frames.encode(error))
        return [*frames, self._frames.encode_last(ended)]

    def _take_now(self, pieces: Sequence[AgentPiece]) -> bool:
        lane = self._lane
        if lane is None or not lane.free:
            return False
        for frame in self._encoded(pieces):
            if not lane.push(frame):
                break  # the rest belongs to nobody
        return True

    def _encoded(self, pieces: Sequence[AgentPiece]) -> Iterator[bytes]:
        for piece in pieces:
            if (event := self._take(piece)) is not None:
                yield self._frames.encode(event)

    def _take(self, piece: AgentPiece) -> events.StreamEvent | None:
        """Add *piece* to the answer; return the event that tells of it, if it is one to tell."""
        match piece:
            case Text(text):
                self._grow("text", text)
                return events.Delta(text)
            case Reasoning(text):
                self._grow("reasoning", text)
                return events.Reasoning(text)
            case Tokens(usage):
                self.usage = usage
                return events.Usage(**usage)
            case Finish(reason):
                self.finish_reason = reason
            case events.ToolCall():
                self.answer.add_tool(piece)
                self._checkpoints.grown(len(str(piece.arguments)))
                return piece
            case events.ToolResult():
                self.answer.add_tool(piece)
                self._checkpoints.grown(len(piece.output))
                return piece
            case events.ApprovalRequest():
                return piece
            case Call():
                pass  # of a model that was offered no tools
        return None

    def _grow(self, kind: events.TextKind, text: str) -> None:
        if self._first_at is None:
            self._first_at = _time()
            self.ledger.add(Event.FIRST_TOKEN)
        self.answer.add(kind, text)
        self._checkpoints.grown(len(text))

    def _checkpoint(self) -> asyncio.Future[None]:
        answer = self.answer
        return self._transcript.checkpoint(self.turn.message_id, answer.content, answer.reasoning, answer.parts())

    def _timings(self) -> Timings | None:
        if self._asked_at is None:
            return None
        ttft_ms = None if self._first_at is None else _ms(self._first_at - self._asked_at)
        return {"ttft_ms": ttft_ms, "duration_ms": _ms(_time() - self._asked_at)}


def _error(ending: Ending, failure: BaseException | None) -> events.Error | None:
    """Return the event that tells what went wrong; the inside of a failure of ours stays inside."""
    if isinstance(failure, StreamFailed) and ending.stop_reason is failure.stop_reason:
        return events.Error(failure.code, failure.problem)
    if ending.stop_reason is StopReason.INTERNAL_ERROR:
        return events.Error("internal_error", "the service failed; what came before is saved")
    return None


def _time() -> float:
    return asyncio.get_running_loop().time()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
