"""The ledger that is stored with an answer's last save."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from odysseus.store import Database, Store, database_url
from tests.store.test_store import FINAL, TURN, answer

LEDGER = [{"at": "2025-01-01T00:00:00.000000Z", "event": "accepted"}, {"event": "saved", "attempts": 2, "to": "store"}]


async def test_it_is_stored_with_the_ending(store: Store) -> None:
    await store.begin(TURN)
    assert await store.ledger_of("run_1") is None
    assert await store.finish(replace(FINAL, ledger=LEDGER))
    assert await store.ledger_of("run_1") == LEDGER
    assert (await answer(store)).content == "Hello"


async def test_a_second_ending_leaves_it(store: Store) -> None:
    await store.begin(TURN)
    await store.finish(replace(FINAL, ledger=LEDGER))
    await store.finish(replace(FINAL, ledger=LEDGER[:1]))
    assert await store.ledger_of("run_1") == LEDGER


async def test_an_answer_without_one(store: Store) -> None:
    """Of a process that died, and from a spool of before there were ledgers."""
    await store.begin(TURN)
    await store.finish(FINAL)
    assert await store.ledger_of("run_1") is None
    assert await store.ledger_of("run_2") is None


@pytest.mark.parametrize("text", ["two\nlines", "\u2028\U0001f6a2 \\u0000"])
async def test_any_owner(store: Store, text: str) -> None:
    await store.begin(TURN)
    ledger = [{"event": "stop_asked", "owner": text}]
    await store.finish(replace(FINAL, ledger=ledger))
    assert await store.ledger_of("run_1") == ledger


async def test_an_error_of_the_database_holds_no_message(url: str, database: Database, store: Store) -> None:
    """What the log is told of a failed save, with all that is behind it."""
    await store.begin(TURN)
    rename = sa.text("ALTER TABLE messages RENAME COLUMN reasoning TO elsewhere")
    other = Database(database_url(url))
    await other.write(lambda connection: connection.execute(rename))
    await other.close()
    with pytest.raises(Exception) as caught:  # noqa: PT011  # whatever it is
        await store.finish(replace(FINAL, content="sesame", parts=[{"type": "text", "text": "sesame"}]))
    error: BaseException | None = caught.value
    while error is not None:
        assert "sesame" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
