"""The tables as the newest migration leaves them; the store's statements are built on these."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

__all__ = ["compare_panes", "compares", "messages", "metadata", "nodes", "sessions", "tokens", "votes"]


class Utc(sa.types.TypeDecorator[datetime]):
    """An aware datetime in UTC, stored without its zone because SQLite has none."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Id(sa.types.TypeDecorator[str]):
    """An id. One with a NUL, which PostgreSQL refuses, is one that nothing has."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        return None if value is None else value.replace("\0", "\ufffd")


metadata = sa.MetaData()

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("title", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("system", sa.Text),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("updated_at", Utc, nullable=False),
    sa.Column("compare_id", Id),
    sa.Column("owner", Id, nullable=False, server_default=""),
    sa.Column("concealed", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("sessions_of_owner", "owner", "updated_at", "id"),
)

messages = sa.Table(
    "messages",
    metadata,
    # The order of a session's messages: ids say nothing, and two messages of one turn share their time.
    sa.Column("n", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("session_id", Id, sa.ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("reasoning", sa.Text, nullable=False),
    sa.Column("parts", sa.JSON, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("stop_reason", sa.Text),
    sa.Column("model", sa.Text),
    sa.Column("run_id", Id, unique=True),
    sa.Column("mode", sa.Text),
    sa.Column("detached", sa.Boolean),
    sa.Column("finish_reason", sa.Text),
    sa.Column("usage", sa.JSON(none_as_null=True)),
    sa.Column("timings", sa.JSON(none_as_null=True)),
    sa.Column("events", sa.Integer),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("ended_at", Utc),
    sa.Column("ledger", sa.JSON(none_as_null=True)),
    sa.Column("node", Id),  # whose process runs, or ran, it: only that one may write to it. None: the only one's
    sa.Column("stop_asked", sa.Text),
    sa.Index("messages_of_session", "session_id", "n"),
    # What a start looks for after a crash; nearly always empty.
    sa.Index(
        "messages_streaming",
        "status",
        sqlite_where=sa.text("status = 'streaming'"),
        postgresql_where=sa.text("status = 'streaming'"),
    ),
)

compares = sa.Table(
    "compares",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("owner", Id, nullable=False, server_default=""),
    sa.Column("blind", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("compares_of_owner", "owner", "created_at", "id"),
)

compare_panes = sa.Table(
    "compare_panes",
    metadata,
    sa.Column("compare_id", Id, sa.ForeignKey("compares.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("session_id", Id, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("claimed_at", Utc),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("beat", sa.BigInteger, nullable=False),
    sa.Column("seen_at", Utc, nullable=False),
)

votes = sa.Table(
    "votes",
    metadata,
    sa.Column("compare_id", Id, sa.ForeignKey("compares.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("owner", Id, nullable=False),
    sa.Column("winner", sa.Integer),  # a pane's number; null is a tie
    sa.Column("created_at", Utc, nullable=False),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", Id, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("created_at", Utc, nullable=False),
    sa.Column("revoked_at", Utc),
)
