"""This process as one of several nodes. Loads Redis' client: who is alone spares itself 40 ms and 6 MB."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from odysseus.alone import Alone
from odysseus.cluster.cluster import Cluster
from odysseus.cluster.connections import connect
from odysseus.cluster.streams import Streams
from odysseus.elsewhere import Elsewhere
from odysseus.errors import NotFound, StoreError
from odysseus.messages import Final, Message
from odysseus.recovery import empty_spool
from odysseus.runs import Runs
from odysseus.saves import Saves
from odysseus.settings import Settings
from odysseus.store import Store
from odysseus.store.nodes import Nodes
from odysseus.tasks import Tasks
from odysseus.told import Told, told_of_lost

__all__ = ["among_others"]

_AGAIN_S = 2.0
_ANSWER_S = 2.0  # of Redis; it takes a millisecond


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
    name = folder / "node"
    predecessor = name.read_text() if name.exists() else None

    def on_joined(node: str) -> None:
        store.node = node
        name.write_text(node)  # the folder is held by one process at a time: whoever reads this knows that we are dead

    def on_ended(message: Message, final: Final) -> None:
        tasks.spawn(_tell_of_lost(message, final, store, tell), apart=True)

    cluster = Cluster(
        runs,
        _streams(settings, stack),
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
    await cluster.join()  # from here on the others may ask
    stack.push_async_callback(cluster.leave)
    left = await nodes.adopt(cluster.node, of=predecessor)
    await empty_spool(saves)
    cluster.end_lost(left)
    return elsewhere


def _streams(settings: Settings, stack: AsyncExitStack) -> Streams:
    assert settings.redis_url is not None
    streams = Streams(connect(settings.redis_url, answer_s=_ANSWER_S), connect(settings.redis_url, answer_s=None))
    stack.push_async_callback(streams.close)
    return streams


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
