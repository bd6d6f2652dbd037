"""Events, append-only and hash-chained, and the tables folded from them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _events()
    _versions()
    _children_of_versions()
    _targets()
    _revisions()
    if op.get_bind().dialect.name == "sqlite":
        _sqlite_triggers()
    else:
        _postgresql_triggers()


def downgrade() -> None:
    for table in ("revisions", "targets", "sources", "metrics", "tags", "manifests", "versions", "models", "events"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.execute("DROP FUNCTION events_refuse()")
        op.execute("DROP FUNCTION events_follow()")


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", SEQUENCE, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.Text(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("ci", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.Column("previous_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
        sa.CheckConstraint("sequence >= 1", name="ck_events_counts_from_one"),
    )
    op.create_index("ix_events_model_sequence", "events", ["model", "sequence"])
    op.create_index("ix_events_target_sequence", "events", ["target", "sequence"])
    op.create_index("ix_events_model_target_sequence", "events", ["model", "target", "sequence"])
    op.create_index("ix_events_operation", "events", ["operation"])


def _versions() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("latest_version", sa.BigInteger(), nullable=False),
        sa.Column("version_count", sa.BigInteger(), nullable=False),
        sa.Column("sequence", SEQUENCE, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
        sa.ForeignKeyConstraint(["sequence"], ["events.sequence"], name="fk_models_sequence_events"),
    )
    op.create_table(
        "versions",
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_count", sa.BigInteger(), nullable=False),
        sa.Column("published_at", sa.Text(), nullable=False),
        sa.Column("published_by", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("sequence", SEQUENCE, nullable=False),
        sa.PrimaryKeyConstraint("model", "version", name="pk_versions"),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_versions_model_models"),
        sa.ForeignKeyConstraint(["sequence"], ["events.sequence"], name="fk_versions_sequence_events"),
        sa.UniqueConstraint("sequence", name="uq_versions_sequence"),
        sa.CheckConstraint("version >= 0", name="ck_versions_version_is_not_negative"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_versions_digest", "versions", ["digest"])


def _children_of_versions() -> None:
    _child("manifests", [sa.Column("document", sa.Text(), nullable=False)], keyed_by=[], clustered=False)
    for name, value in (("tags", sa.Text()), ("metrics", sa.Double())):
        columns = [sa.Column("name", sa.Text(), nullable=False), sa.Column("value", value, nullable=False)]
        _child(name, columns, keyed_by=["name"], clustered=True)
    columns = [sa.Column(name, sa.Text(), nullable=False) for name in ("kind", "name", "reference")]
    _child("sources", columns, keyed_by=["kind", "name"], clustered=True)
    op.create_index("ix_sources_kind_reference", "sources", ["kind", "reference"])


def _child(name: str, columns: list[sa.Column], *, keyed_by: list[str], clustered: bool) -> None:
    op.create_table(
        name,
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        *columns,
        sa.PrimaryKeyConstraint("model", "version", *keyed_by, name=f"pk_{name}"),
        sa.ForeignKeyConstraint(
            ["model", "version"], ["versions.model", "versions.version"], name=f"fk_{name}_model_version_versions"
        ),
        sqlite_with_rowid=not clustered,
    )


def _targets() -> None:
    op.create_table(
        "targets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("running", sa.Boolean(), nullable=False),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("rest", sa.Text(), nullable=False),
        sa.Column("grpc", sa.Text(), nullable=False),
        sa.Column("changed_at", sa.Text(), nullable=False),
        sa.Column("sequence", SEQUENCE, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_targets"),
        sa.ForeignKeyConstraint(["sequence"], ["events.sequence"], name="fk_targets_sequence_events"),
    )


def _revisions() -> None:
    op.create_table(
        "revisions",
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("desired", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("is_current", sa.Boolean(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("ci", sa.Text(), nullable=False),
        sa.Column("command", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("restores", sa.BigInteger(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Text(), nullable=False),
        sa.Column("recorded_sequence", SEQUENCE, nullable=False),
        sa.Column("settled_at", sa.Text(), nullable=True),
        sa.Column("settled_sequence", SEQUENCE, nullable=True),
        sa.PrimaryKeyConstraint("target", "model", "number", name="pk_revisions"),
        sa.ForeignKeyConstraint(
            ["recorded_sequence"], ["events.sequence"], name="fk_revisions_recorded_sequence_events"
        ),
        sa.ForeignKeyConstraint(["settled_sequence"], ["events.sequence"], name="fk_revisions_settled_sequence_events"),
        sa.CheckConstraint("number >= 1", name="ck_revisions_number_counts_from_one"),
        sa.CheckConstraint("state IN ('pending', 'serving', 'failed')", name="ck_revisions_state_is_known"),
    )
    op.create_index(
        "uq_revisions_current",
        "revisions",
        ["target", "model"],
        unique=True,
        sqlite_where=sa.text("is_current IS 1"),
        postgresql_where=sa.text("is_current IS true"),
    )
    op.create_index(
        "ix_revisions_pending",
        "revisions",
        ["target", "recorded_sequence"],
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )


def _sqlite_triggers() -> None:
    # Also against INSERT OR REPLACE, which removes a row without asking the trigger on removal.
    op.execute("""
        CREATE TRIGGER events_follow_each_other BEFORE INSERT ON events
        WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM events)
        BEGIN SELECT RAISE(ABORT, 'events follow each other without gaps'); END""")
    op.execute("""
        CREATE TRIGGER events_refuse_change BEFORE UPDATE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never changed'); END""")
    op.execute("""
        CREATE TRIGGER events_refuse_removal BEFORE DELETE ON events
        BEGIN SELECT RAISE(ABORT, 'events are never removed'); END""")


def _postgresql_triggers() -> None:
    op.execute("""
        CREATE FUNCTION events_follow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM events) THEN
                RAISE EXCEPTION 'events follow each other without gaps';
            END IF;
            RETURN NEW;
        END $$""")
    op.execute("""
        CREATE FUNCTION events_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'events are never changed or removed';
        END $$""")
    op.execute("""
        CREATE TRIGGER events_follow_each_other BEFORE INSERT ON events
        FOR EACH ROW EXECUTE FUNCTION events_follow()""")
    op.execute("""
        CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE ON events
        FOR EACH ROW EXECUTE FUNCTION events_refuse()""")
    op.execute("""
        CREATE TRIGGER events_refuse_removal BEFORE TRUNCATE ON events
        FOR EACH STATEMENT EXECUTE FUNCTION events_refuse()""")
