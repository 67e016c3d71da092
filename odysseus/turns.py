"""A request becomes a turn: whose session, which model, which tools, and the generation that makes the answer."""

from __future__ import annotations

from dataclasses import dataclass

from odysseus.agent import Agent, AgentLimits
from odysseus.approvals import Approvals
from odysseus.concealed import choose
from odysseus.generation import Generation
from odysseus.messages import Mode, Turn, new_id
from odysseus.run import IfBusy
from odysseus.saves import Saves
from odysseus.store import Store
from odysseus.tasks import Tasks
from odysseus.tools import Caller
from odysseus.tools.toolbox import Toolbox
from odysseus.upstream import Upstream
from odysseus.upstream.catalog import Catalog

__all__ = ["Request", "Turns"]


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
class Turns:
    store: Store
    catalog: Catalog
    toolbox: Toolbox
    agent_limits: AgentLimits
    saves: Saves
    tasks: Tasks

    async def generation(self, request: Request, *, detached: bool) -> Generation:
        """Return what makes the answer; nothing has happened yet.

        Raises `NotFound`, `InvalidField`, `ModelsUnknown`, `Concealed`.
        """
        session = None if request.session_id is None else await self.store.session(request.session_id, request.owner)
        model, asks, upstream = await choose(self.catalog, session, request.model, request.claims)
        turn = Turn(
            session_id=new_id("ses") if session is None else session.id,
            message_id=new_id("msg"),
            run_id=request.run_id or new_id("run"),
            owner=request.owner,
            text=request.text,
            model=model,
            mode=request.mode,
            detached=detached,
            system=request.system if request.system is not None or session is None else session.system,
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            new_session=session is None,
            claims=request.claims,
            asks=asks,
        )
        return self._of_agent(turn, upstream) if turn.mode is Mode.AGENT else self._of_model(turn, upstream)

    def _of_model(self, turn: Turn, upstream: Upstream) -> Generation:
        return Generation(turn, upstream, self.store, self.saves)

    def _of_agent(self, turn: Turn, upstream: Upstream) -> Generation:
        approvals = Approvals() if turn.detached else None
        caller = Caller(turn.session_id, turn.owner)
        agent = Agent(upstream, self.toolbox, self.agent_limits, caller, approvals, self.tasks)
        return Generation(turn, agent, self.store, self.saves, approvals)
