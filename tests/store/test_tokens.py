"""API tokens in the database, and the migration that brought them and the owners."""

from __future__ import annotations

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.accounts.api_tokens import ApiTokens, StoredToken, new_token
from odysseus.errors import StoreError, Unauthorized
from odysseus.messages import now
from odysseus.store import Database, database_url
from odysseus.store.revisions import upgrade
from odysseus.store.tokens import Tokens
from tests.store.test_store import near_now
from tests.waiting import soon


@pytest.fixture
def tokens(database: Database) -> Tokens:
    return Tokens(database)


async def added(tokens: Tokens, name: str) -> tuple[str, StoredToken]:
    text, stored = new_token(name)
    await tokens.add(stored)
    return text, stored


async def test_tokens_come_back_as_they_were(tokens: Tokens) -> None:
    made = [(await added(tokens, name))[1] for name in ("alice", "Zoë, O=Ö", "alice", "x" * 255)]
    assert await tokens.all() == made
    assert [await tokens.token(token.id) for token in made] == made


@pytest.mark.parametrize("token_id", ["", "0123456789ab", "' OR '1'='1", "a\0b", "%", "x" * 100_000])
async def test_there_is_no_such_token(tokens: Tokens, token_id: str) -> None:
    await added(tokens, "alice")
    assert await tokens.token(token_id) is None
    assert await tokens.revoked([token_id]) == {token_id}
    assert await tokens.revoke(token_id) == []


async def test_an_id_is_given_once(tokens: Tokens) -> None:
    _, stored = await added(tokens, "alice")
    with pytest.raises(StoreError):
        await tokens.add(stored)


async def test_a_token_is_revoked_by_its_id(tokens: Tokens) -> None:
    _, first = await added(tokens, "alice")
    _, second = await added(tokens, "alice")
    [revoked] = await tokens.revoke(first.id)
    assert revoked.revoked_at is not None and near_now(revoked.revoked_at)
    assert await tokens.all() == [revoked, second]
    assert await tokens.revoke(first.id) == [revoked], "twice is once: the time stays"


async def test_all_of_a_name_are_revoked(tokens: Tokens) -> None:
    made = [(await added(tokens, name))[1] for name in ("alice", "bob", "alice", "Alice", "alice2")]
    [before] = await tokens.revoke(made[2].id)
    revoked = await tokens.revoke("alice")
    assert [token.id for token in revoked] == [made[0].id, made[2].id]
    assert revoked[1] == before
    assert [token.name for token in await tokens.all() if token.revoked_at is None] == ["bob", "Alice", "alice2"]


async def test_which_of_many_are_revoked(tokens: Tokens) -> None:
    """The sweep over open streams: one query, however many they are."""
    good, revoked = [(await added(tokens, name))[1].id for name in ("alice", "bob")]
    await tokens.revoke(revoked)
    unknown = {f"{number:012x}" for number in range(29_998)}
    assert await tokens.revoked({good, revoked, *unknown}) == {revoked, *unknown}
    assert await tokens.revoked([good, good]) == set()
    assert await tokens.revoked([]) == set()


async def test_the_whole_way_of_a_token(tokens: Tokens, databases: list[Database]) -> None:
    """Made and revoked by one process, used in another."""
    accounts = ApiTokens(Tokens(databases[1]))
    text, stored = await added(tokens, "alice")
    identity = await accounts.identify(text, [], "127.0.0.1")
    assert (identity.owner, identity.token_id) == ("alice", stored.id)
    await tokens.revoke("alice")
    with pytest.raises(Unauthorized, match="revoked"):
        await accounts.identify(text, [], "127.0.0.1")


async def test_a_database_that_fails(url: str) -> None:
    """It has no tables yet: that is nobody's wrong token."""
    empty = Database(database_url(url))
    try:
        with pytest.raises(StoreError):
            await ApiTokens(Tokens(empty)).identify(new_token("alice")[0], [], None)
    finally:
        await empty.close()


# The migration


async def test_what_was_there_before_belongs_to_nobody(url: str) -> None:
    old = Database(database_url(url))

    async def work(connection: AsyncConnection) -> None:
        await connection.run_sync(upgrade, "0002")
        time = (now() - timedelta(days=1)).replace(tzinfo=None)
        for statement in (
            "INSERT INTO sessions (id, title, created_at, updated_at) VALUES ('ses_old', 'T', :time, :time)",
            "INSERT INTO compares (id, prompt, mode, created_at) VALUES ('cmp_old', 'P', 'chat', :time)",
        ):
            time_of = sa.bindparam("time", time, sa.DateTime)
            await connection.execute(sa.text(statement).bindparams(time_of))

    async def owners(connection: AsyncConnection) -> list[tuple[str, str]]:
        both = "SELECT id, owner FROM sessions UNION SELECT id, owner FROM compares ORDER BY id"
        return [(row.id, row.owner) for row in await connection.execute(sa.text(both))]

    try:
        await old.write(work)
        await soon(old.open())
        assert await old.read(owners) == [("cmp_old", ""), ("ses_old", "")]
    finally:
        await old.close()


async def test_the_list_of_an_owners_sessions_is_read_from_its_index(databases: list[Database]) -> None:
    """Neither sorted nor searched through: the page costs what it shows, however many sessions others have."""
    query = "SELECT id FROM sessions WHERE owner = 'a' ORDER BY updated_at DESC, id DESC LIMIT 20"
    sqlite = databases[0].dialect == "sqlite"

    async def plan(connection: AsyncConnection) -> str:
        for way in () if sqlite else ("seqscan", "bitmapscan", "sort"):  # which suit an empty table best
            await connection.execute(sa.text(f"SET LOCAL enable_{way} = off"))
        explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN"
        return "\n".join(str(row) for row in await connection.execute(sa.text(f"{explain} {query}")))

    told = await databases[0].read(plan)
    assert "sessions_of_owner" in told
    assert "Sort" not in told and "TEMP B-TREE" not in told
