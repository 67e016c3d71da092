"""Blind compares and their votes, in every database."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

import odysseus.store
from odysseus.errors import AlreadyVoted, InvalidField, NotBlind, NotEnded, NotFound
from odysseus.messages import Compare, Mode, Vote
from odysseus.ratings import Record
from odysseus.store import Database, Store, database_url
from tests.store.test_store import DONE, near_now, outcomes, turn


async def made(store: Store, *models: str, blind: bool = True, owner: str = "ann") -> Compare:
    return await store.create_compare(
        owner, prompt="Hi", mode=Mode.CHAT, system=None, models=models or ("m", "n"), blind=blind
    )


async def begin(store: Store, compare: Compare, pane: int) -> str:
    """Start the pane as the service does; return its answer's id."""
    it = compare.panes[pane]
    own = {"message_id": f"{it.session_id}.a", "run_id": f"{it.session_id}.r", "claims": (compare.id, pane)}
    model = it.label if compare.blind else it.model
    await store.begin(turn(9, it.session_id, new_session=False, owner=compare.owner, model=model, **own))
    return own["message_id"]


async def ended(store: Store, *models: str, owner: str = "ann") -> Compare:
    """Return a blind compare of which every pane has ended."""
    compare = await made(store, *models, owner=owner)
    for pane in compare.panes:
        message_id = await begin(store, compare, pane.number)
        await store.finish(replace(DONE, message_id=message_id))
    return await store.compare(compare.id, owner)


async def told(store: Store, compare: Compare) -> list[tuple[str | None, str | None, bool]]:
    """Return what the sessions and the answers of each pane say of its model."""
    found = []
    for pane in compare.panes:
        session = await store.session(pane.session_id, compare.owner)
        *_, answer = await store.messages(pane.session_id)
        found.append((session.model, answer.model, session.concealed))
    return found


async def test_a_vote_gives_the_labels_their_names(store: Store) -> None:
    compare = await ended(store, "m", "n", "o")
    assert (compare.blind, compare.vote, compare.revealed) == (True, None, False)
    assert await told(store, compare) == [("A", "A", True), ("B", "B", True), ("C", "C", True)]
    voted = await store.votes.cast(compare.id, "ann", 1)
    assert voted == replace(compare, vote=Vote(1)) == await store.compare(compare.id, "ann")
    assert voted.revealed
    assert await told(store, compare) == [("m", "m", False), ("n", "n", False), ("o", "o", False)]


async def test_other_compares_stay_as_they_are(store: Store) -> None:
    one, other = await ended(store), await ended(store)
    await store.votes.cast(one.id, "ann", None)
    assert (await store.compare(one.id, "ann")).vote == Vote(None)
    assert await told(store, other) == [("A", "A", True), ("B", "B", True)]


async def test_one_vote_a_compare(stores: list[Store]) -> None:
    """However many come at once."""
    compare = await ended(stores[0])
    got = await outcomes(*(stores[n % 2].votes.cast(compare.id, "ann", n % 2) for n in range(8)))
    assert sorted(type(one).__name__ for one in got) == ["AlreadyVoted"] * 4 + ["Compare"] * 4
    [winner] = {one.vote for one in got if isinstance(one, Compare)}
    assert (await stores[1].compare(compare.id, "ann")).vote == winner
    assert (await stores[1].votes.records())[0] == 1
    with pytest.raises(AlreadyVoted):
        await stores[0].votes.cast(compare.id, "ann", None)


async def test_votes_that_cannot_be(store: Store) -> None:
    open_ = await made(store, blind=False)
    compare = await made(store)
    for id_, owner, winner, error in (
        ("cmp_9", "ann", 0, NotFound),
        (compare.id, "bob", 0, NotFound),
        (compare.id, "ann", 2, InvalidField),
        (compare.id, "ann", -1, InvalidField),
        (open_.id, "ann", 0, NotBlind),
        (compare.id, "ann", 0, NotEnded),
    ):
        with pytest.raises(error):
            await store.votes.cast(id_, owner, winner)
    assert await store.votes.records() == (0, [])


async def test_every_pane_must_have_ended(store: Store) -> None:
    compare = await made(store)
    first = await begin(store, compare, 0)
    with pytest.raises(NotEnded):
        await store.votes.cast(compare.id, "ann", 0)
    await store.finish(replace(DONE, message_id=first))
    with pytest.raises(NotEnded):
        await store.votes.cast(compare.id, "ann", 0)
    second = await begin(store, compare, 1)
    with pytest.raises(NotEnded):
        await store.votes.cast(compare.id, "ann", 0)
    await store.finish(replace(DONE, message_id=second))
    await store.votes.cast(compare.id, "ann", 0)


async def test_a_pane_whose_session_is_deleted_has_ended(store: Store) -> None:
    compare = await ended(store)
    await store.delete_session(compare.panes[0].session_id, "ann")
    assert (await store.votes.cast(compare.id, "ann", 1)).vote == Vote(1)


async def test_the_games_of_all_votes(store: Store) -> None:
    for models, winner in (
        (("m", "n"), 0),
        (("n", "m"), 1),
        (("m", "n", "o"), 2),
        (("m", "n", "o"), None),
        (("m", "m"), 0),
        (("m", "m", "n"), 1),
    ):
        compare = await ended(store, *models, owner=f"{winner}")
        await store.votes.cast(compare.id, f"{winner}", winner)
    await ended(store, "m", "z")
    votes, records = await store.votes.records()
    assert votes == 6
    assert sorted(records, key=str) == sorted(
        [
            Record("m", "n", wins=3),
            Record("o", "m", wins=1),
            Record("o", "n", wins=1),
            Record("m", "n", ties=1),
            Record("m", "o", ties=1),
            Record("n", "o", ties=1),
        ],
        key=str,
    )


async def test_the_list_of_compares(store: Store) -> None:
    assert await store.compares("ann", limit=9) == []
    ids = [(await made(store, blind=bool(number % 2))).id for number in range(5)]
    voted = await ended(store)
    await store.votes.cast(voted.id, "ann", None)
    theirs = await made(store, owner="bob")
    heads = await store.compares("ann", limit=9)
    assert [head.id for head in heads] == [voted.id, *ids[::-1]]
    assert [(head.blind, head.vote) for head in heads] == [
        (True, Vote(None)),
        *((n % 2 == 1, None) for n in range(5)[::-1]),
    ]
    assert (heads[0].prompt, near_now(heads[0].created_at)) == ("Hi", True)
    assert await store.compares("ann", limit=2, before=ids[4]) == heads[2:4]
    for before in (theirs.id, "cmp_9"):
        with pytest.raises(NotFound):
            await store.compares("ann", limit=9, before=before)


async def test_what_is_older_is_not_blind(url: str) -> None:
    """A compare and its sessions, as they were before there were votes."""
    database = Database(database_url(url))
    config = Config()
    config.set_main_option("script_location", str(Path(odysseus.store.__file__).parent / "migrations"))

    def before(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        time = "'2026-01-31 12:00:00'"
        for row in (
            f"compares (id, owner, prompt, mode, created_at) VALUES ('c', 'ann', 'Hi', 'chat', {time})",
            f"sessions (id, owner, model, created_at, updated_at) VALUES ('s', 'ann', 'm', {time}, {time})",
            "compare_panes (compare_id, number, session_id, model) VALUES ('c', 0, 's', 'm')",
        ):
            connection.execute(sa.text(f"INSERT INTO {row}"))

    await database.write(lambda connection: connection.run_sync(before))
    await database.open()
    store = Store(database)
    compare = await store.compare("c", "ann")
    assert (compare.blind, compare.vote, compare.revealed, compare.panes[0].model) == (False, None, True, "m")
    assert not (await store.session("s", "ann")).concealed
    assert [head.id for head in await store.compares("ann", limit=9)] == ["c"]
    await database.close()
