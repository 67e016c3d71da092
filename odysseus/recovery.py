"""What earlier processes have left is settled, before this one takes anything on."""

from __future__ import annotations

import logging
from datetime import timedelta

from odysseus.alone import Alone
from odysseus.errors import SettingsError
from odysseus.messages import now
from odysseus.saves import Saves
from odysseus.store import Store
from odysseus.store.nodes import Nodes

__all__ = ["alone", "empty_spool", "recover"]

_log = logging.getLogger(__name__)

_SILENT = timedelta(seconds=60)  # of nodes, before one process may take all their answers for its own


async def alone(store: Store, nodes: Nodes, saves: Saves) -> Alone:
    """Settle what earlier processes left: all that streams, as there are no others.

    Raises `SettingsError` when there are.
    """
    if await nodes.beaten_since(now() - _SILENT):
        problem = f"nodes use this database, or did within {_SILENT.seconds} s: set ODYSSEUS_REDIS_URL as they have it"
        raise SettingsError("ODYSSEUS_DATABASE_URL", problem)
    await nodes.adopt(None, of=None)
    await recover(store, saves)
    return Alone()


async def recover(store: Store, saves: Saves) -> None:
    """End what a dead process left `streaming`: its spooled answers first, they know more than the last checkpoint."""
    await empty_spool(saves)
    if lost := await store.interrupt_streaming(but=await saves.waiting()):
        _log.warning("%d answers of an earlier process were cut short by its death", lost)


async def empty_spool(saves: Saves) -> None:
    """Store the answers that waited on this disk."""
    if spooled := await saves.recover():
        _log.warning("%d answers of an earlier process went from the spool to the store", spooled)
