"""Folds one event's effect into the projection tables, inside the caller's transaction."""

from __future__ import annotations

from typing import assert_never

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from deployctl.domain.manifest import format_time
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.revision import RevisionState
from deployctl.errors import ConcurrentChangeError, RevisionNotFoundError
from deployctl.lineage.projections import (
    Effect,
    Frozen,
    Noted,
    Quarantined,
    Released,
    Retired,
    RevisionOpened,
    RevisionReviewed,
    RevisionSettled,
    TargetChanged,
    TokenCreated,
    TokenRevoked,
    Unfrozen,
    Validated,
    VersionRecorded,
    canonical_json,
)
from deployctl.lineage.rows import (
    freeze_to_row,
    quarantine_to_row,
    revision_to_row,
    token_to_row,
    verdict_to_row,
    version_to_row,
)
from deployctl.lineage.tables import (
    folded,
    freezes,
    manifests,
    metrics,
    models,
    quarantines,
    revisions,
    sources,
    tags,
    targets,
    tokens,
    verdicts,
    versions,
)


def fold(connection: Connection, effect: Effect, sequence: int) -> None:
    """Changes the projections as `effect`, that of event `sequence`, says.

    Raises:
        ConcurrentChangeError: it opens a revision whose number is taken.
        RevisionNotFoundError: it settles a revision that was never opened.
    """
    connection.execute(delete(folded))
    connection.execute(insert(folded), {"sequence": sequence})
    match effect:
        case VersionRecorded():
            _record_version(connection, effect, sequence)
        case TargetChanged():
            _change_target(connection, effect, sequence)
        case RevisionOpened():
            _open_revision(connection, effect, sequence)
        case RevisionSettled():
            _settle_revision(connection, effect, sequence)
        case RevisionReviewed():
            _review_revision(connection, effect)
        case Frozen(freeze):
            _lift(connection, freeze.target, freeze.model)
            connection.execute(insert(freezes), freeze_to_row(freeze, sequence))
        case Unfrozen(target, model):
            _lift(connection, target, model)
        case Quarantined(quarantine):
            connection.execute(delete(quarantines).where(quarantines.c.digest == quarantine.digest))
            connection.execute(insert(quarantines), quarantine_to_row(quarantine, sequence))
        case Released(digest):
            connection.execute(delete(quarantines).where(quarantines.c.digest == digest))
        case Validated(records):
            for record in records:
                connection.execute(delete(verdicts).where(verdicts.c.key == record.key))
                connection.execute(insert(verdicts), verdict_to_row(record, sequence))
        case TokenCreated(token):
            connection.execute(delete(tokens).where(tokens.c.id == token.id))
            connection.execute(insert(tokens), token_to_row(token, sequence))
        case TokenRevoked(token_id):
            connection.execute(delete(tokens).where(tokens.c.id == token_id))
        case Retired(model, version):
            _retire_version(connection, model, version, sequence)
        case Noted():
            pass
        case _:
            assert_never(effect)


def has_version(connection: Connection, model: ModelName, version: VersionNumber) -> bool:
    """Returns whether the version is recorded."""
    found = select(versions.c.version).where(versions.c.model == model, versions.c.version == version)
    return connection.execute(found).first() is not None


def newest_revision(connection: Connection, target: TargetName, model: ModelName) -> int:
    """Returns the highest number that a revision of `model` on `target` has, 0 when there is none."""
    of_pair = and_(revisions.c.target == target, revisions.c.model == model)
    return connection.execute(select(func.max(revisions.c.number)).where(of_pair)).scalar() or 0


def _record_version(connection: Connection, recorded: VersionRecorded, sequence: int) -> None:
    record = recorded.record
    is_new = not has_version(connection, record.model, record.version)
    if not is_new:
        _forget_version(connection, record.model, record.version)
    _summarise(connection, record.model, record.version, sequence, added=1 if is_new else 0)
    connection.execute(insert(versions), version_to_row(record, sequence))
    key = {"model": record.model, "version": record.version}
    connection.execute(insert(manifests), {**key, "document": recorded.document})
    if record.tags:
        connection.execute(insert(tags), [{**key, "name": name, "value": value} for name, value in record.tags.items()])
    if record.metrics:
        connection.execute(
            insert(metrics), [{**key, "name": name, "value": value} for name, value in record.metrics.items()]
        )
    if recorded.sources:
        connection.execute(
            insert(sources),
            [{**key, "kind": s.kind, "name": s.name, "reference": s.reference} for s in recorded.sources],
        )


def _forget_version(connection: Connection, model: ModelName, version: VersionNumber) -> None:
    for table in (sources, metrics, tags, manifests, versions):
        connection.execute(delete(table).where(table.c.model == model, table.c.version == version))


def _retire_version(connection: Connection, model: ModelName, version: VersionNumber, sequence: int) -> None:
    if not has_version(connection, model, version):
        return
    _forget_version(connection, model, version)
    left = select(func.max(versions.c.version), func.count()).where(versions.c.model == model)
    latest, count = connection.execute(left).one()
    if count:
        summary = {"latest_version": latest, "version_count": count, "sequence": sequence}
        connection.execute(update(models).where(models.c.name == model).values(summary))
    else:
        connection.execute(delete(models).where(models.c.name == model))


def _summarise(connection: Connection, model: ModelName, version: VersionNumber, sequence: int, *, added: int) -> None:
    known = connection.execute(select(models.c.latest_version).where(models.c.name == model)).scalar()
    if known is None:
        first = {"name": model, "latest_version": version, "version_count": 1, "sequence": sequence}
        connection.execute(insert(models), first)
        return
    connection.execute(
        update(models)
        .where(models.c.name == model)
        .values(latest_version=max(known, version), version_count=models.c.version_count + added, sequence=sequence)
    )


def _change_target(connection: Connection, changed: TargetChanged, sequence: int) -> None:
    connection.execute(delete(targets).where(targets.c.name == changed.target))
    connection.execute(
        insert(targets),
        {
            "name": changed.target,
            "running": changed.running,
            "runtime": changed.runtime,
            "rest": changed.rest,
            "grpc": changed.grpc,
            "changed_at": format_time(changed.at),
            "sequence": sequence,
        },
    )


def _open_revision(connection: Connection, opened: RevisionOpened, sequence: int) -> None:
    revision = opened.revision
    taken = select(revisions.c.number).where(
        revisions.c.target == revision.target,
        revisions.c.model == revision.model,
        revisions.c.number == revision.number,
    )
    if connection.execute(taken).first() is not None:
        raise ConcurrentChangeError(revision.target, revision.model, revision.number)
    connection.execute(insert(revisions), revision_to_row(revision, sequence))


def _settle_revision(connection: Connection, settled: RevisionSettled, sequence: int) -> None:
    of_pair = and_(revisions.c.target == settled.target, revisions.c.model == settled.model)
    changed = connection.execute(
        update(revisions)
        .where(of_pair, revisions.c.number == settled.number)
        .values(
            state=settled.state.value,
            evidence=canonical_json(settled.evidence),
            settled_at=format_time(settled.at),
            settled_sequence=sequence,
        )
    )
    if changed.rowcount == 0:
        raise RevisionNotFoundError(
            f"{settled.model} on {settled.target} has no revision {settled.number} to settle",
            hint=f"deployctl history {settled.model} --target {settled.target}",
        )
    served = select(func.max(revisions.c.number)).where(of_pair, revisions.c.state == RevisionState.SERVING.value)
    current = connection.execute(served).scalar()
    # Two statements: the index that allows one current revision must hold between them too.
    connection.execute(update(revisions).where(of_pair, revisions.c.is_current.is_(True)).values(is_current=False))
    connection.execute(update(revisions).where(of_pair, revisions.c.number == current).values(is_current=True))


def _review_revision(connection: Connection, reviewed: RevisionReviewed) -> None:
    of_revision = and_(
        revisions.c.target == reviewed.target,
        revisions.c.model == reviewed.model,
        revisions.c.number == reviewed.number,
    )
    connection.execute(update(revisions).where(of_revision).values(reviewed_at=format_time(reviewed.at)))


def _lift(connection: Connection, target: TargetName, model: ModelName | None) -> None:
    connection.execute(delete(freezes).where(freezes.c.target == target, freezes.c.model == (model or "")))
