"""Rows of the lineage tables from domain values, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deployctl.domain.authority import Role, Token
from deployctl.domain.event import Actor, Event, EventKind, NewEvent
from deployctl.domain.hold import Freeze, GateRecord, Quarantine
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.names import Digest, ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Revision, RevisionKind, RevisionState, desired_from_json
from deployctl.errors import DatabaseCorruptError
from deployctl.lineage.interface import VersionRecord
from deployctl.lineage.projections import canonical_json

if TYPE_CHECKING:
    from sqlalchemy import RowMapping


def event_to_row(event: Event) -> dict[str, Any]:
    """Returns the columns of `events`."""
    content = event.content
    return {
        "sequence": event.sequence,
        "kind": content.kind.value,
        "at": format_time(content.at),
        **_actor_to_row(content.actor),
        "operation": content.operation,
        "model": content.model,
        "target": content.target,
        "reason": content.reason,
        "data": canonical_json(content.data),
        "previous_hash": event.previous_hash,
        "hash": event.hash,
    }


def event_from_row(row: RowMapping) -> Event:
    """Returns the event of a row of `events`.

    Raises:
        DatabaseCorruptError: the row was changed into something that is no event.
    """
    try:
        content = NewEvent(
            kind=EventKind(row["kind"]),
            at=parse_time(row["at"]),
            actor=_actor_from_row(row),
            operation=row["operation"],
            model=row["model"],
            target=row["target"],
            reason=row["reason"],
            data=json.loads(row["data"]),
        )
    except (ValueError, TypeError) as error:
        raise DatabaseCorruptError(
            f"event {row['sequence']} of the lineage cannot be read: {error}", sequence=row["sequence"]
        ) from error
    return Event(row["sequence"], content, row["previous_hash"], row["hash"])


def version_to_row(record: VersionRecord, sequence: int) -> dict[str, Any]:
    """Returns the columns of `versions`."""
    return {
        "model": record.model,
        "version": record.version,
        "digest": record.digest,
        "size_bytes": record.size_bytes,
        "file_count": record.file_count,
        "published_at": format_time(record.published_at),
        "published_by": record.published_by,
        "source": record.source,
        "sequence": sequence,
    }


def version_from_row(row: RowMapping, *, metrics: Mapping[str, float], tags: Mapping[str, str]) -> VersionRecord:
    """Returns the record of a row of `versions` with what its child tables hold."""
    return VersionRecord(
        model=ModelName(row["model"]),
        version=VersionNumber(row["version"]),
        digest=Digest(row["digest"]),
        size_bytes=row["size_bytes"],
        file_count=row["file_count"],
        published_at=parse_time(row["published_at"]),
        published_by=row["published_by"],
        source=row["source"],
        metrics=metrics,
        tags=tags,
    )


def revision_to_row(revision: Revision, sequence: int) -> dict[str, Any]:
    """Returns the columns of `revisions` of one that is pending since event `sequence`."""
    return {
        "target": revision.target,
        "model": revision.model,
        "number": revision.number,
        "kind": revision.kind.value,
        "desired": canonical_json(revision.desired.to_json()),
        "before": canonical_json(revision.before.to_json()),
        "state": revision.state.value,
        "is_current": False,
        **_actor_to_row(revision.actor),
        "operation": revision.operation,
        "reason": revision.reason,
        "restores": revision.restores,
        "evidence": canonical_json(revision.evidence),
        "recorded_at": format_time(revision.recorded_at),
        "recorded_sequence": sequence,
        "settled_at": None,
        "settled_sequence": None,
        "reviewed_at": None,
    }


def revision_from_row(row: RowMapping) -> Revision:
    """Returns the revision of a row of `revisions`."""
    return Revision(
        target=TargetName(row["target"]),
        model=ModelName(row["model"]),
        number=row["number"],
        kind=RevisionKind(row["kind"]),
        desired=desired_from_json(json.loads(row["desired"])),
        before=desired_from_json(json.loads(row["before"])),
        state=RevisionState(row["state"]),
        actor=_actor_from_row(row),
        operation=row["operation"],
        reason=row["reason"],
        recorded_at=parse_time(row["recorded_at"]),
        settled_at=None if row["settled_at"] is None else parse_time(row["settled_at"]),
        restores=row["restores"],
        evidence=json.loads(row["evidence"]),
        reviewed_at=None if row["reviewed_at"] is None else parse_time(row["reviewed_at"]),
    )


def freeze_to_row(freeze: Freeze, sequence: int) -> dict[str, Any]:
    """Returns the columns of `freezes`."""
    return {
        "target": freeze.target,
        "model": freeze.model or "",
        **_actor_to_row(freeze.actor),
        "reason": freeze.reason,
        "at": format_time(freeze.at),
        "expires_at": None if freeze.expires_at is None else format_time(freeze.expires_at),
        "sequence": sequence,
    }


def freeze_from_row(row: RowMapping) -> Freeze:
    """Returns the freeze of a row of `freezes`."""
    return Freeze(
        target=TargetName(row["target"]),
        model=ModelName(row["model"]) if row["model"] else None,
        reason=row["reason"],
        actor=_actor_from_row(row),
        at=parse_time(row["at"]),
        expires_at=None if row["expires_at"] is None else parse_time(row["expires_at"]),
    )


def quarantine_to_row(quarantine: Quarantine, sequence: int) -> dict[str, Any]:
    """Returns the columns of `quarantines`."""
    return {
        "digest": quarantine.digest,
        "model": quarantine.model,
        "version": quarantine.version,
        **_actor_to_row(quarantine.actor),
        "reason": quarantine.reason,
        "at": format_time(quarantine.at),
        "sequence": sequence,
    }


def quarantine_from_row(row: RowMapping) -> Quarantine:
    """Returns the quarantine of a row of `quarantines`."""
    return Quarantine(
        digest=Digest(row["digest"]),
        model=ModelName(row["model"]),
        version=VersionNumber(row["version"]),
        reason=row["reason"],
        actor=_actor_from_row(row),
        at=parse_time(row["at"]),
    )


def verdict_to_row(record: GateRecord, sequence: int) -> dict[str, Any]:
    """Returns the columns of `verdicts`."""
    return {
        "key": record.key,
        "model": record.model,
        "version": record.version,
        "gate": record.gate,
        "outcome": record.outcome,
        "summary": record.summary,
        "problems": canonical_json(list(record.problems)),
        "duration_s": record.duration_s,
        "evidence": canonical_json(dict(record.evidence)),
        "sequence": sequence,
    }


def verdict_from_row(row: RowMapping) -> GateRecord:
    """Returns the verdict of a row of `verdicts`."""
    return GateRecord(
        key=row["key"],
        model=ModelName(row["model"]),
        version=VersionNumber(row["version"]),
        gate=row["gate"],
        outcome=row["outcome"],
        summary=row["summary"],
        problems=tuple(json.loads(row["problems"])),
        duration_s=row["duration_s"],
        evidence=json.loads(row["evidence"]),
    )


def token_to_row(token: Token, sequence: int) -> dict[str, Any]:
    """Returns the columns of `tokens`."""
    return {
        "id": token.id,
        "name": token.name,
        "digest": token.digest,
        "role": token.role.value,
        "targets": canonical_json(sorted(token.targets)),
        "models": canonical_json(sorted(token.models)),
        "created_at": format_time(token.created_at),
        "created_by": token.created_by,
        "expires_at": None if token.expires_at is None else format_time(token.expires_at),
        "sequence": sequence,
    }


def token_from_row(row: RowMapping) -> Token:
    """Returns the token of a row of `tokens`."""
    return Token(
        id=row["id"],
        name=row["name"],
        digest=row["digest"],
        role=Role(row["role"]),
        created_at=parse_time(row["created_at"]),
        created_by=row["created_by"],
        targets=frozenset(TargetName(name) for name in json.loads(row["targets"])),
        models=frozenset(ModelName(name) for name in json.loads(row["models"])),
        expires_at=None if row["expires_at"] is None else parse_time(row["expires_at"]),
    )


def _actor_to_row(actor: Actor) -> dict[str, str]:
    return {"user_name": actor.user, "host": actor.host, "ci": actor.ci, "command": actor.command}


def _actor_from_row(row: RowMapping) -> Actor:
    return Actor(user=row["user_name"], host=row["host"], ci=row["ci"], command=row["command"])
