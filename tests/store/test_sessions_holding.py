"""Sessions by a part of their title or of what was said in them, in every database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from odysseus.errors import NotFound
from odysseus.messages import Mode
from odysseus.store import Store
from tests.store.test_store import DONE, turn


async def say(store: Store, number: int, text: str, answer: str | None = None, owner: str = "ann") -> None:
    """Begin session *number* with *text*; end its answer if there is one."""
    await store.begin(turn(number, f"ses_{number}", text=text, new_session=True, owner=owner))
    if answer is not None:
        assert await store.finish(replace(DONE, message_id=f"msg_{number}", content=answer))


async def found(store: Store, part: str, *, limit: int = 100, before: str | None = None) -> list[str]:
    sessions = await store.sessions("ann", limit=limit, before=before, holding=part)
    return [session.id for session in sessions]


async def test_titles_questions_and_answers(store: Store) -> None:
    await say(store, 1, "Where do pelicans nest?\nTell me", "On islands.")
    await say(store, 2, "Something else", "Pelicans!")
    await say(store, 3, "Something else", "Quite")
    await store.change_session("ses_3", "ann", title="On pelicans")
    assert await found(store, "pelican") == ["ses_3", "ses_2", "ses_1"]
    assert await found(store, "PELICANS NEST") == ["ses_1"]
    assert await found(store, "tell") == ["ses_1"]
    assert await found(store, "island") == ["ses_1"]
    assert await found(store, "ething") == ["ses_3", "ses_2"]
    assert await found(store, "nowhere") == []
    assert await found(store, "") == ["ses_3", "ses_2", "ses_1"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("100% sure", "0% S"),
        ("a_b", "_"),
        ("c:\\temp", "\\T"),
        ("and/or", "D/O"),
        ("it's", "'S"),
        ('so "quoted"', ' "Q'),
        ("see [1]", "[1]"),
        ("Ärger", "äRG"),
        ("ärger", "ÄRG"),
        ("ΑΘΗΝΑ", "αθην"),
        ("привет", "ПРИВ"),
        ("日本語", "本"),
        ("a \U0001f6a2 b", "\U0001f6a2"),
        ("two\nlines", "o\nl"),
    ],
)
async def test_parts_are_taken_as_they_are(store: Store, text: str, part: str) -> None:
    await say(store, 1, text, f"({text})")
    await say(store, 2, "abc 100 xyz", "temp and or its quoted see 1")
    assert await found(store, part) == ["ses_1"]


@pytest.mark.parametrize("part", ["%", "_", "\\", "/", "%%", "'", '"', "\0", "x\0", "' OR 1=1 --", "*"])
async def test_nothing_in_a_part_is_syntax(store: Store, part: str) -> None:
    await say(store, 1, "abc", "xyz")
    assert await found(store, part) == []


async def test_only_ones_own_chats(store: Store) -> None:
    await say(store, 1, "pelicans", owner="bob")
    await store.create_compare("ann", prompt="pelicans", mode=Mode.CHAT, system=None, models=["m", "n"])
    await say(store, 2, "pelicans")
    assert await found(store, "pelicans") == ["ses_2"]
    with pytest.raises(NotFound):
        await found(store, "pelicans", before="ses_1")


async def test_page_after_page(store: Store) -> None:
    for number in range(1, 9):
        await say(store, number, "even pelicans" if number % 2 == 0 else "odd pelicans", "pelicans, pelicans")
    assert await found(store, "even", limit=3) == ["ses_8", "ses_6", "ses_4"]
    assert await found(store, "even", limit=3, before="ses_4") == ["ses_2"]
    assert await found(store, "even", limit=3, before="ses_5") == ["ses_4", "ses_2"]


async def test_a_session_without_a_title(store: Store) -> None:
    session = await store.create_session("ann", title=None, model=None, system=None)
    assert await found(store, "none") == await found(store, "é") == []
    assert await found(store, "") == [session.id]
