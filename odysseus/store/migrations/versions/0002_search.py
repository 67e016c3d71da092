"""Full-text search over the messages that have ended.

A streaming answer is overwritten every second, so it is indexed once, when it ends; an ended message never changes.
What stands behind a message's first 100,000 characters isn't found: a longer text may exceed what PostgreSQL can index,
and then nothing could save it.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# The index is contentless: to remove a row it must be told the very text that was indexed.
_SQLITE = (
    "CREATE VIRTUAL TABLE messages_search USING fts5 (content, content='', tokenize='unicode61 remove_diacritics 2')",
    """
    INSERT INTO messages_search (rowid, content)
    SELECT n, substr(content, 1, 100000) FROM messages WHERE status <> 'streaming'
    """,
    """
    CREATE TRIGGER messages_search_begun AFTER INSERT ON messages WHEN new.status <> 'streaming'
    BEGIN
        INSERT INTO messages_search (rowid, content) VALUES (new.n, substr(new.content, 1, 100000));
    END
    """,
    """
    CREATE TRIGGER messages_search_ended AFTER UPDATE OF status ON messages
    WHEN old.status = 'streaming' AND new.status <> 'streaming'
    BEGIN
        INSERT INTO messages_search (rowid, content) VALUES (new.n, substr(new.content, 1, 100000));
    END
    """,
    """
    CREATE TRIGGER messages_search_deleted AFTER DELETE ON messages WHEN old.status <> 'streaming'
    BEGIN
        INSERT INTO messages_search (messages_search, rowid, content)
        VALUES ('delete', old.n, substr(old.content, 1, 100000));
    END
    """,
)

# PostgreSQL takes main.py, 3.11 or <b> for one word, or for none; without these characters it sees the words in them.
_POSTGRESQL = (
    """
    CREATE INDEX messages_search ON messages
    USING gin (to_tsvector('simple', translate(left(content, 100000), './@<&+-~', '        ')))
    WHERE status <> 'streaming'
    """,
)


def upgrade() -> None:
    for statement in _SQLITE if op.get_context().dialect.name == "sqlite" else _POSTGRESQL:
        op.execute(statement)
