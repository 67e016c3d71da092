"""What the service needs of other nodes, where there are some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from odysseus.alone import Alone
from odysseus.approvals import Decision, Verdict
from odysseus.cluster.cluster import Cluster
from odysseus.cluster.entrance import Entrance
from odysseus.cluster.figures import Figures
from odysseus.cluster.followed import Followed
from odysseus.errors import NodeUnreachable, NotFound, StoreError
from odysseus.generation import Generation
from odysseus.messages import Message, now
from odysseus.run import Before, Opening, Run
from odysseus.runs import Runs
from odysseus.states import Status, StopReason
from odysseus.store import Store
from odysseus.stream_status import StreamStatus, generation_of, status_of_run
from odysseus.turns import Request

__all__ = ["Elsewhere"]

_status = TypeAdapter(StreamStatus)

_SOON_S = 0.2
_STOPPED_S = 30.0  # more than it takes to find a dead owner, and to end its runs


class Elsewhere(Alone):
    exists = True

    def __init__(self, cluster: Cluster, runs: Runs[bytes], store: Store, *, grace_s: float, max_queued: int) -> None:
        self._cluster = cluster
        self._runs = runs
        self._store = store
        self._grace = timedelta(seconds=grace_s)
        self._max_queued = max_queued
        cluster.serve(
            keep=self._keep_here,
            status=self._status_here,
            approve=self._approve_here,
            fresh=self._fresh_here,
            ledger=self._ledger_here,
        )

    def figures(self) -> Figures:
        return self._cluster.figures()

    async def line_settled(self, session_id: str) -> None:
        while open_ := [run for run in self._runs.live(session_id) if run.refusal or not run.accepted.is_set()]:
            await (open_[0].ended if open_[0].refusal else open_[0].accepted).wait()

    def way_in(self, generation: Generation, request: Request) -> tuple[Opening, Before | None]:
        turn = generation.turn
        entrance = Entrance(
            self._cluster,
            generation.opening,
            self._runs.live(turn.session_id),
            run_id=turn.run_id,
            owner=turn.owner,
            named=request.run_id is not None,
            if_busy=request.if_busy,
            max_queued=self._max_queued,
        )

        async def opening() -> None:
            run = self._runs.get(turn.run_id)
            assert run is not None
            await entrance.opening()
            if entrance.node != self._cluster.node:
                self._runs.disown(run)  # the others took us for dead just after it was stored
            elif turn.detached:
                self._cluster.publish(run, turn.message_id)
            if request.run_id is not None and await self._cluster.is_stopped_unborn(turn.owner, turn.run_id):
                run.ask(StopReason.USER_STOP)  # its stop looked for it just before it was stored

        return opening, entrance.before

    async def follow(self, message: Message) -> Followed | None:
        there = self._cluster.is_elsewhere(message) or self._kept(message)
        return await self._cluster.follow(message) if message.detached and there else None

    def _kept(self, message: Message) -> bool:
        """Whether its log may still be there."""
        return message.ended_at is not None and now() - message.ended_at < self._grace

    async def stop_session(self, session_id: str, stop_here: Callable[[], object]) -> Sequence[Message]:
        """Those that wait elsewhere come first, so that none of them begins; but no model goes on for a slow store."""
        asked = None
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(_SOON_S):
                asked = await self._stop_elsewhere(session_id)
        stop_here()
        return await self._stop_elsewhere(session_id) if asked is None else asked

    async def _stop_elsewhere(self, session_id: str) -> Sequence[Message]:
        live = [m for m in await self._store.live_answers(session_id) if self._cluster.is_elsewhere(m)]
        await self.stop(live)
        return live

    async def stop(self, messages: Sequence[Message]) -> None:
        for message in messages:
            await self._cluster.stop(str(message.run_id), message.node, StopReason.USER_STOP)

    async def ends(self, messages: Sequence[Message]) -> Sequence[Message | None]:
        return [await self._cluster.ended(str(message.run_id), _STOPPED_S) for message in messages]

    async def stop_unborn(self, owner: str, run_id: str) -> None:
        await self._cluster.stop_unborn(owner, run_id)

    async def keep(self, message: Message) -> None:
        if self._cluster.is_elsewhere(message):
            with suppress(NotFound):  # it has ended this moment
                await self._cluster.ask(message, "keep", "it isn't kept; try again soon", log_id=message.id)

    def publish(self, run: Run[bytes], log_id: str) -> None:
        self._cluster.publish(run, log_id)

    async def status(self, message: Message) -> StreamStatus | None:
        told = await self._told(message, "status")
        return None if told is None else _status.validate_python(told)

    async def approve(self, message: Message, call_id: str, verdict: Verdict) -> None:
        if message.node in (None, self._cluster.node) or not (
            self._cluster.is_elsewhere(message) or self._kept(message)
        ):
            raise NotFound("call that waits for approval")
        values = {"call_id": call_id, "decision": verdict.decision, "reason": verdict.reason}
        await self._cluster.ask(message, "approve", "nothing is decided; try again soon", **values)

    async def fresh(self, message: Message) -> Message:
        told = await self._told(message, "fresh")
        return message if told is None else replace(message, **told)

    async def ledger(self, message: Message) -> Sequence[Mapping[str, Any]] | None:
        told: Sequence[Mapping[str, Any]] | None = await self._told(message, "ledger")
        return told

    async def active_runs(self, session_ids: Sequence[str]) -> Mapping[str, str]:
        return await self._store.active_runs(session_ids)

    def hand_over(self) -> None:
        self._cluster.hand_over()

    def forget_session(self, session_id: str) -> None:
        self._cluster.forget_session(session_id)

    async def _told(self, message: Message, verb: str) -> Any:
        if not self._cluster.is_elsewhere(message):
            return None
        try:
            return await self._cluster.ask(message, verb, "")
        except (NodeUnreachable, NotFound):  # it is silent, or has ended the run this moment: the store knows the rest
            return None

    # What other nodes ask of us

    def _run(self, run_id: str) -> Run[bytes]:
        run = self._runs.get(run_id)
        if run is None or not run.accepted.is_set() or run.refusal is not None:
            raise NotFound("run")
        return run

    async def _status_here(self, run_id: str) -> Any:
        return _status.dump_python(status_of_run(self._run(run_id)), mode="json")

    async def _keep_here(self, run_id: str, log_id: str) -> None:
        if (run := self._run(run_id)).keep():
            self._cluster.publish(run, log_id)
        elif run.ending is not None:
            await run.ended.wait()

    async def _approve_here(self, run_id: str, call_id: str, decision: str, reason: str | None) -> None:
        approvals = generation_of(self._run(run_id)).approvals
        if approvals is None:
            raise NotFound("call that waits for approval")
        approvals.decide(call_id, Verdict(Decision(decision), reason))

    async def _fresh_here(self, run_id: str) -> Any:
        run = self._run(run_id)
        if run.status is not Status.STREAMING:
            raise NotFound("run")
        answer = generation_of(run).answer
        return {"content": answer.content, "reasoning": answer.reasoning, "parts": answer.parts()}

    async def _ledger_here(self, run_id: str) -> Any:
        return self._run(run_id).ledger.entries()
