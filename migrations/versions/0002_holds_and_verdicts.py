"""Freezes of targets, quarantines of bytes, verdicts of gates, and reviews of changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("revisions", sa.Column("reviewed_at", sa.Text(), nullable=True))
    _table(
        "freezes",
        [_text("target"), _text("model"), *_actor(), _text("at"), sa.Column("expires_at", sa.Text(), nullable=True)],
        key=["target", "model"],
    )
    _table(
        "quarantines",
        [_text("digest"), _text("model"), _version(), *_actor(), _text("at")],
        key=["digest"],
    )
    _table(
        "verdicts",
        [
            _text("key"),
            _text("model"),
            _version(),
            *(_text(name) for name in ("gate", "outcome", "summary", "problems")),
            sa.Column("duration_s", sa.Double(), nullable=False),
            _text("evidence"),
        ],
        key=["key"],
    )
    op.create_index("ix_verdicts_model_version", "verdicts", ["model", "version"])
    op.create_table(
        "folded",
        sa.Column("sequence", SEQUENCE, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_folded"),
    )
    op.execute("INSERT INTO folded SELECT max(sequence) FROM events HAVING max(sequence) IS NOT NULL")


def downgrade() -> None:
    for table in ("folded", "verdicts", "quarantines", "freezes"):
        op.drop_table(table)
    op.drop_column("revisions", "reviewed_at")


def _table(name: str, columns: list[sa.Column], *, key: list[str]) -> None:
    op.create_table(
        name,
        *columns,
        sa.Column("sequence", SEQUENCE, nullable=False),
        sa.PrimaryKeyConstraint(*key, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(["sequence"], ["events.sequence"], name=f"fk_{name}_sequence_events"),
    )


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=False)


def _version() -> sa.Column:
    return sa.Column("version", sa.BigInteger(), nullable=False)


def _actor() -> list[sa.Column]:
    return [_text(name) for name in ("user_name", "host", "ci", "command", "reason")]
