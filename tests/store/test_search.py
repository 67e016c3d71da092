"""What a search finds, and that the index follows the messages, in every database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from odysseus.messages import Found, Mode, Role
from odysseus.states import Status
from odysseus.store import Database, Store, database_url, search
from odysseus.store.revisions import upgrade
from tests.store.conftest import Postgres
from tests.store.test_store import DONE, FINAL, turn


async def say(store: Store, number: int, text: str, answer: str | None = None) -> None:
    """Begin session *number* with *text*; end its answer if there is one."""
    await store.begin(turn(number, f"ses_{number}", text=text, new_session=True))
    if answer is not None:
        assert await store.finish(replace(DONE, message_id=f"msg_{number}", content=answer))


async def found(store: Store, text: str, *, limit: int = 100, but_session: str = "") -> list[str]:
    """Return the sessions of what was found, best first."""
    return [one.session_id for one in await store.search(text, limit=limit, owner="ann", but_session=but_session)]


async def indexed(database: Database) -> int:
    """Return how many messages SQLite's index holds, after it has checked itself."""
    check = sa.text("INSERT INTO messages_search (messages_search) VALUES ('integrity-check')")
    await database.write(lambda connection: connection.execute(check))
    rows = await database.read(
        lambda connection: connection.execute(sa.text("SELECT count(*) FROM messages_search_docsize"))
    )
    return int(rows.scalar_one())


# What is found


async def test_a_question_and_its_answer(store: Store) -> None:
    await say(store, 1, "Where do pelicans nest?", "Pelicans nest on islands.")
    await say(store, 2, "Something else", "Quite")
    answer, question = sorted(
        await store.search("a Pelican, pelicans!", limit=9, owner="ann", but_session=""), key=lambda one: one.role
    )
    assert abs(datetime.now(UTC) - question.created_at) < timedelta(minutes=5)
    assert question == Found(
        session_id="ses_1",
        title="Where do pelicans nest?",
        role=Role.USER,
        created_at=question.created_at,
        excerpt="Where do pelicans nest?",
    )
    assert (answer.session_id, answer.role, answer.excerpt) == ("ses_1", Role.ASSISTANT, "Pelicans nest on islands.")


async def test_the_best_come_first(store: Store) -> None:
    """A rare word counts for more than several frequent ones, and more words for more than one."""
    await say(store, 1, "the zebra crossing")
    await say(store, 2, "zebra, of which there is little to say about")
    for number in range(3, 23):
        await say(store, number, "what about the weather, the what about the weather")
    await say(store, 23, "nothing of it")
    everything = await found(store, "What about the zebra crossing?")
    assert everything[:2] == await found(store, "What about the zebra crossing?", limit=2) == ["ses_1", "ses_2"]
    assert set(everything) == {f"ses_{number}" for number in range(1, 23)}


async def test_what_is_left_out(store: Store) -> None:
    await say(store, 1, "pelicans")
    await say(store, 2, "pelicans")
    compare = await store.create_compare("ann", prompt="pelicans", mode=Mode.CHAT, system=None, models=["m"])
    await store.begin(turn(3, compare.panes[0].session_id, text="pelicans", claims=(compare.id, 0)))
    assert await found(store, "pelicans", but_session="ses_2") == ["ses_1"]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("see src/main.py there", "main"),
        ("see src/main.py there", "src/main.py"),
        ("https://example.org/a?b=pelican", "pelican"),
        ("write to jane@example.org", "jane"),
        ("since 3.11-rc1", "11"),
        ("on 2024-05-17", "05"),
        ("a List<String>", "string"),
        ('<div class="hero">', "hero"),
        ("salt&pepper", "pepper"),
        ("cd ~odysseus", "odysseus"),
        ("the __init__ of foo_bar", "init"),
        ("the __init__ of foo_bar", "foo_bar"),
        ("don't", "DON'T"),
        ("ΑΘΗΝΑ", "αθηνα"),
        ("İstanbul", "İSTANBUL"),
        ("यह हिन्दी है", "हिन्दी"),
    ],
)
async def test_words_are_found_wherever_they_stand(store: Store, text: str, query: str) -> None:
    await say(store, 1, text, f"({text})")
    assert await found(store, query) == ["ses_1", "ses_1"]


async def test_sqlite_finds_words_without_their_accents(store: Store, database: Database) -> None:
    await say(store, 1, f"{'x ' * 1000}un café")
    assert await found(store, "café") == ["ses_1"]
    without = await store.search("CAFE", limit=9, owner="ann", but_session="")
    assert [one.excerpt[-7:] for one in without] == (["un café"] if database.dialect == "sqlite" else [])


@pytest.mark.parametrize(
    "query",
    ["", " ", "\0", "'", '"', "''\"", "*", ":", "()", "|&!<->", "_", "\U0001f6a2\u2764\ufe0f", "\ud800", "%", "\\"],
)
async def test_queries_without_a_word(store: Store, query: str) -> None:
    await say(store, 1, "pelicans", "\U0001f6a2\u2764\ufe0f '\"*:()|&!<->_%\\ pelicans")
    assert await found(store, query) == []


@pytest.mark.parametrize(
    "query",
    [
        'pelicans"',
        "'pelicans",
        "NOT pelicans",
        "nowhere AND pelicans",
        "NEAR(pelicans nowhere, 1)",
        "pelicans -pelicans",
        "content:pelicans",
        "{content}: ^pelicans*",
        "(((pelicans",
        "pelicans <-> nowhere:*",
        "!pelicans",
        "pelicans\0nowhere",
        "pelicans\\",
        "pelicans' OR 1=1; --",
        "\ud800pelicans",
        f"pelicans {'x' * 100_000}",
        f"pelicans {' '.join(map(str, range(1000)))}",
    ],
)
async def test_nothing_in_a_query_is_syntax(store: Store, query: str) -> None:
    await say(store, 1, "Some pelicans")
    await say(store, 2, "Something else")
    assert await found(store, query) == ["ses_1"]


async def test_only_the_first_words_count(store: Store) -> None:
    await say(store, 1, "pelicans")
    words = " ".join(f"w{number} W{number}" for number in range(19))
    assert await found(store, f"{words} pelicans") == ["ses_1"]
    assert await found(store, f"{words} w19 pelicans") == []


# Excerpts


async def test_an_excerpt_shows_where_most_words_stand(store: Store) -> None:
    filler = "the lorem\nipsum " * 500
    await say(store, 1, f"{filler}Brown \n\t pelicans nest{filler}")
    [one] = await store.search("the pelicans, brown", limit=9, owner="ann", but_session="")
    assert "Brown pelicans nest" in one.excerpt
    assert 250 <= len(one.excerpt) <= 302 and "\n" not in one.excerpt
    assert (one.excerpt[0], one.excerpt[-1]) == ("…", "…")


async def test_an_excerpt_at_the_end_is_no_shorter(store: Store) -> None:
    await say(store, 1, f"{'lorem ipsum ' * 500}pelicans")
    [one] = await store.search("pelicans", limit=9, owner="ann", but_session="")
    assert one.excerpt.endswith("ipsum pelicans") and 290 <= len(one.excerpt) <= 302


# The index


@pytest.mark.parametrize("status", [Status.DONE, Status.STOPPED, Status.ERROR, Status.INTERRUPTED])
async def test_an_answer_is_found_once_it_has_ended(store: Store, status: Status) -> None:
    await say(store, 1, "Hi")
    await store.checkpoint("msg_1", "some pelicans", "", [])
    assert await found(store, "pelicans") == []
    await store.finish(replace(FINAL, status=status, content="no pelicans"))
    assert await found(store, "pelicans") == ["ses_1"]
    assert await found(store, "some") == []


async def test_an_answer_that_a_dead_process_left_is_found(store: Store) -> None:
    await say(store, 1, "Hi")
    await store.checkpoint("msg_1", "pelicans", "", [])
    await store.interrupt_streaming()
    assert await found(store, "pelicans") == ["ses_1"]


async def test_a_checkpoint_leaves_the_index_alone(tmp_path: Path) -> None:
    database = Database(database_url(f"sqlite:///{tmp_path}/odysseus.db"))
    await database.open()
    store = Store(database)
    await say(store, 1, "Hi")

    async def blocks() -> list[tuple[object, ...]]:
        rows = await database.read(lambda connection: connection.execute(sa.text("SELECT * FROM messages_search_data")))
        return [tuple(row) for row in rows]

    before = await blocks()
    await store.checkpoint("msg_1", "pelicans", "", [])
    assert await blocks() == before
    await store.finish(FINAL)
    assert await blocks() != before
    await database.close()


async def test_a_deleted_session_is_forgotten(store: Store, database: Database) -> None:
    """Also an answer that was still streaming, and so had no place in the index."""
    await say(store, 1, "brown pelicans", "white pelicans")
    await say(store, 2, "red herons")
    await store.checkpoint("msg_2", "grey herons", "", [])
    await store.delete_session("ses_2", "ann")
    await store.delete_session("ses_1", "ann")
    assert await found(store, "brown white red grey pelicans herons") == []
    await say(store, 3, "black swans", "mute swans")  # in SQLite, under the numbers of those that went
    assert await found(store, "brown white red grey pelicans herons") == []
    assert await found(store, "black") == await found(store, "mute") == ["ses_3"]
    if database.dialect == "sqlite":
        assert await indexed(database) == 2
        await store.delete_session("ses_3", "ann")
        assert await indexed(database) == 0


@pytest.mark.parametrize(
    "text",
    [
        " ".join(f"{number:07}" for number in range(260_000)),
        "".join(chr(0x20000 + number) + " " for number in range(0xA6D0)) * 20,
        "-".join(f"a{number:x}" for number in range(300_000)),
        "pelicans" * 260_000,
    ],
    ids=["distinct", "wide", "compound", "one"],
)
async def test_two_megabytes_are_saved(store: Store, text: str) -> None:
    """PostgreSQL can't index all of them."""
    assert len(text.encode()) > 2_000_000
    await say(store, 1, text, f"pelicans {text}")
    assert (await store.messages("ses_1"))[1].content == f"pelicans {text}"
    assert await found(store, "pelicans") == ["ses_1"]
    await store.delete_session("ses_1", "ann")
    assert await found(store, "pelicans") == []


async def test_messages_from_before_the_index(url: str) -> None:
    database = Database(database_url(url))

    def first_migration(connection: sa.Connection) -> None:
        upgrade(connection, "0001")
        time = {"time": datetime(2025, 1, 1)}
        session = "INSERT INTO sessions (id, created_at, updated_at) VALUES ('ses_1', :time, :time)"
        connection.execute(sa.text(session), time)
        for number, status in enumerate(("done", "stopped", "streaming")):
            message = (
                "INSERT INTO messages (id, session_id, role, content, reasoning, parts, status, created_at)"
                f" VALUES ('msg_{number}', 'ses_1', 'assistant', '{status} pelicans', '', '[]', '{status}', :time)"
            )
            connection.execute(sa.text(message), time)

    await database.write(lambda connection: connection.run_sync(first_migration))
    await database.open()
    store = Store(database)
    both = await store.search("pelicans", limit=9, owner="", but_session="")
    assert {one.excerpt for one in both} == {"done pelicans", "stopped pelicans"}
    assert both[0].created_at == datetime(2025, 1, 1, tzinfo=UTC)
    assert await found(store, "pelicans") == []  # of ann's; what is older than accounts is nobody's
    await store.finish(replace(FINAL, message_id="msg_2", content="late pelicans"))
    [late] = await store.search("late", limit=9, owner="", but_session="")
    assert late.excerpt == "late pelicans"
    await store.delete_session("ses_1", "")
    assert await store.search("pelicans done", limit=9, owner="", but_session="") == []
    if database.dialect == "sqlite":
        assert await indexed(database) == 0
    await database.close()


async def test_postgresql_looks_into_its_index(postgres: Postgres) -> None:
    """It does as long as the statement's expression is the index's."""
    database = Database(database_url(postgres.url(await postgres.create_database())))
    await database.open()
    explain = sa.text(f"EXPLAIN {search._POSTGRESQL}").bindparams(words="some pelicans")
    plan = await database.read(lambda connection: connection.execute(explain))
    await database.close()
    assert "Bitmap Index Scan on messages_search " in "\n".join(plan.scalars())
