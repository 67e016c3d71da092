"""Compares, and the panes of which each is claimed once."""

from __future__ import annotations

import pytest

from odysseus.errors import AlreadyClaimed, NotFound
from odysseus.messages import Mode
from odysseus.store import Store
from tests.store.test_store import STRANGE, listed, near_now, outcomes, turn


async def test_compares(store: Store) -> None:
    made = await store.create_compare("ann", prompt=STRANGE, mode=Mode.CHAT, system="S", models=["m", "n", "m"])
    assert [(pane.number, pane.model, pane.claimed) for pane in made.panes] == [
        (0, "m", False), (1, "n", False), (2, "m", False)
    ]  # fmt: skip
    assert await store.compare(made.id, "ann") == made
    assert near_now(made.created_at)
    for pane in made.panes:
        session = await store.session(pane.session_id, "ann")
        assert (session.compare_id, session.model, session.system) == (made.id, pane.model, "S")
    assert await listed(store) == []
    with pytest.raises(NotFound):
        await store.compare("cmp_9", "ann")


async def test_a_pane_is_claimed_once(stores: list[Store]) -> None:
    compare = await stores[0].create_compare("ann", prompt="Hi", mode=Mode.CHAT, system=None, models=["m", "n"])
    pane = compare.panes[1]
    claims = [
        turn(number, pane.session_id, new_session=False, claims=(compare.id, 1), detached=False) for number in range(8)
    ]
    got = await outcomes(*(stores[number % 2].begin(claim) for number, claim in enumerate(claims)))
    assert [type(error) for error in got if error is not None] == [AlreadyClaimed] * 7
    assert [pane.claimed for pane in (await stores[1].compare(compare.id, "ann")).panes] == [False, True]
    _, begun = await stores[0].messages(pane.session_id)
    assert (begun.run_id, begun.detached) == (f"run_{got.index(None)}", False)


async def test_a_claim_that_fails_later_is_none(store: Store) -> None:
    compare = await store.create_compare("ann", prompt="Hi", mode=Mode.CHAT, system=None, models=["m", "n"])
    await store.delete_session(compare.panes[0].session_id, "ann")
    with pytest.raises(NotFound):
        await store.begin(turn(2, compare.panes[0].session_id, claims=(compare.id, 0)))
    assert not (await store.compare(compare.id, "ann")).panes[0].claimed
    with pytest.raises(AlreadyClaimed):
        await store.begin(turn(3, compare.panes[1].session_id, claims=(compare.id, 2)))


# Being interrupted
