"""What a simulated agent works with: tools that misbehave as their calls say, and a user who decides about some."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from odysseus.agent import Agent, AgentLimits
from odysseus.approvals import Approvals, Decision, Verdict
from odysseus.errors import AlreadyDecided, NotFound
from odysseus.generation import Generation, Transcript
from odysseus.messages import Mode
from odysseus.run import Run
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.tasks import Tasks
from odysseus.tools import Caller, Tool, ToolError
from odysseus.tools.toolbox import Toolbox
from tests.simulation.schedule import TICK, Request, Work
from tests.simulation.world import Model, World

__all__ = ["User", "Workshop", "approvals_of", "new_generation"]


def new_generation(
    model: Model, workshop: Workshop, limits: AgentLimits, transcript: Transcript, saves: Saves, tasks: Tasks
) -> Generation:
    """What `Service` makes of a turn."""
    turn = model.request.turn
    if turn.mode is Mode.CHAT:
        return Generation(turn, model, transcript, saves)
    approvals = Approvals() if turn.detached else None
    agent = Agent(model, workshop.toolbox, limits, Caller(turn.session_id, turn.owner), approvals, tasks)
    return Generation(turn, agent, transcript, saves, approvals)


@dataclass(eq=False)
class _AtWork:
    cancelled: bool = False


class Workshop:
    """The tools of one run."""

    def __init__(self, world: World, request: Request) -> None:
        self.world, self.turn = world, request.turn
        self.held_up_s = 0.0
        """The longest time for which one of them clung to life."""
        self.toolbox = Toolbox([self._tool("work"), self._tool("risky", needs_approval=True)])
        self._at_work: set[_AtWork] = set()

    @property
    def at_work(self) -> int:
        return len(self._at_work)

    @property
    def undisturbed(self) -> int:
        """How many are at work, and nobody has told them to end."""
        return sum(not one.cancelled for one in self._at_work)

    def _tool(self, name: str, *, needs_approval: bool = False) -> Tool:
        async def call(arguments: Mapping[str, Any], caller: Caller) -> str:
            self.world.expect(
                caller == Caller(self.turn.session_id, self.turn.owner), f"{self.turn.run_id}: {name} serves {caller}"
            )
            work = _work(arguments)
            allowed = self.turn.detached and work.decided is not None and work.allowed
            self.world.expect(allowed or not needs_approval, f"{self.turn.run_id}: {name} works without approval")
            self.world.say(f"{self.turn.run_id}: {name} begins")  # its end isn't told: they are cancelled in any order
            return await self._done(work)

        parameters = {"type": "object", "properties": {}}
        return Tool(
            name=name, description="", parameters=parameters, source="test", needs_approval=needs_approval, call=call
        )

    async def _done(self, work: Work) -> str:
        one = _AtWork()
        self._at_work.add(one)
        try:
            if work.takes is None:
                await asyncio.Event().wait()
            else:
                await asyncio.sleep(work.takes * TICK)
        except asyncio.CancelledError:
            one.cancelled = True
            if self.world.dead or not work.clings:
                raise
            self.held_up_s = max(self.held_up_s, work.clings * TICK)
            await asyncio.sleep(work.clings * TICK)
        finally:
            self._at_work.discard(one)
        match work.end:
            case "fails":
                raise ToolError("it can't be done")
            case "breaks":
                raise ValueError("a bug")
            case "gives up":
                raise asyncio.CancelledError
        return "word " * work.words


def _work(arguments: Mapping[str, Any]) -> Work:
    try:
        return Work(**arguments)
    except TypeError as error:
        raise ToolError("the arguments don't fit") from error


class User:
    """Reads what *run* asks for, and decides in its time."""

    def __init__(self, world: World, runs: Runs[bytes], run: Run[bytes]) -> None:
        self.world, self.runs, self.run = world, runs, run

    def see(self, frame: bytes) -> None:
        if b'"type":"approval_request"' not in frame:
            return
        event = orjson.loads(frame.split(b"\n", 2)[1].removeprefix(b"data: "))
        if (ticks := event["arguments"].get("decided")) is not None:
            decision = Decision.ALLOW if event["arguments"]["allowed"] else Decision.DENY
            asyncio.get_running_loop().call_later(ticks * TICK, self._decide, event["call_id"], Verdict(decision))

    def _decide(self, call_id: str, verdict: Verdict) -> None:
        """What `Service.approve` does."""
        own, found = approvals_of(self.run), approvals_of(self.runs.current(self.run.session_id))
        waits = own is not None and call_id in [request.call_id for request in own.waiting()]
        self.world.expect(not waits or found is own, f"{self.run.id}: it waits for approval, and can't be found")
        if found is None:
            return
        try:
            found.decide(call_id, verdict)
        except (AlreadyDecided, NotFound) as refusal:
            self.world.say(f"{self.run.id}: a user is late: {type(refusal).__name__}")  # the call's id may be random
        else:
            self.world.say(f"{self.run.id}: a user says {verdict.decision}")
            self.world.expect(found is own, f"{self.run.id}: its user has decided about another run's call")


def approvals_of(run: Run[bytes] | None) -> Approvals | None:
    return run.about.approvals if run is not None and isinstance(run.about, Generation) else None
