"""What the service needs of other nodes. Where there are none, what isn't here isn't anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from odysseus.approvals import Verdict
from odysseus.cluster.figures import Figures
from odysseus.cluster.followed import Followed
from odysseus.errors import NotFound
from odysseus.generation import Generation
from odysseus.messages import Message
from odysseus.run import Before, Opening, Run
from odysseus.stream_status import StreamStatus
from odysseus.turns import Request

__all__ = ["Alone"]


class Alone:
    """There are no other nodes."""

    exists = False
    """Whether there may be runs elsewhere."""

    def figures(self) -> Figures:
        """Return how this node is among the others."""
        return Figures()

    async def line_settled(self, session_id: str) -> None:
        """Wait until it is known which of the session's runs here are refused, as other nodes have been quicker."""

    def way_in(self, generation: Generation, request: Request) -> tuple[Opening, Before | None]:
        """Return what a new run does before it is accepted, and before it is pulled."""
        return generation.opening, None

    async def follow(self, message: Message) -> Followed | None:
        """Return the run that makes, or made, *message* on another node; None if its log is gone."""
        return None

    async def stop_session(self, session_id: str, stop_here: Callable[[], object]) -> Sequence[Message]:
        """Stop what the session runs, here by *stop_here*; return the answers whose runs were asked on other nodes."""
        stop_here()
        return ()

    async def stop(self, messages: Sequence[Message]) -> None:
        """Ask for the ends of the runs that make *messages*, on other nodes."""

    async def ends(self, messages: Sequence[Message]) -> Sequence[Message | None]:
        """Wait until these have ended; return what was saved. Raises `NodeUnreachable`: then that is still to come."""
        return ()

    async def stop_unborn(self, owner: str, run_id: str) -> None:
        """Tell everybody that *run_id*, which nobody knows, must not start."""

    async def keep(self, message: Message) -> None:
        """Let go of the client of the direct run that makes *message*, if that is on another node. Raises
        `NodeUnreachable`."""

    def publish(self, run: Run[bytes], log_id: str) -> None:
        """Let *run*, which was a direct one, be followed on all nodes."""

    async def status(self, message: Message) -> StreamStatus | None:
        """Return what the owner says of the run that makes *message*; None if it can't be asked."""
        return None

    async def approve(self, message: Message, call_id: str, verdict: Verdict) -> None:
        """Raises `NotFound`, `AlreadyDecided`, `NodeUnreachable`."""
        raise NotFound("call that waits for approval")

    async def fresh(self, message: Message) -> Message:
        """Return *message* as it is this very moment, as far as its owner can be asked."""
        return message

    async def ledger(self, message: Message) -> Sequence[Mapping[str, Any]] | None:
        """Return what the live run that makes *message* has written down; None if it can't be asked."""
        return None

    async def active_runs(self, session_ids: Sequence[str]) -> Mapping[str, str]:
        """Return which of the sessions have live runs, on whatever node, and the ids of the first ones."""
        return {}

    def hand_over(self) -> None:
        """Let all subscribers go: other nodes have what they came for."""

    def forget_session(self, session_id: str) -> None:
        """Free what all have of the session, which is deleted."""
