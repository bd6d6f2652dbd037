"""Who leads among daemons, the tokens of its API, and what was told to whom."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "leaders",
        _text("duty"),
        _text("holder"),
        sa.Column("token", sa.BigInteger(), nullable=False),
        _text("expires_at"),
        sa.PrimaryKeyConstraint("duty", name="pk_leaders"),
    )
    op.create_table(
        "tokens",
        _text("id"),
        _text("name"),
        _text("digest"),
        _text("role"),
        _text("targets"),
        _text("models"),
        _text("created_at"),
        _text("created_by"),
        sa.Column("expires_at", sa.Text(), nullable=True),
        sa.Column("sequence", SEQUENCE, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.ForeignKeyConstraint(["sequence"], ["events.sequence"], name="fk_tokens_sequence_events"),
    )
    op.create_table(
        "channels",
        _text("name"),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_channels"),
    )
    op.create_table(
        "deliveries",
        _text("channel"),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        _text("next_at"),
        sa.Column("dead", sa.Boolean(), nullable=False),
        _text("error"),
        sa.PrimaryKeyConstraint("channel", "sequence", name="pk_deliveries"),
    )


def downgrade() -> None:
    for table in ("deliveries", "channels", "tokens", "leaders"):
        op.drop_table(table)


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=False)
