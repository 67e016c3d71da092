"""What Odysseus does, in the words of its callers: start, join, resume, stop, approve. Knows nothing of HTTP.

It brings together what doesn't know each other: `runs` carries a generator, `generation` makes one of a turn, the
store has what came before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from odysseus.agent import Agent, AgentLimits
from odysseus.approvals import Approvals, Verdict
from odysseus.errors import InvalidField, NotFound, StoreError
from odysseus.events import Ended, Snapshot, snapshot_frames
from odysseus.generation import Generation
from odysseus.messages import Message, Mode, Session, Turn, new_id
from odysseus.replay import END, event_id, next_seq
from odysseus.run import IfBusy, Run, Sink
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.states import Status
from odysseus.store import Store
from odysseus.stream_status import StreamStatus, generation_of, status_of_answer, status_of_run
from odysseus.tasks import Tasks
from odysseus.tools import Caller
from odysseus.tools.toolbox import Toolbox
from odysseus.upstream import Upstream
from odysseus.upstream.catalog import Catalog

__all__ = ["Receipt", "Request", "Service", "snapshot_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A turn as it was asked for. None means: the session's own, then the service's."""

    owner: str
    text: str
    session_id: str | None = None
    model: str | None = None
    mode: Mode = Mode.CHAT
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    if_busy: IfBusy = IfBusy.REJECT
    run_id: str | None = None
    claims: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a stop did: the run as it ended, its answer's length, and how long the model went on after the stop."""

    run_id: str
    status: Status
    message_id: str
    chars: int
    upstream_closed_ms: float


class Service:
    def __init__(
        self,
        runs: Runs[bytes],
        store: Store,
        catalog: Catalog,
        toolbox: Toolbox,
        agent_limits: AgentLimits,
        saves: Saves,
        tasks: Tasks,
    ) -> None:
        self.runs = runs
        self.store = store
        self.catalog = catalog
        self.toolbox = toolbox
        self._agent_limits = agent_limits
        self._saves = saves
        self._tasks = tasks

    # Starting

    async def start(self, request: Request) -> Run[bytes] | Message:
        """Start a detached run, or join the one that has the request's `run_id`; return it when it is accepted.

        A run whose frames are gone is returned as its stored message. Raises `NotFound`, `InvalidField`,
        `ModelsUnknown` and what `Runs.start` raises. Cancelling either changes nothing or leaves the run running.
        """
        if (joined := await self._joined(request)) is not None:
            return joined
        turn, upstream = await self._turn(request, detached=True)
        # No await from here to the start: the same request, sent twice at once, must find the first one's run.
        run = self.runs.get(turn.run_id)
        if run is not None:
            _check_session(run, request)
        else:
            generation = self._generation(turn, upstream)
            run = self.runs.start(
                turn.session_id,
                generation.stream_with_save(),
                run_id=turn.run_id,
                owner=turn.owner,
                if_busy=request.if_busy,
                opening=generation.opening,
                closing=generation.closing,
                connect=generation.connect,
                about=generation,
                ledger=generation.ledger,
            )
        await run.wait_accepted()
        return run

    async def direct(self, request: Request, sink: Sink[bytes]) -> Run[bytes] | Message | None:
        """Run the request in the calling task, with *sink* as its one client, to the end; then return None.

        If a run has the request's `run_id` already, it is returned for joining and the sink isn't touched. Raises as
        `start` does, and `AlreadyClaimed`. Cancelling ends the run with `client_disconnect`.
        """
        if (joined := await self._joined(request)) is not None:
            return joined
        turn, upstream = await self._turn(request, detached=False)
        if (run := self.runs.get(turn.run_id)) is not None:
            _check_session(run, request)
            return run
        generation = self._generation(turn, upstream)
        await self.runs.direct(
            turn.session_id,
            generation.stream_with_save(),
            sink,
            run_id=turn.run_id,
            owner=turn.owner,
            if_busy=request.if_busy,
            opening=generation.opening,
            closing=generation.closing,
            connect=generation.connect,
            about=generation,
            ledger=generation.ledger,
        )
        return None

    async def _joined(self, request: Request) -> Run[bytes] | Message | None:
        if request.run_id is None:
            return None
        found: Run[bytes] | Message | None = self.runs.get(request.run_id)
        if found is None:
            stored = await self.store.answer_of(request.run_id, request.owner)
            found = self.runs.get(request.run_id) or stored  # it may have begun while the store was asked
        if found is not None:
            _check_session(found, request)
        if isinstance(found, Run):
            await found.wait_accepted()
        return found

    async def _turn(self, request: Request, *, detached: bool) -> tuple[Turn, Upstream]:
        asked = request.session_id
        session = None if asked is None else await self.store.session(asked, request.owner)
        own_model, own_system = (None, None) if session is None else (session.model, session.system)
        model, upstream = await self.catalog.find(request.model or own_model)
        turn = Turn(
            session_id=new_id("ses") if session is None else session.id,
            message_id=new_id("msg"),
            run_id=request.run_id or new_id("run"),
            owner=request.owner,
            text=request.text,
            model=model,
            mode=request.mode,
            detached=detached,
            system=own_system if request.system is None else request.system,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            new_session=session is None,
            claims=request.claims,
        )
        return turn, upstream

    def _generation(self, turn: Turn, upstream: Upstream) -> Generation:
        if turn.mode is Mode.CHAT:
            return Generation(turn, upstream, self.store, self._saves)
        approvals = Approvals() if turn.detached else None
        caller = Caller(turn.session_id, turn.owner)
        agent = Agent(upstream, self.toolbox, self._agent_limits, caller, approvals, self._tasks)
        return Generation(turn, agent, self.store, self._saves, approvals)

    # Coming back

    async def resume(
        self, owner: str, session_id: str, last_event_id: str | None, run_id: str | None = None
    ) -> tuple[Run[bytes], int] | Message | None:
        """Return the run to follow and the first frame to send, or the message that stands in for its lost frames.

        None when there is nothing more to get: the end has been seen, nothing ever streamed, or the run was direct.
        Without *run_id* it is the session's current run. Raises `NotFound` for an unknown session or run.
        """
        message = None
        if (run := self._run_of(owner, session_id, run_id)) is None:
            message = await self._answer_of(owner, session_id, run_id)
            run = self._run_of(owner, session_id, run_id)  # it may have begun while the store was asked
        if run is not None:
            await run.wait_accepted()
            seq = next_seq(last_event_id, run.id, len(run.log))
            over = run.ended.is_set() and seq == len(run.log)
            return None if over or not run.detached else (run, seq)
        if message is None or not message.detached or last_event_id in _ends(message):
            return None
        return message

    def _run_of(self, owner: str, session_id: str, run_id: str | None) -> Run[bytes] | None:
        run = self.runs.current(session_id) if run_id is None else self.runs.get(run_id)
        return run if run is not None and (run.session_id, run.owner) == (session_id, owner) else None

    async def _answer_of(self, owner: str, session_id: str, run_id: str | None) -> Message | None:
        await self.store.session(session_id, owner)
        if run_id is None:
            return await self.store.latest_answer(session_id)
        message = await self.store.answer_of(run_id, owner)
        if message is None or message.session_id != session_id:
            raise NotFound("run")
        return message

    async def status(self, owner: str, session_id: str) -> StreamStatus:
        """Describe the session's latest run. Raises `NotFound` if the session is unknown or never streamed."""
        message = None
        if (run := self.runs.latest(session_id)) is None:
            await self.store.session(session_id, owner)
            message = await self.store.latest_answer(session_id)
            run = self.runs.latest(session_id)  # it may have begun while the store was asked
        if run is not None:
            _check_owner(run, owner)
            return status_of_run(run)
        if message is None:
            raise NotFound("run: the session never streamed")
        return status_of_answer(message)

    # Stopping

    async def stop(self, owner: str, session_id: str, run_id: str | None = None) -> Receipt | None:
        """Stop what the session runs and withdraw what it queued, or run *run_id* alone; return when it is saved.

        None when nothing was running. An id nobody knows yet is remembered, for the request that it overtook. Raises
        `NotFound` for an unknown session, and for a run of another one.
        """
        if run_id is not None:
            return await self._stop_run(owner, session_id, run_id)
        line = self.runs.live(session_id)
        if not line:
            await self.store.session(session_id, owner)
            return None
        _check_owner(line[0], owner)
        self.runs.stop(session_id)
        for run in line:
            await run.ended.wait()
        return self._receipt(line[0])

    async def _stop_run(self, owner: str, session_id: str, run_id: str) -> Receipt | None:
        run = self.runs.get(run_id)
        if run is None:
            self.runs.stop_unborn(run_id, owner)
            return None
        if (run.session_id, run.owner) != (session_id, owner):
            raise NotFound("run")
        if not self.runs.stop_run(run):
            return None
        await run.ended.wait()
        return self._receipt(run)

    def _receipt(self, run: Run[bytes]) -> Receipt | None:
        if run.refusal is not None:
            return None
        generation = generation_of(run)
        asked, closed = run.stop_asked_at, generation.upstream_closed_at
        waited_s = 0.0 if asked is None or closed is None else max(0.0, closed - asked)
        return Receipt(
            run.id, run.status, generation.turn.message_id, len(generation.answer.content), round(waited_s * 1000, 2)
        )

    # Deciding

    async def approve(self, owner: str, session_id: str, call_id: str, verdict: Verdict) -> None:
        """Decide whether a tool call that waits for it may be made.

        Raises `NotFound` for an unknown session or call, `AlreadyDecided` for a call that no longer waits.
        """
        run = self.runs.current(session_id)
        if run is None:
            await self.store.session(session_id, owner)
        else:
            _check_owner(run, owner)
        approvals = None if run is None else generation_of(run).approvals
        if approvals is None:
            raise NotFound("call that waits for approval")
        approvals.decide(call_id, verdict)

    # Sessions

    async def owner_of(self, session_id: str) -> str:
        """For what was let in by other means than an account. Raises `NotFound`."""
        run = self.runs.latest(session_id)
        return await self.store.owner_of(session_id) if run is None else run.owner

    async def run_of(self, owner: str, session_id: str, run_id: str | None) -> str:
        """Return the id of the session's detached run that others may watch. Raises `NotFound`."""
        run = self.runs.latest(session_id) if run_id is None else self._run_of(owner, session_id, run_id)
        found: Run[bytes] | Message | None = run or await self._answer_of(owner, session_id, run_id)
        if isinstance(found, Run):
            _check_owner(found, owner)
        if found is None or not found.detached:
            raise NotFound("run: nothing in this session can be watched by others")
        return found.id if isinstance(found, Run) else str(found.run_id)

    async def session(self, owner: str, session_id: str) -> tuple[Session, Sequence[Message]]:
        """Return the session and its messages, a streaming one as it is this very moment. Raises `NotFound`."""
        session = await self.store.session(session_id, owner)
        return session, [self.fresh(message) for message in await self.store.messages(session_id)]

    def active_run(self, session_id: str) -> str | None:
        live = self.runs.live(session_id)
        return live[0].id if live else None

    async def delete_session(self, owner: str, session_id: str) -> None:
        """Stop the session's runs, then delete it. Raises `NotFound`."""
        await self.stop(owner, session_id)
        await self.store.delete_session(session_id, owner)
        self.runs.stop(session_id)  # what began between the two: its answer has no row any more
        self.runs.forget_session(session_id)

    def fresh(self, message: Message) -> Message:
        """Return *message*, if it streams here as it is this very moment."""
        run = self.runs.get(message.run_id) if message.run_id else None
        if run is None or message.status is not Status.STREAMING:
            return message
        answer = generation_of(run).answer
        return replace(message, content=answer.content, reasoning=answer.reasoning, parts=answer.parts())


def _check_owner(run: Run[bytes], owner: str) -> None:
    if run.owner != owner:
        raise NotFound("session")


def _check_session(found: Run[bytes] | Message, request: Request) -> None:
    if isinstance(found, Run) and found.owner != request.owner:
        raise NotFound("run")
    if request.session_id not in (None, found.session_id):
        raise InvalidField("run_id", "belongs to a run of another session")


def snapshot_of(message: Message) -> bytes:
    """Return the stream that stands in for the frames of an ended answer. Raises `StoreError` while it hasn't ended."""
    if message.status is Status.STREAMING or message.run_id is None:
        raise StoreError(f"message {message.id} waits in the spool")
    return snapshot_frames(
        message.run_id,
        Snapshot(message.content, message.reasoning, message.parts, message.status),
        Ended(
            message.status,
            message.stop_reason,
            message.id,
            message.finish_reason,
            message.usage,
            message.timings,
        ),
    )


def _ends(message: Message) -> Sequence[str]:
    """Return the event ids that say: whoever has this has seen the end."""
    assert message.run_id is not None
    last = [] if not message.events else [event_id(message.run_id, message.events - 1)]
    return [event_id(message.run_id, END), *last]
