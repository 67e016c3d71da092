"""What Odysseus does, in the words of its callers: start, join, resume, stop, approve. Knows nothing of HTTP.

It brings together what doesn't know each other: `runs` carries a generator, `turns` makes one of a request, the store
has what came before, `elsewhere` what other nodes have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from odysseus.alone import Alone
from odysseus.approvals import Verdict
from odysseus.cluster.followed import Followed
from odysseus.errors import InvalidField, NotFound, NotStarted, RunExists
from odysseus.feed import Feed
from odysseus.generation import Generation
from odysseus.messages import Message, Session
from odysseus.receipt import Receipt, receipt_of_answer, receipt_of_run
from odysseus.replay import END, event_id, next_seq
from odysseus.run import Run, Sink, Terms
from odysseus.runs import Runs
from odysseus.snapshots import ends_of
from odysseus.states import Status
from odysseus.store import Store
from odysseus.stream_status import StreamStatus, generation_of, status_of_answer, status_of_run
from odysseus.turns import Request, Turns

__all__ = ["Kept", "Service"]


class Kept(NamedTuple):
    """A run that has been let go of, and the first frame that its client lacks."""

    run: Run[bytes]
    seq: int


class Service:
    def __init__(self, runs: Runs[bytes], store: Store, turns: Turns, elsewhere: Alone) -> None:
        self.runs = runs
        self.store = store
        self.turns = turns
        self.elsewhere = elsewhere

    # Starting

    async def start(self, request: Request) -> Run[bytes] | Followed | Message:
        """Start a detached run, or join the one that has the request's `run_id`; return it when it is accepted.

        A run whose frames are gone is returned as its stored message. Raises `NotFound`, `InvalidField`,
        `ModelsUnknown` and what `Runs.start` raises. Cancelling either changes nothing or leaves the run running.
        """
        if (joined := await self._joined(request)) is not None:
            return joined
        generation = await self.turns.generation(request, detached=True)
        turn = generation.turn
        await self.elsewhere.line_settled(turn.session_id)
        # No await from here to the start: the same request, sent twice at once, must find the first one's run.
        run = self.runs.get(turn.run_id)
        if run is not None:
            _check_session(run, request)
        else:
            terms = self._terms(generation, request)
            run = self.runs.start(turn.session_id, generation.stream_with_save(), **terms)
        try:
            await run.wait_accepted()
        except RunExists:
            if (joined := await self._joined(request)) is not None:  # on another node, at the same moment
                return joined
            raise
        return run

    async def direct(self, request: Request, sink: Sink[bytes]) -> Run[bytes] | Followed | Message | None:
        """Run the request in the calling task, with *sink* as its one client, to the end; then return None.

        If a run has the request's `run_id` already, it is returned for joining and the sink isn't touched. Raises as
        `start` does, and `AlreadyClaimed`. Cancelling ends the run with `client_disconnect`.
        """
        if (joined := await self._joined(request)) is not None:
            return joined
        generation = await self.turns.generation(request, detached=False)
        turn = generation.turn
        await self.elsewhere.line_settled(turn.session_id)
        if (run := self.runs.get(turn.run_id)) is not None:
            _check_session(run, request)
            return run
        terms = self._terms(generation, request)
        try:
            await self.runs.direct(turn.session_id, generation.stream_with_save(), sink, **terms)
        except RunExists:
            return await self._joined(request)
        return None

    async def tethered(self, request: Request, sink: Sink[bytes]) -> Kept | None:
        """As `direct`, for a run of a new id that can be let go of: see `keep`. Then *sink*'s client is to read on."""
        generation = await self.turns.generation(request, detached=False)
        turn = generation.turn
        await self.elsewhere.line_settled(turn.session_id)
        terms = self._terms(generation, request)
        given = await self.runs.tethered(turn.session_id, generation.stream_with_save(), sink, **terms)
        run = self.runs.get(turn.run_id)
        return None if given is None or run is None else Kept(run, given)

    def _terms(self, generation: Generation, request: Request) -> Terms[bytes]:
        opening, before = self.elsewhere.way_in(generation, request)
        return {
            "run_id": generation.turn.run_id,
            "owner": generation.turn.owner,
            "if_busy": request.if_busy,
            "opening": opening,
            "before": before,
            "connect": generation.connect,
            "closing": generation.closing,
            "about": generation,
            "ledger": generation.ledger,
        }

    async def _joined(self, request: Request) -> Run[bytes] | Followed | Message | None:
        if request.run_id is None:
            return None
        found: Run[bytes] | Message | None = await self._run(request.run_id)
        if found is None:
            stored = await self.store.answer_of(request.run_id, request.owner)
            found = await self._run(request.run_id) or stored  # it may have begun while the store was asked
        if found is not None:
            _check_session(found, request)
        if isinstance(found, Run):
            await found.wait_accepted()
        if isinstance(found, Message):
            return await self.elsewhere.follow(found) or found
        return found

    # Finding

    async def _find(
        self, owner: str, session_id: str, run_id: str | None = None, *, latest: bool = False
    ) -> Run[bytes] | Message | None:
        """Return the run, if it is here, or the answer that it makes, or made; None if the session never streamed.

        Without *run_id* it is the one at the head of the session's line, or the *latest*. Raises `NotFound`.
        """
        found = await self._look(owner, session_id, run_id, latest=latest)
        if isinstance(found, Run) and not found.detached and found.ended.is_set():
            return await self.store.answer_of(found.id, owner)  # which alone knows whether it was kept since
        return found

    async def _look(
        self, owner: str, session_id: str, run_id: str | None, *, latest: bool
    ) -> Run[bytes] | Message | None:
        run = self._here(owner, session_id, run_id, latest=latest)
        if run is not None and (not self.elsewhere.exists or (run_id is not None and not await _is_double(run))):
            return run
        await self.store.session(session_id, owner)
        message = await self._answer(owner, session_id, run_id, latest=latest)
        if run_id is not None and (message is None or message.session_id != session_id):
            raise NotFound("run")
        if message is not None and self.elsewhere.exists:
            return await self._run(str(message.run_id)) or message
        return self._here(owner, session_id, run_id, latest=latest) or message  # one may have begun meanwhile

    async def _run(self, run_id: str) -> Run[bytes] | None:
        """Return the run, if it is here."""
        run = self.runs.get(run_id)
        return None if run is None or await _is_double(run) else run

    def _here(self, owner: str, session_id: str, run_id: str | None, *, latest: bool) -> Run[bytes] | None:
        if run_id is not None:
            run = self.runs.get(run_id)
        else:
            run = self.runs.latest(session_id) if latest else self.runs.current(session_id)
        return run if run is not None and (run.session_id, run.owner) == (session_id, owner) else None

    async def _answer(self, owner: str, session_id: str, run_id: str | None, *, latest: bool) -> Message | None:
        if run_id is not None:
            return await self.store.answer_of(run_id, owner)
        live = () if latest else await self.store.live_answers(session_id)
        return live[0] if live else await self.store.latest_answer(session_id)

    # Keeping

    async def keep(self, owner: str, session_id: str) -> Run[bytes] | Message:
        """Make a chat of a compare pane's session: what it runs goes on without its client. Return that, or its answer.

        Raises `NotFound`, `NotStarted`, and `NodeUnreachable`, after which it can be tried again.
        """
        answer = await self.store.latest_answer(session_id)
        if answer is None:
            await self.store.session(session_id, owner)
            raise NotStarted
        await self.store.keep(session_id, owner)
        if (run := self.runs.get(str(answer.run_id))) is None:
            await self.elsewhere.keep(answer)
            return answer
        if run.keep():
            self.elsewhere.publish(run, answer.id)
        elif run.ending is not None:
            await run.ended.wait()  # until then, whoever comes back would hear that a direct run has nothing for them
        return run

    # Coming back

    async def resume(
        self, owner: str, session_id: str, last_event_id: str | None, run_id: str | None = None
    ) -> tuple[Feed[bytes], int] | Message | None:
        """Return the run to follow and the first frame to send, or the message that stands in for its lost frames.

        None when there is nothing more to get: the end has been seen, nothing ever streamed, or the run was direct.
        Without *run_id* it is the session's current run. Raises `NotFound` for an unknown session or run.
        """
        found: Feed[bytes] | Message | None = await self._find(owner, session_id, run_id)
        if isinstance(found, Run):
            await found.wait_accepted()
        if isinstance(found, Run | Message) and not found.detached:
            return None
        if isinstance(found, Message):
            found = await self.elsewhere.follow(found) or found
        if isinstance(found, Followed):
            await found.reach(last_event_id)
        if isinstance(found, Feed):
            seq = next_seq(last_event_id, found.id, found.numbered)
            whole = seq == len(found.log) or last_event_id == event_id(found.id, END)
            return None if found.ended.is_set() and whole else (found, seq)
        return None if found is None or last_event_id in ends_of(found) else found

    async def status(self, owner: str, session_id: str) -> StreamStatus:
        """Describe the session's latest run. Raises `NotFound` if the session is unknown or never streamed."""
        found = await self._find(owner, session_id, latest=True)
        if isinstance(found, Run):
            return status_of_run(found)
        if found is None:
            raise NotFound("run: the session never streamed")
        return await self.elsewhere.status(found) or status_of_answer(found)

    # Stopping

    async def stop(self, owner: str, session_id: str, run_id: str | None = None) -> Receipt | None:
        """Stop what the session runs and withdraw what it queued, or run *run_id* alone; return when it is saved.

        None when nothing was running. An id nobody knows yet is remembered, for the request that it overtook. Raises
        `NotFound` for an unknown session, and for a run of another one, `NodeUnreachable` when the run's owner is
        silent, and obeys later.
        """
        if run_id is not None:
            return await self._stop_run(owner, session_id, run_id)
        line = self.runs.live(session_id)
        if not line:
            await self.store.session(session_id, owner)
        elif line[0].owner != owner:
            raise NotFound("session")
        far = await self.elsewhere.stop_session(session_id, lambda: self.runs.stop(session_id))
        answers = await self.elsewhere.ends(far)
        near = [await self._receipt_here(run) for run in line]
        receipts = [await self._receipt(answer) for answer in answers]
        receipts = near + receipts if line and line[0].pulled else receipts + near  # the head's first
        return next((receipt for receipt in receipts if receipt is not None), None)

    async def _stop_run(self, owner: str, session_id: str, run_id: str) -> Receipt | None:
        run = self.runs.get(run_id)
        if run is None:
            return await self._stop_run_elsewhere(owner, session_id, run_id)
        if (run.session_id, run.owner) != (session_id, owner):
            raise NotFound("run")
        if not self.runs.stop_run(run):
            return None
        await run.ended.wait()
        if isinstance(run.refusal, RunExists):  # another node was quicker with it
            return await self._stop_run_elsewhere(owner, session_id, run_id)
        return await self._receipt_here(run)

    async def _stop_run_elsewhere(self, owner: str, session_id: str, run_id: str) -> Receipt | None:
        self.runs.stop_unborn(run_id, owner)
        await self.elsewhere.stop_unborn(owner, run_id)
        found = await self.store.answer_of(run_id, owner) if self.elsewhere.exists else None
        if found is None:
            return None
        if found.session_id != session_id:
            raise NotFound("run")
        if found.status is not Status.STREAMING:
            return None
        await self.elsewhere.stop([found])
        [answer] = await self.elsewhere.ends([found])
        return await self._receipt(answer)

    async def _receipt_here(self, run: Run[bytes]) -> Receipt | None:
        await run.ended.wait()
        if run.withdrawn:  # another node has ended it, and what that has saved is the answer
            answer = await self.store.answer_of(run.id, run.owner)
            if answer is not None and answer.status is Status.STREAMING:
                [answer] = await self.elsewhere.ends([answer])
            return await self._receipt(answer)
        return receipt_of_run(run)

    async def _receipt(self, answer: Message | None) -> Receipt | None:
        if answer is None:
            return None
        return receipt_of_answer(answer, await self.store.ledger_of(str(answer.run_id)))

    # Deciding

    async def approve(self, owner: str, session_id: str, call_id: str, verdict: Verdict) -> None:
        """Decide whether a tool call that waits for it may be made.

        Raises `NotFound` for an unknown session or call, `AlreadyDecided` for a call that no longer waits.
        """
        found = await self._find(owner, session_id)
        if isinstance(found, Message):
            await self.elsewhere.approve(found, call_id, verdict)
            return
        approvals = None if found is None else generation_of(found).approvals
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
        found = await self._find(owner, session_id, run_id, latest=True)
        if found is None or not found.detached:
            raise NotFound("run: nothing in this session can be watched by others")
        return found.id if isinstance(found, Run) else str(found.run_id)

    async def session(self, owner: str, session_id: str) -> tuple[Session, Sequence[Message]]:
        """Return the session and its messages, a streaming one as it is this very moment. Raises `NotFound`."""
        session = await self.store.session(session_id, owner)
        return session, [await self.fresh(message) for message in await self.store.messages(session_id)]

    async def is_shown(self, session_id: str, run_id: str) -> bool:
        """Whether the session's own stream is that of this run, and not of one before it."""
        if self.elsewhere.exists:
            return (await self.active_runs([session_id])).get(session_id) in (None, run_id)
        run = self.runs.current(session_id)
        return run is not None and run.id == run_id

    async def active_runs(self, session_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the ids of the runs at the heads of those sessions' lines that have live runs."""
        here = {session_id: line[0].id for session_id in session_ids if (line := self.runs.live(session_id))}
        return {**here, **await self.elsewhere.active_runs(session_ids)}

    async def delete_session(self, owner: str, session_id: str) -> None:
        """Stop the session's runs, then delete it. Raises `NotFound`."""
        await self.stop(owner, session_id)
        await self.store.delete_session(session_id, owner)
        self.runs.stop(session_id)  # what began between the two: its answer has no row any more
        self.forget_session(session_id)

    def forget_session(self, session_id: str) -> None:
        """Free what there is of the session's ended runs, on all nodes."""
        self.runs.forget_session(session_id)
        self.elsewhere.forget_session(session_id)

    async def fresh(self, message: Message) -> Message:
        """Return *message*, if it streams as it is this very moment."""
        if message.status is not Status.STREAMING:
            return message
        run = self.runs.get(message.run_id) if message.run_id else None
        if run is None:
            return await self.elsewhere.fresh(message)
        answer = generation_of(run).answer
        return replace(message, content=answer.content, reasoning=answer.reasoning, parts=answer.parts())

    async def ledger(self, message: Message) -> Sequence[Mapping[str, Any]] | None:
        """Return what the run that made *message* has written down; None if its process died with it."""
        return await self.elsewhere.ledger(message) or await self.store.ledger_of(str(message.run_id))


async def _is_double(run: Run[bytes]) -> bool:
    """Return whether it is refused because another node was quicker with the same run; then it has gone from here."""
    await run.accepted.wait()
    if not isinstance(run.refusal, RunExists):
        return False
    await run.ended.wait()
    return True


def _check_session(found: Run[bytes] | Message, request: Request) -> None:
    if isinstance(found, Run) and found.owner != request.owner:
        raise NotFound("run")
    if request.session_id not in (None, found.session_id):
        raise InvalidField("run_id", "belongs to a run of another session")
