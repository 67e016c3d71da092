"""Blind compares, whose panes hide their models, and the votes that reveal them."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("compares", sa.Column("blind", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("compares_of_owner", "compares", ["owner", "created_at", "id"])
    op.add_column("sessions", sa.Column("concealed", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_table(
        "votes",
        sa.Column("compare_id", sa.Text, sa.ForeignKey("compares.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("winner", sa.Integer),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
