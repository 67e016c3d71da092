"""Which model is served by which model server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from odysseus.errors import InvalidField, ModelsUnknown, UpstreamError
from odysseus.tasks import Tasks
from odysseus.upstream import Upstream
from odysseus.upstream.client import Client

__all__ = ["Catalog", "Model"]

_log = logging.getLogger(__name__)

_FRESH_S = 60.0  # a list that was asked for is believed for so long
_AGAIN_S = 2.0  # a model nobody knows makes us ask again, no more often than this


@dataclass(frozen=True, slots=True)
class Model:
    id: str
    upstream: str
    """The model server's name in the settings."""
    default: bool


class Catalog:
    """The models of all model servers, in the order of the settings; the first one is the default.

    *servers* are pairs of a client and the models its settings name; where they name none, the server is asked.
    """

    def __init__(self, servers: Sequence[tuple[Client, Sequence[str]]]) -> None:
        self._servers = servers
        self._known: dict[str, list[str]] = {client.name: list(named) for client, named in servers}
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._tasks = Tasks()

    async def close(self) -> None:
        await self._tasks.drain(0)
        for client, _ in self._servers:
            await client.close()

    async def models(self) -> Sequence[Model]:
        """Return every known model, once. A server that doesn't answer keeps those it had."""
        await self._refresh(_FRESH_S)
        return self._models()

    async def find(self, model: str | None) -> tuple[str, Upstream]:
        """Return the model's id and its server; None asks for the default.

        Raises `InvalidField` for a model nobody serves, `ModelsUnknown` when no server has said what it serves.
        """
        await self._refresh(_FRESH_S)
        if self._server_of(model) is None:
            await self._refresh(_AGAIN_S)
        if (found := self._server_of(model)) is not None:
            return found
        if not (known := self._models()):
            raise ModelsUnknown
        raise InvalidField("model", f"{model!r} is not one of {', '.join(sorted(entry.id for entry in known))}")

    def _models(self) -> list[Model]:
        models: dict[str, Model] = {}
        for client, _ in self._servers:
            for model in self._known[client.name]:
                models.setdefault(model, Model(model, client.name, default=not models))
        return list(models.values())

    def _server_of(self, model: str | None) -> tuple[str, Upstream] | None:
        for client, _ in self._servers:
            for known in self._known[client.name]:
                if model is None or model == known:
                    return known, client
        return None

    async def _refresh(self, max_age_s: float) -> None:
        """Ask the servers again if the lists are older than *max_age_s*. All share one asking."""
        if self._asking is None:
            if asyncio.get_running_loop().time() - self._asked_at < max_age_s or all(
                named for _, named in self._servers
            ):
                return
            self._asking = self._tasks.spawn(self._ask_all())
        await asyncio.shield(self._asking)

    async def _ask_all(self) -> None:
        try:
            await asyncio.gather(*(self._ask(client) for client, named in self._servers if not named))
        finally:
            self._asked_at = asyncio.get_running_loop().time()
            self._asking = None

    async def _ask(self, client: Client) -> None:
        try:
            self._known[client.name] = await client.models()
        except UpstreamError as error:
            _log.warning("model server %s doesn't list its models: %s", client.name, error)
