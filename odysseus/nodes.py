"""This process among others: what earlier ones have left is settled, and with Redis it becomes one of several nodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

from odysseus.alone import Alone
from odysseus.errors import NotFound, SettingsError, StoreError
from odysseus.messages import Final, Message, now
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.settings import Settings
from odysseus.store import Store
from odysseus.store.nodes import Nodes
from odysseus.tasks import Tasks
from odysseus.told import Told, told_of_lost

__all__ = ["alone", "among_others", "recover"]

_log = logging.getLogger(__name__)

_SILENT = timedelta(seconds=60)  # of nodes, before one process may take all their answers for its own
_AGAIN_S = 2.0
_ANSWER_S = 2.0  # of Redis; it takes a millisecond


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
    await _empty_spool(saves)
    if lost := await store.interrupt_streaming(but=await saves.waiting()):
        _log.warning("%d answers of an earlier process were cut short by its death", lost)


async def among_others(
    settings: Settings,
    folder: Path,
    runs: Runs[bytes],
    store: Store,
    nodes: Nodes,
    saves: Saves,
    tell: Callable[[Told], None],
    tasks: Tasks,
    stack: AsyncExitStack,
) -> Alone:
    """Take a place among the nodes, and settle what an earlier process of this data folder left.

    Raises `SettingsError` for a URL that names no Redis. A Redis that is away is waited for, beside everything else.
    """
    # With Redis's client, they take 40 ms and 6 MB, which who is alone can do without.
    from odysseus.cluster.cluster import Cluster
    from odysseus.cluster.connections import connect
    from odysseus.cluster.streams import Streams
    from odysseus.elsewhere import Elsewhere

    assert settings.redis_url is not None
    streams = Streams(connect(settings.redis_url, answer_s=_ANSWER_S), connect(settings.redis_url, answer_s=None))
    stack.push_async_callback(streams.close)
    name = folder / "node"
    predecessor = name.read_text() if name.exists() else None

    def on_joined(node: str) -> None:
        store.node = node
        name.write_text(node)  # the folder is held by one process at a time: whoever reads this knows that we are dead

    def on_ended(message: Message, final: Final) -> None:
        tasks.spawn(_tell_of_lost(message, final, store, tell), apart=True)

    cluster = Cluster(
        runs,
        streams,
        nodes,
        lambda run_id: store.answer_of(run_id, None),
        store.finish,
        tasks,
        on_joined=on_joined,
        on_ended=on_ended,
        lease_s=settings.lease_s,
        live_s=settings.wall_clock_timeout_s + settings.replay_grace_s,
        grace_s=settings.replay_grace_s,
        needs_redis=settings.redis_required,
    )
    elsewhere = Elsewhere(cluster, runs, store, grace_s=settings.replay_grace_s, max_queued=settings.max_queued)
    await cluster.join()
    stack.push_async_callback(cluster.leave)
    left = await nodes.adopt(cluster.node, of=predecessor)
    await _empty_spool(saves)
    cluster.end_lost(left)
    return elsewhere


async def _tell_of_lost(message: Message, final: Final, store: Store, tell: Callable[[Told], None]) -> None:
    while True:
        try:
            owner = await store.owner_of(message.session_id)
        except NotFound:
            return  # its session was deleted this moment
        except StoreError:
            await asyncio.sleep(_AGAIN_S)
        else:
            tell(told_of_lost(message, final, owner))
            return


async def _empty_spool(saves: Saves) -> None:
    if spooled := await saves.recover():
        _log.warning("%d answers of an earlier process went from the spool to the store", spooled)
