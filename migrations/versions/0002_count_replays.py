"""Each replay from scratch is counted once, as a pair of full answers: a mark of its own.

Revision: 0002
After: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "outcomes",
        sa.Column("replay_monitored", sa.Boolean(), server_default=sa.false(), nullable=False),
    )
    op.create_index(
        "ix_outcomes_unmonitored_replays",
        "outcomes",
        ["domain", "id"],
        postgresql_where=sa.text("replay_matches IS NOT NULL AND NOT replay_monitored"),
        sqlite_where=sa.text("replay_matches IS NOT NULL AND NOT replay_monitored"),
    )


def downgrade() -> None:
    op.drop_index("ix_outcomes_unmonitored_replays", "outcomes")
    op.drop_column("outcomes", "replay_monitored")
