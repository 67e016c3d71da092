"""Saves where there are other nodes: only the store's word counts, as one of them may end what waits in a spool."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from odysseus.saves import Saved, Saves
from odysseus.states import Status, StopReason
from odysseus.tasks import Tasks
from tests.scenes import virtual
from tests.test_saves import FINAL, MemorySpool, Store
from tests.virtual_time import now

FAILS = ["fails"] * 3  # one round of attempts, which take 0.6 s


def shared(store: Store, spool: MemorySpool) -> Saves:
    return Saves(store.finish, spool, Tasks(), shared=True)


@virtual
async def test_what_the_store_takes_needs_no_spool() -> None:
    store, spool = Store("fails"), MemorySpool()
    assert await shared(store, spool).save(FINAL) == Saved("store", 2)
    assert (store.rows[FINAL.message_id], spool.held, now()) == (FINAL, {}, 0.1)


@virtual
async def test_what_waits_in_the_spool_is_not_saved() -> None:
    """It is there for a start after a crash, and until then it is tried again."""
    store, spool = Store(*FAILS, *FAILS), MemorySpool()
    saving = asyncio.create_task(shared(store, spool).save(FINAL))
    await asyncio.sleep(5)
    assert list(spool.held) == [FINAL.message_id]
    assert not saving.done()
    assert await saving == Saved("store", 7)
    assert (store.committed, spool.held) == ([FINAL.message_id], {})
    assert [round(at, 3) for at in store.calls] == [0, 0.1, 0.6, 5.6, 5.7, 6.2, 11.2]


@virtual
async def test_an_outage_of_an_hour() -> None:
    store, spool = Store(*FAILS * 600), MemorySpool()
    saved = await shared(store, spool).save(FINAL)
    assert (saved.to, saved.first, store.committed, spool.held) == ("store", True, [FINAL.message_id], {})
    assert 3000 < now() < 4000


@pytest.mark.parametrize("failures", [[], FAILS])
@virtual
async def test_another_node_was_quicker(failures: list[str]) -> None:
    theirs = replace(FINAL, status=Status.INTERRUPTED, stop_reason=StopReason.NODE_LOST)
    store, spool = Store(*failures, ended=[theirs]), MemorySpool()
    saved = await shared(store, spool).save(FINAL)
    assert (saved.to, saved.first) == ("store", False)
    assert (store.rows[FINAL.message_id], spool.held) == (theirs, {})


@virtual
async def test_neither_the_store_nor_the_spool_works_for_a_while() -> None:
    store, spool = Store(*FAILS, *FAILS, *FAILS), MemorySpool(failing=2)
    saving = asyncio.create_task(shared(store, spool).save(FINAL))
    await asyncio.sleep(7)
    assert (spool.held, saving.done()) == ({}, False)
    await asyncio.sleep(5)
    assert list(spool.held) == [FINAL.message_id]
    assert await saving == Saved("store", 10)
    assert spool.held == {}
