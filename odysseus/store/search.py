"""Full-text search over the messages that have ended: the words of a text, the statements, the excerpts.

The indexes, and what keeps them, are made by migration 0002.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from odysseus.messages import Found, Role
from odysseus.store.tables import messages, sessions

__all__ = ["holds", "search"]

_WORDS = 20
_INDEXED_CHARS = 100_000  # of each message, as migration 0002 says
_EXCERPT_CHARS = 300
_MARGIN_CHARS = 60  # of an excerpt, on both sides of the words that were looked for
_RUN = re.compile(r"[^\W_]+")

# Each takes the words with spaces between them, and gives `n` of messages and their `score`; more is better.
_SQLITE = """
    SELECT rowid AS n, -bm25(messages_search) AS score
    FROM messages_search
    WHERE messages_search MATCH '"' || replace(:words, ' ', '" OR "') || '"'
"""
# The words' rarity decides. `ts_rank` doesn't know it, so "the" would outdo a name; and it parses every text anew, for
# seconds instead of milliseconds. The expression is that of migration 0002 to the letter, or the index isn't used.
_POSTGRESQL = """
    WITH hits AS MATERIALIZED (
        SELECT word, n
        FROM unnest(string_to_array(:words, ' ')) AS word
        JOIN messages ON status <> 'streaming'
            AND to_tsvector('simple', translate(left(content, 100000), './@<&+-~', '        '))
                @@ plainto_tsquery('simple', word)
    ), weights AS (
        SELECT word, ln(1 + 1.0 * (SELECT count(*) FROM hits) / count(*)) AS weight FROM hits GROUP BY word
    )
    SELECT n, sum(weight) AS score FROM hits JOIN weights USING (word) GROUP BY n
"""


async def search(
    connection: AsyncConnection, text: str, *, limit: int, owner: str, but_session: str
) -> Sequence[Found]:
    """Do what `Store.search` promises."""
    words = _words(text)
    if not words:
        return []
    matching = sa.text(_SQLITE if connection.dialect.name == "sqlite" else _POSTGRESQL)
    best = matching.bindparams(words=" ".join(words)).columns(sa.column("n"), sa.column("score")).subquery()
    head = sa.func.substr(messages.c.content, 1, _INDEXED_CHARS).label("head")
    statement = (
        sa.select(messages.c.session_id, sessions.c.title, messages.c.role, messages.c.created_at, head)
        .where(messages.c.n == best.c.n, messages.c.session_id == sessions.c.id)
        .where(sessions.c.owner == owner, sessions.c.compare_id.is_(None), sessions.c.id != but_session)
        .order_by(best.c.score.desc(), messages.c.n.desc())
        .limit(limit)
    )
    rows = (await connection.execute(statement)).mappings().all()
    return await asyncio.to_thread(lambda: [_found(row, words) for row in rows])  # long texts take their time


def holds(part: str, dialect: str) -> sa.ColumnElement[bool]:
    """Say that a session has *part* in its title or in a message's text, in small letters or capitals.

    No index knows parts of words: the owner's sessions are read, from the last used on, until there are enough.
    """
    said = sa.exists().where(messages.c.session_id == sessions.c.id, _contains(messages.c.content, part, dialect))
    return sa.or_(_contains(sessions.c.title, part, dialect), said)


def _contains(column: sa.ColumnElement[str], part: str, dialect: str) -> sa.ColumnElement[bool]:
    part = part.replace("\0", "\ufffd")  # PostgreSQL takes none; nothing stored has one
    if dialect == "sqlite" and not part.isascii():  # beyond ASCII, its own LIKE takes capitals for other letters
        return sa.func.odysseus_contains(column, part.casefold(), type_=sa.Boolean)
    return column.icontains(part, autoescape=True)


def _found(row: sa.RowMapping, words: Sequence[str]) -> Found:
    return Found(
        session_id=row["session_id"],
        title=row["title"],
        role=Role(row["role"]),
        created_at=row["created_at"],
        excerpt=_excerpt(row["head"], words),
    )


def _words(text: str) -> Sequence[str]:
    """Return the first words that differ by more than case: letters and digits alone, so none is a query's syntax.

    They keep their case, since each database folds that of texts and queries in a way of its own.
    """
    runs = ("".join(run) for in_word, run in groupby(text, _in_word) if in_word)
    different: dict[str, str] = {}
    for word in runs:
        different.setdefault(word.lower(), word)
        if len(different) == _WORDS:
            break
    return list(different.values())


def _in_word(character: str) -> bool:
    return character.isalnum() or unicodedata.category(character).startswith("M")  # Hindi's vowels are marks


def _excerpt(text: str, words: Sequence[str]) -> str:
    """Return the piece of *text* with the most different ones of *words*, on one line."""
    wanted = set(_RUN.findall(" ".join(words).translate(_folded)))
    last: dict[str, int] = {}
    begin = most = 0
    for hit in _RUN.finditer(text.translate(_folded)):
        if hit.group() in wanted:
            last[hit.group()] = hit.start()
            near = [place for place in last.values() if place > hit.start() - (_EXCERPT_CHARS - 2 * _MARGIN_CHARS)]
            if len(near) > most:
                begin, most = min(near) - _MARGIN_CHARS, len(near)
    begin = max(0, min(begin, len(text) - _EXCERPT_CHARS))
    end = begin + _EXCERPT_CHARS
    piece = " ".join(text[begin:end].split())
    return f"{'…' * (begin > 0)}{piece}{'…' * (end < len(text))}"


class _Folded(dict[int, str]):
    """A character without its case and marks, as SQLite sees it. One for one, so that places stay the same."""

    def __missing__(self, code: int) -> str:
        parts = unicodedata.normalize("NFD", chr(code))
        base = parts[0] if all(map(unicodedata.combining, parts[1:])) else chr(code)
        self[code] = base.lower()[0]
        return self[code]


_folded = _Folded()
