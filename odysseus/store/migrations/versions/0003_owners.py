"""Owners of sessions and compares, and API tokens. What was there before belongs to nobody, as without accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("sessions", "compares"):
        op.add_column(table, sa.Column("owner", sa.Text, nullable=False, server_default=""))
    op.drop_index("sessions_newest", "sessions")
    op.create_index("sessions_of_owner", "sessions", ["owner", "updated_at", "id"])
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("revoked_at", sa.DateTime),
    )
