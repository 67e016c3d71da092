"""Tool calls that wait for somebody's decision. Knows neither who asks nor who answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from odysseus.errors import AlreadyDecided, NotFound
from odysseus.events import ApprovalRequest

__all__ = ["Approvals", "Decision", "Verdict"]


class Decision(StrEnum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Verdict:
    decision: Decision
    reason: str | None = None


class Approvals:
    """Those of one run."""

    def __init__(self) -> None:
        self._waiting: dict[str, tuple[ApprovalRequest, asyncio.Future[Verdict]]] = {}
        self._decided: set[str] = set()

    def waiting(self) -> Sequence[ApprovalRequest]:
        return [request for request, _ in self._waiting.values()]

    async def verdict(self, request: ApprovalRequest, limit_s: float) -> Verdict:
        """Wait for the decision on *request*. Raises `TimeoutError` after *limit_s*."""
        decided: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._waiting[request.call_id] = request, decided
        try:
            async with asyncio.timeout(limit_s):
                return await decided
        finally:
            del self._waiting[request.call_id]
            self._decided.add(request.call_id)

    def decide(self, call_id: str, verdict: Verdict) -> None:
        """Decide a waiting call. Raises `NotFound`, and `AlreadyDecided` for one that no longer waits."""
        _, decided = self._waiting.get(call_id, (None, None))
        if call_id in self._decided or (decided is not None and decided.done()):
            raise AlreadyDecided(call_id)
        if decided is None:
            raise NotFound("call that waits for approval")
        decided.set_result(verdict)
