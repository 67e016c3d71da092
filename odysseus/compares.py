"""Compares: one prompt, several models, each pane run directly by the one client that opens its stream."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

from odysseus.errors import AlreadyClaimed, Busy, InvalidField, NotFound
from odysseus.messages import Compare, Message, Mode, Pane, now
from odysseus.run import Run, Sink
from odysseus.service import Kept, Service
from odysseus.stream_status import generation_of
from odysseus.turns import Request

__all__ = ["Compares"]

_random = random.SystemRandom()


class Compares:
    def __init__(self, service: Service, *, pane_expiry_s: float) -> None:
        self._service = service
        self._pane_expiry = timedelta(seconds=pane_expiry_s)

    async def create(
        self,
        owner: str,
        prompt: str,
        models: Sequence[str],
        mode: Mode = Mode.CHAT,
        system: str | None = None,
        *,
        blind: bool = False,
    ) -> Compare:
        """Make a compare; each of its panes waits for its one client. The models of a blind one are in no order.

        Raises `InvalidField`, `ModelsUnknown`.
        """
        for place, model in enumerate(models):
            try:
                await self._service.turns.catalog.find(model)
            except InvalidField as error:
                raise InvalidField(f"models.{place}", error.problem) from error
        if blind:
            models = _random.sample(models, len(models))
        return await self._service.store.create_compare(
            owner, prompt=prompt, mode=mode, system=system, models=models, blind=blind
        )

    async def pane(self, owner: str, compare_id: str, number: int, sink: Sink[bytes]) -> bool | Kept:
        """Run the pane with *sink* as its client, to the end, or until it is kept; False if it has been started before.

        Raises `NotFound` for an unknown pane and for one that nobody started in time, and what `direct` raises.
        """
        compare = await self._service.store.compare(compare_id, owner)
        pane = _pane(compare, number)
        if pane.claimed:
            return False
        if now() - compare.created_at > self._pane_expiry:
            raise NotFound("pane: it wasn't started in time")
        request = Request(
            owner=owner,
            text=compare.prompt,
            session_id=pane.session_id,
            model=pane.model,
            mode=compare.mode,
            claims=(compare_id, number),
        )
        try:
            return await self._service.tethered(request, sink) or True
        except AlreadyClaimed:
            return False
        except Busy:
            if any(
                generation_of(run).turn.claims == request.claims for run in self._service.runs.live(pane.session_id)
            ):
                return False  # somebody is just taking it
            raise

    async def keep(self, owner: str, compare_id: str, number: int) -> Run[bytes] | Message:
        """Make a chat of the pane: what it runs goes on, whoever leaves. Raises what `Service.keep` does."""
        pane = _pane(await self._service.store.compare(compare_id, owner), number)
        return await self._service.keep(owner, pane.session_id)

    async def results(self, owner: str, compare_id: str) -> tuple[Compare, Sequence[Message | None]]:
        """Return the compare and each pane's answer, None for one that wasn't started. Raises `NotFound`."""
        compare = await self._service.store.compare(compare_id, owner)
        answers = [await self._service.store.latest_answer(pane.session_id) for pane in compare.panes]
        return compare, [answer and await self._service.fresh(answer) for answer in answers]

    async def vote(self, owner: str, compare_id: str, winner: int | None) -> Compare:
        """Vote for pane *winner* (None: a tie) of a blind compare, once. Its models have names from then on.

        Raises `NotFound`, `InvalidField`, `NotBlind`, `NotEnded`, `AlreadyVoted`.
        """
        compare = await self._service.store.votes.cast(compare_id, owner, winner)
        for pane in compare.panes:
            self._service.forget_session(pane.session_id)  # they know a label; what is stored has the name
        return compare


def _pane(compare: Compare, number: int) -> Pane:
    if not 0 <= number < len(compare.panes):
        raise NotFound("pane")
    return compare.panes[number]
