"""The nodes that share the database, whose answer is whose, and stops that wait for their owner."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
    )
    op.add_column("messages", sa.Column("node", sa.Text))
    op.add_column("messages", sa.Column("stop_asked", sa.Text))
