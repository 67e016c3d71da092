"""The end of streams whose right to them has ended: a revoked token, one that expired, a watch link that ran out.

The run goes on; only who watches it is cut off, within `EVERY_S` and what the store takes to answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from odysseus.accounts import Identity
from odysseus.errors import StoreError
from odysseus.messages import now

__all__ = ["Guard"]

_log = logging.getLogger(__name__)

_EVERY_S = 10.0


class Guarded(Protocol):
    def cut(self) -> None:
        """End the stream. Neither waits nor raises."""


class Guard:
    """Looks again and again at who watches. *revoked* returns those of some API tokens' ids that are."""

    def __init__(self, revoked: Callable[[Collection[str]], Awaitable[set[str]]], every_s: float = _EVERY_S) -> None:
        self._revoked = revoked
        self._every_s = every_s
        self._streams: dict[Guarded, Identity] = {}

    def add(self, stream: Guarded, identity: Identity) -> None:
        if identity.token_id is not None or identity.expires_at is not None:
            self._streams[stream] = identity

    def discard(self, stream: Guarded) -> None:
        self._streams.pop(stream, None)

    async def watch(self) -> None:
        """Look for ever. To be cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._look()
            except StoreError as error:
                _log.warning("whether tokens are revoked can't be asked: %s", error)
            except Exception:  # whatever it is, revoked tokens must not stay good for it
                _log.exception("the look at who watches failed")

    async def _look(self) -> None:
        ids = {identity.token_id for identity in self._streams.values() if identity.token_id is not None}
        revoked = await self._revoked(ids) if ids else set()
        time = now()
        for stream, identity in tuple(self._streams.items()):
            expired = identity.expires_at is not None and identity.expires_at <= time
            if expired or identity.token_id in revoked:
                self.discard(stream)
                stream.cut()
