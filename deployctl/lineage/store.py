"""Lineage in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, RowMapping, Select, Table, delete, insert, select

from deployctl.domain.authority import Token
from deployctl.domain.event import GENESIS, Event, EventKind, NewEvent, chain
from deployctl.domain.hold import Freeze, GateRecord, Quarantine
from deployctl.domain.manifest import Manifest, from_json
from deployctl.domain.names import Digest, ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Revision
from deployctl.errors import DatabaseCorruptError, DeployctlError
from deployctl.lineage.database import Database
from deployctl.lineage.fold import fold, has_version, newest_revision
from deployctl.lineage.interface import LineageStore, LineageTransaction, VersionRecord
from deployctl.lineage.projections import effect, normalised
from deployctl.lineage.rows import (
    event_from_row,
    event_to_row,
    freeze_from_row,
    quarantine_from_row,
    revision_from_row,
    token_from_row,
    verdict_from_row,
    version_from_row,
)
from deployctl.lineage.tables import (
    IS_PENDING,
    PROJECTIONS,
    events,
    folded,
    freezes,
    manifests,
    metrics,
    models,
    quarantines,
    revisions,
    tags,
    targets,
    tokens,
    verdicts,
    versions,
)

# Events are streamed in pages, each its own short read: an abandoned iteration holds nothing open, and a slow one
# does not keep SQLite's write-ahead log from being folded back.
_PAGE = 256


class SqlLineageStore(LineageStore):
    """Lineage in the database of `url`.

    Looking never creates or changes anything; `migrate.upgrade` makes the tables. Threads may share a store.

    Args:
        url: as `Database` takes it.
        busy_timeout_s: how long to wait for another program's transaction, in seconds.

    Raises:
        SettingsError: the URL names no database that lineage can be kept in.
    """

    def __init__(self, url: str, *, busy_timeout_s: float = 5.0) -> None:
        self._database = Database(url, busy_timeout_s=busy_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection; the next use opens new ones."""
        self._database.close()

    @contextmanager
    def transaction(self) -> Iterator[LineageTransaction]:
        """Opens a write transaction that excludes every other writer from its start."""
        with self._database.writing() as connection:
            yield SqlLineageTransaction(self._database, connection)

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models with a recorded version, in name order."""
        with self._database.reading() as connection:
            names = connection.execute(select(models.c.name)).scalars()
            return tuple(sorted(ModelName(name) for name in names))

    def versions(self, model: ModelName | None = None) -> tuple[VersionRecord, ...]:
        """Returns recorded versions by model name, then ascending version; of one model if it is given."""
        with self._database.reading() as connection:
            metrics_of = _by_version(connection, metrics, model)
            tags_of = _by_version(connection, tags, model)
            rows = connection.execute(_of_model(select(versions), versions, model)).mappings()
            records = [
                version_from_row(
                    row,
                    metrics=metrics_of.get((row["model"], row["version"]), {}),
                    tags=tags_of.get((row["model"], row["version"]), {}),
                )
                for row in rows
            ]
        # Sorted here: the order of text differs between databases and their collations.
        return tuple(sorted(records, key=lambda record: (record.model, record.version)))

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """Returns the recorded manifest, or None."""
        found = select(manifests.c.document).where(manifests.c.model == model, manifests.c.version == version)
        with self._database.reading() as connection:
            document = connection.execute(found).scalar()
        return None if document is None else from_json(document, where=f"the recorded manifest of {model}@{version}")

    def current(self, target: TargetName) -> tuple[Revision, ...]:
        """Returns the newest revision that served, of each model on `target`, in model order."""
        found = self._revisions(select(revisions).where(revisions.c.target == target, revisions.c.is_current.is_(True)))
        return tuple(sorted(found, key=lambda revision: revision.model))

    def targets(self) -> tuple[TargetName, ...]:
        """Returns the targets on which something was to be served, in name order, whoever's settings have them."""
        rows = self._rows(select(revisions.c.target).distinct())
        return tuple(sorted(TargetName(row["target"]) for row in rows))

    def pending(self, target: TargetName) -> tuple[Revision, ...]:
        """Returns the revisions on `target` that are neither serving nor failed, oldest first."""
        waiting = select(revisions).where(revisions.c.target == target, IS_PENDING)
        return self._revisions(waiting.order_by(revisions.c.recorded_sequence))

    def revisions(self, target: TargetName, model: ModelName, *, limit: int) -> tuple[Revision, ...]:
        """Returns the newest `limit` revisions of `model` on `target`, newest first."""
        return self._revisions(
            select(revisions)
            .where(revisions.c.target == target, revisions.c.model == model)
            .order_by(revisions.c.number.desc())
            .limit(limit)
        )

    def freezes(self, target: TargetName) -> tuple[Freeze, ...]:
        """Returns the freezes of `target` and of models on it that were not lifted, run out ones included."""
        rows = self._rows(select(freezes).where(freezes.c.target == target).order_by(freezes.c.sequence))
        return tuple(freeze_from_row(row) for row in rows)

    def running(self, target: TargetName) -> bool | None:
        """Returns whether the server of `target` was started, and not stopped since; None where neither is recorded."""
        rows = self._rows(select(targets.c.running).where(targets.c.name == target))
        return bool(rows[0]["running"]) if rows else None

    def quarantine(self, digest: Digest) -> Quarantine | None:
        """Returns the quarantine of the bytes with `digest`, or None."""
        rows = self._rows(select(quarantines).where(quarantines.c.digest == digest))
        return quarantine_from_row(rows[0]) if rows else None

    def tokens(self) -> tuple[Token, ...]:
        """Returns the tokens that were not revoked, run out ones included, oldest first."""
        return tuple(map(token_from_row, self._rows(select(tokens).order_by(tokens.c.sequence))))

    def verdict(self, key: str) -> GateRecord | None:
        """Returns the newest verdict with `key`, or None."""
        rows = self._rows(select(verdicts).where(verdicts.c.key == key))
        return verdict_from_row(rows[0]) if rows else None

    def history(
        self, *, model: ModelName | None = None, target: TargetName | None = None, limit: int
    ) -> Sequence[Event]:
        """Returns the newest `limit` events that touch `model` and `target`, newest first."""
        touching = [
            column == wanted
            for column, wanted in ((events.c.model, model), (events.c.target, target))
            if wanted is not None
        ]
        rows = self._rows(select(events).where(*touching).order_by(events.c.sequence.desc()).limit(limit))
        return [event_from_row(row) for row in rows]

    def events(self) -> Iterator[Event]:
        """Yields every event in order; memory does not grow with their number."""
        last = 0
        while rows := self._rows(_events_after(last)):
            # One at a time: those before one that cannot be read are good.
            yield from map(event_from_row, rows)
            last = rows[-1]["sequence"]

    def folded_sequence(self) -> int:
        """Returns the sequence of the newest event that the projections know of, 0 when there is none."""
        with self._database.reading() as connection:
            return connection.execute(select(folded.c.sequence)).scalar() or 0

    def rebuild_projections(self) -> int:
        """Drops what the events fold to and folds them again; returns how many events there are.

        Raises:
            DatabaseCorruptError: an event does not fold; nothing was changed.
        """
        with self._database.writing() as connection:
            for table in PROJECTIONS:
                connection.execute(delete(table))
            last = 0
            while rows := connection.execute(_events_after(last)).mappings().all():
                for row in rows:
                    _refold(connection, event_from_row(row))
                last = rows[-1]["sequence"]
        return last

    def _revisions(self, query: Select[Any]) -> tuple[Revision, ...]:
        return tuple(revision_from_row(row) for row in self._rows(query))

    def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        with self._database.reading() as connection:
            return connection.execute(query).mappings().all()


class SqlLineageTransaction(LineageTransaction):
    """A write transaction of SqlLineageStore, good until its block ends.

    Each call raises DatabaseError itself where the database fails, so that whoever makes it can go on without.
    """

    def __init__(self, database: Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    def append(self, event: NewEvent) -> Event:
        """Appends `event` to the chain and updates the projections that fold it.

        Raises:
            ConcurrentChangeError: it opens a revision whose number is taken.
            RevisionNotFoundError: it settles a revision that was never opened.
            ValueError: its data is not what its kind carries (see `projections`).
        """
        content = normalised(event)
        change = effect(content)
        newest = select(events.c.sequence, events.c.hash).order_by(events.c.sequence.desc()).limit(1)
        with self._database.errors_translated():
            last = self._connection.execute(newest).first()
            appended = chain(GENESIS, 1, content) if last is None else chain(last.hash, last.sequence + 1, content)
            self._connection.execute(insert(events), event_to_row(appended))
            fold(self._connection, change, appended.sequence)
        return appended

    def has_version(self, model: ModelName, version: VersionNumber) -> bool:
        """Returns whether the version is recorded, read inside this transaction."""
        with self._database.errors_translated():
            return has_version(self._connection, model, version)

    def has_event(self, operation: str, kind: EventKind) -> bool:
        """Returns whether the operation has recorded an event of the kind, read inside this transaction."""
        found = select(events.c.sequence).where(events.c.operation == operation, events.c.kind == kind.value).limit(1)
        with self._database.errors_translated():
            return self._connection.execute(found).first() is not None

    def next_revision(self, target: TargetName, model: ModelName) -> int:
        """Returns the number that the next revision of `model` on `target` takes."""
        with self._database.errors_translated():
            return newest_revision(self._connection, target, model) + 1

    def current(self, target: TargetName, model: ModelName) -> Revision | None:
        """Returns the newest revision that served, read inside this transaction."""
        found = select(revisions).where(
            revisions.c.target == target, revisions.c.model == model, revisions.c.is_current.is_(True)
        )
        with self._database.errors_translated():
            row = self._connection.execute(found).mappings().first()
        return None if row is None else revision_from_row(row)


def _of_model(query: Select[Any], table: Table, model: ModelName | None) -> Select[Any]:
    return query if model is None else query.where(table.c.model == model)


def _by_version(connection: Connection, table: Table, model: ModelName | None) -> dict[tuple[str, int], dict[str, Any]]:
    columns = select(table.c.model, table.c.version, table.c.name, table.c.value)
    rows = connection.execute(_of_model(columns, table, model).order_by(table.c.model, table.c.version))
    return {
        key: {name: value for _, _, name, value in sorted(of_version)}
        for key, of_version in groupby((tuple(row) for row in rows), key=itemgetter(0, 1))
    }


def _events_after(sequence: int) -> Select[Any]:
    return select(events).where(events.c.sequence > sequence).order_by(events.c.sequence).limit(_PAGE)


def _refold(connection: Connection, event: Event) -> None:
    try:
        fold(connection, effect(event.content), event.sequence)
    except (ValueError, DeployctlError) as error:
        raise DatabaseCorruptError(
            f"event {event.sequence} of the lineage does not fold: {error}", sequence=event.sequence
        ) from error
