"""The tables of the lineage database, valid on SQLite and PostgreSQL; only migrations make them.

`events` is the truth. The tables in `PROJECTIONS` are a fold over the events that can be dropped and refolded; the
others (`leaders`, `channels`, `deliveries`) are the daemon's own notes, which nothing is lost with.
Times are RFC 3339 text in UTC with microseconds, so that text order is time order; JSON is canonical text, so that
what was hashed is what is stored on either database.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
)

# Every schema that a released deployctl has written, oldest first; the last is the one this deployctl works with.
# Alembic holds the same list, but a command must not pay for its import to learn that all is well.
SCHEMA_REVISIONS: Final = ("0001", "0002", "0003")
SCHEMA_HEAD: Final = SCHEMA_REVISIONS[-1]

# Constraints need names for Alembic to change them later, on SQLite above all.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# INTEGER PRIMARY KEY is SQLite's row id, 64 bits wide: events lie in the file in their order.
_SEQUENCE = BigInteger().with_variant(Integer(), "sqlite")

events = Table(
    "events",
    metadata,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("ci", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("model", Text),
    Column("target", Text),
    Column("reason", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    CheckConstraint("sequence >= 1", name="counts_from_one"),
    Index(None, "model", "sequence"),
    Index(None, "target", "sequence"),
    Index(None, "model", "target", "sequence"),
    Index(None, "operation"),
)

models = Table(
    "models",
    metadata,
    Column("name", Text, primary_key=True),
    # A summary, so that listing models does not read their versions.
    Column("latest_version", BigInteger, nullable=False),
    Column("version_count", BigInteger, nullable=False),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("model", Text, ForeignKey("models.name"), primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_count", BigInteger, nullable=False),
    Column("published_at", Text, nullable=False),
    Column("published_by", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
    UniqueConstraint("sequence"),
    CheckConstraint("version >= 0", name="version_is_not_negative"),
    Index(None, "digest"),
    # Clustered by model, so that one model's page costs the same however many there are.
    sqlite_with_rowid=False,
)


def _of_a_version(name: str, *columns: Column[str] | Column[float], clustered: bool = True) -> Table:
    return Table(
        name,
        metadata,
        Column("model", Text, primary_key=True),
        Column("version", BigInteger, primary_key=True, autoincrement=False),
        *columns,
        ForeignKeyConstraint(["model", "version"], ["versions.model", "versions.version"]),
        sqlite_with_rowid=not clustered,
    )


manifests = _of_a_version("manifests", Column("document", Text, nullable=False), clustered=False)

tags = _of_a_version(
    "tags",
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

metrics = _of_a_version(
    "metrics",
    Column("name", Text, primary_key=True),
    Column("value", Double, nullable=False),
)

# Where a version came from: kind is path, run, code, dataset or parent; name tells several data sets or parents apart.
sources = _of_a_version(
    "sources",
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("reference", Text, nullable=False),
)
Index(None, sources.c.kind, sources.c.reference)

targets = Table(
    "targets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("running", Boolean, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("rest", Text, nullable=False),
    Column("grpc", Text, nullable=False),
    Column("changed_at", Text, nullable=False),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
)

revisions = Table(
    "revisions",
    metadata,
    Column("target", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("desired", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("state", Text, nullable=False),
    # The newest that served, at most one for each model on a target.
    Column("is_current", Boolean, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("ci", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("restores", BigInteger),
    Column("evidence", Text, nullable=False),
    Column("recorded_at", Text, nullable=False),
    Column("recorded_sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
    Column("settled_at", Text),
    Column("settled_sequence", _SEQUENCE, ForeignKey("events.sequence")),
    Column("reviewed_at", Text),
    CheckConstraint("number >= 1", name="number_counts_from_one"),
    CheckConstraint("state IN ('pending', 'serving', 'failed')", name="state_is_known"),
)
# Written out, not bound: SQLite uses a partial index only for a query whose text says what the index says.
IS_PENDING: Final = revisions.c.state == literal_column("'pending'")
# Partial, so that the current and the pending revisions are found without passing over the old ones. The migration
# makes both so on PostgreSQL too; saying it here as well would load that dialect, 70 ms of every command's start.
Index(
    "uq_revisions_current",
    revisions.c.target,
    revisions.c.model,
    unique=True,
    sqlite_where=revisions.c.is_current.is_(True),
)
Index("ix_revisions_pending", revisions.c.target, revisions.c.recorded_sequence, sqlite_where=IS_PENDING)

freezes = Table(
    "freezes",
    metadata,
    Column("target", Text, primary_key=True),
    # "" for every model of the target.
    Column("model", Text, primary_key=True),
    Column("user_name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("ci", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("expires_at", Text),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
)

quarantines = Table(
    "quarantines",
    metadata,
    Column("digest", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("user_name", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("ci", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Text, nullable=False),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
)

# The newest verdict for each key.
verdicts = Table(
    "verdicts",
    metadata,
    Column("key", Text, primary_key=True),
    Column("model", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("gate", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("summary", Text, nullable=False),
    Column("problems", Text, nullable=False),
    Column("duration_s", Double, nullable=False),
    Column("evidence", Text, nullable=False),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
    Index(None, "model", "version"),
)

# The newest event that the projections hold: what tells an audit that the end of the chain was cut off.
folded = Table(
    "folded",
    metadata,
    Column("sequence", _SEQUENCE, primary_key=True, autoincrement=False),
)

# Who may use the daemon's API. The digest is of the token's secret, which is nowhere.
tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("role", Text, nullable=False),
    # JSON lists of names; empty for all.
    Column("targets", Text, nullable=False),
    Column("models", Text, nullable=False),
    Column("created_at", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Text),
    Column("sequence", _SEQUENCE, ForeignKey("events.sequence"), nullable=False),
)

# Which of several daemons does the work; `token` grows with each that takes it over.
leaders = Table(
    "leaders",
    metadata,
    Column("duty", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", Text, nullable=False),
)

# Up to which event each notification channel has been served, and what it could not be told yet, or at all.
channels = Table(
    "channels",
    metadata,
    Column("name", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)
deliveries = Table(
    "deliveries",
    metadata,
    Column("channel", Text, primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("attempts", BigInteger, nullable=False),
    Column("next_at", Text, nullable=False),
    Column("dead", Boolean, nullable=False),
    Column("error", Text, nullable=False),
)

# Children before their parents, as rows must be removed.
PROJECTIONS: Final = (
    folded,
    tokens,
    verdicts,
    quarantines,
    freezes,
    sources,
    metrics,
    tags,
    manifests,
    versions,
    models,
    targets,
    revisions,
)

# Triggers of `events`, which Alembic does not compare; the first migration makes them.
TRIGGERS: Final = ("events_follow_each_other", "events_refuse_change", "events_refuse_removal")
