"""What each kind of event carries in its `data`, and what it changes in the state that events fold to.

    kind               model  target  data
    version.published  yes    no      {"version": int, "digest": str, "manifest": object of manifest.json}
    version.adopted    yes    no      the same
    target.started     no     yes     {"runtime": str, "rest": str, "grpc": str}
    target.stopped     no     yes     the same; "" where there is no endpoint any more
    target.upgraded    no     yes     as target.started, and {"before": Image, "after": Image, "compared": [...],
                                       "gap_s": float}
    revision.pending   yes    yes     {"revision": int, "kind": "promote" | "rollback", "desired": Desired,
                                       "before": Desired, "restores": int | null}
    revision.serving   yes    yes     {"revision": int, "evidence": object}
    revision.failed    yes    yes     the same
    revision.reviewed  yes    yes     {"revision": int}: somebody looked at a change that passed a gate or a freeze
    target.frozen      maybe  yes     {"expires_at": time | null}; without a model, every model is meant
    target.unfrozen    maybe  yes     {}
    version.quarantined yes   no      {"version": int, "digest": str}
    version.released   yes    no      the same: out of quarantine
    version.refused    yes    no      {"inbox": str, "export": str, "error": str}
    version.retired    yes    no      {"version": int, "digest": str}
    target.drifted     maybe  yes     {"differences": [str], "repaired": bool}
    target.degraded    maybe  yes     {"problem": str}
    target.recovered   maybe  yes     {"after_s": float}
    token.created      no     no      {"id": str, "name": str, "role": str, "targets": [str], "models": [str],
                                       "digest": str, "expires_at": time | null}
    token.revoked      no     no      {"id": str}
    version.validated  yes    maybe   {"version": int, "digest": str, "gates": [GateRecord without model and version]}

`data` may hold more than this; what is more is kept and hashed, and changes nothing. Rules of the fold:

- a version that is recorded again replaces its record: the repository says what exists;
- a version that is retired has no record, until it is recorded again;
- a revision's number may be taken once;
- a revision may be settled again, since what served can fail later: the newest event says its state;
- the current revision of a model on a target is the highest-numbered one whose state is serving.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, assert_never

from deployctl.domain.authority import Role, Token
from deployctl.domain.event import EventKind, NewEvent
from deployctl.domain.hold import Freeze, GateRecord, Quarantine
from deployctl.domain.manifest import Manifest, from_json, parse_time
from deployctl.domain.names import (
    Digest,
    ModelName,
    TargetName,
    VersionNumber,
    parse_digest,
    parse_model_name,
    parse_target_name,
)
from deployctl.domain.revision import Revision, RevisionKind, RevisionState, desired_from_json
from deployctl.errors import ManifestError
from deployctl.lineage.interface import VersionRecord


@dataclass(frozen=True, slots=True)
class Source:
    """One thing that a version came from.

    Attributes:
        kind: "path", "run", "code", "dataset" or "parent".
        name: the data set's name, or the parent's digest; "" for the other kinds.
        reference: the path, the run's id, the commit, the data set's digest or the parent's digest.
    """

    kind: str
    name: str
    reference: str


@dataclass(frozen=True, slots=True)
class VersionRecorded:
    """A version exists; `document` is its manifest as canonical JSON."""

    record: VersionRecord
    document: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class TargetChanged:
    """A target's server was started or stopped."""

    target: TargetName
    running: bool
    runtime: str
    rest: str
    grpc: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RevisionOpened:
    """A revision is pending."""

    revision: Revision


@dataclass(frozen=True, slots=True)
class RevisionSettled:
    """There is evidence that a revision serves, or that it cannot."""

    target: TargetName
    model: ModelName
    number: int
    state: RevisionState
    at: datetime
    evidence: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RevisionReviewed:
    """Somebody looked at a change that was made past a gate or a freeze."""

    target: TargetName
    model: ModelName
    number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Frozen:
    """A target, or one model on it, is not to change."""

    freeze: Freeze


@dataclass(frozen=True, slots=True)
class Unfrozen:
    """A freeze was lifted."""

    target: TargetName
    model: ModelName | None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """Bytes are not to be served."""

    quarantine: Quarantine


@dataclass(frozen=True, slots=True)
class Released:
    """Bytes may be served again."""

    digest: Digest


@dataclass(frozen=True, slots=True)
class Retired:
    """A version is not in the registry any more."""

    model: ModelName
    version: VersionNumber


@dataclass(frozen=True, slots=True)
class Validated:
    """Gates have judged a version."""

    records: tuple[GateRecord, ...]


@dataclass(frozen=True, slots=True)
class TokenCreated:
    """Somebody may use the API of the daemon."""

    token: Token


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    """A token opens nothing any more."""

    id: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something that is only history: nothing else in the database tells of it."""


Effect = (
    VersionRecorded
    | TargetChanged
    | RevisionOpened
    | RevisionSettled
    | RevisionReviewed
    | Frozen
    | Unfrozen
    | Quarantined
    | Released
    | Retired
    | Validated
    | TokenCreated
    | TokenRevoked
    | Noted
)


def canonical_json(value: object) -> str:
    """Returns the one JSON text of `value`: sorted keys, no spaces, ASCII.

    Raises:
        ValueError: it holds NaN or an infinity, which JSON cannot say.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def storable(text: str) -> str:
    r"""Returns `text` as every database stores it: bytes that are not UTF-8 and NUL become \x escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def normalised(event: NewEvent) -> NewEvent:
    """Returns `event` as it will be read back, so that its hash is that of what is stored."""
    actor = event.actor
    return dataclasses.replace(
        event,
        at=event.at.astimezone(UTC),
        actor=dataclasses.replace(
            actor,
            user=storable(actor.user),
            host=storable(actor.host),
            ci=storable(actor.ci),
            command=storable(actor.command),
        ),
        operation=storable(event.operation),
        reason=storable(event.reason),
        data=json.loads(canonical_json(event.data)),
    )


def effect(event: NewEvent) -> Effect:
    """Returns what `event` changes.

    Raises:
        ValueError: its data is not what its kind carries; nothing of ours writes such an event.
    """
    try:
        return _effect(event)
    except (KeyError, TypeError, AttributeError, ManifestError) as error:
        raise ValueError(f"the data of {event.kind} is incomplete: {error!r}") from error


def _effect(event: NewEvent) -> Effect:
    match event.kind:
        case EventKind.VERSION_PUBLISHED | EventKind.VERSION_ADOPTED:
            return _version_recorded(_model(event), event.data)
        case (
            EventKind.LOCK_RELEASED
            | EventKind.VERSION_REFUSED
            | EventKind.TARGET_DRIFTED
            | EventKind.TARGET_DEGRADED
            | EventKind.TARGET_RECOVERED
        ):
            return Noted()
        case EventKind.TOKEN_CREATED:
            return TokenCreated(_token(event))
        case EventKind.TOKEN_REVOKED:
            return TokenRevoked(event.data["id"])
        case EventKind.TARGET_STARTED | EventKind.TARGET_UPGRADED:
            return _target_changed(event, running=True)
        case EventKind.TARGET_STOPPED:
            return _target_changed(event, running=False)
        case EventKind.REVISION_PENDING:
            return RevisionOpened(_pending_revision(event))
        case EventKind.REVISION_SERVING:
            return _revision_settled(event, RevisionState.SERVING)
        case EventKind.REVISION_FAILED:
            return _revision_settled(event, RevisionState.FAILED)
        case EventKind.REVISION_REVIEWED:
            return RevisionReviewed(_target(event), _model(event), _positive(event.data["revision"]), event.at)
        case EventKind.TARGET_FROZEN:
            return Frozen(_freeze(event))
        case EventKind.TARGET_UNFROZEN:
            return Unfrozen(_target(event), event.model)
        case EventKind.VERSION_QUARANTINED:
            return Quarantined(_quarantine(event))
        case EventKind.VERSION_RELEASED:
            return Released(parse_digest(event.data["digest"]))
        case EventKind.VERSION_RETIRED:
            return Retired(_model(event), VersionNumber(event.data["version"]))
        case EventKind.VERSION_VALIDATED:
            return Validated(tuple(_gate_record(event, each) for each in event.data["gates"]))
    assert_never(event.kind)


def _version_recorded(model: ModelName, data: Mapping[str, Any]) -> VersionRecorded:
    document = canonical_json(data["manifest"])
    manifest = from_json(document, where="the event's manifest")
    if (manifest.model, manifest.version, manifest.digest) != (model, data["version"], data["digest"]):
        raise ValueError(f"the manifest is of {manifest.model}@{manifest.version}, not of the event's version")
    return VersionRecorded(_record(manifest), document, _sources(manifest))


def _record(manifest: Manifest) -> VersionRecord:
    provenance = manifest.provenance
    return VersionRecord(
        model=manifest.model,
        version=manifest.version,
        digest=manifest.digest,
        size_bytes=manifest.size_bytes,
        file_count=len(manifest.files),
        published_at=manifest.published_at,
        published_by=storable(manifest.published_by),
        source=storable(provenance.source),
        metrics={storable(name): float(provenance.metrics[name]) for name in sorted(provenance.metrics)},
        tags={storable(name): storable(provenance.tags[name]) for name in sorted(provenance.tags)},
    )


def _sources(manifest: Manifest) -> tuple[Source, ...]:
    provenance = manifest.provenance
    single = (("path", provenance.source), ("run", provenance.run), ("code", provenance.code))
    parents = sorted(set[Digest](provenance.parents))
    return (
        *(Source(kind, "", storable(reference)) for kind, reference in single if reference),
        *(Source("dataset", storable(name), storable(ref)) for name, ref in sorted(provenance.datasets.items())),
        *(Source("parent", parent, parent) for parent in parents),
    )


def _target_changed(event: NewEvent, *, running: bool) -> TargetChanged:
    data = event.data
    return TargetChanged(
        target=_target(event),
        running=running,
        runtime=storable(data["runtime"]),
        rest=storable(data["rest"]),
        grpc=storable(data["grpc"]),
        at=event.at,
    )


def _pending_revision(event: NewEvent) -> Revision:
    data = event.data
    return Revision(
        target=_target(event),
        model=_model(event),
        number=_positive(data["revision"]),
        kind=RevisionKind(data["kind"]),
        desired=desired_from_json(data["desired"]),
        before=desired_from_json(data["before"]),
        state=RevisionState.PENDING,
        actor=event.actor,
        operation=event.operation,
        reason=event.reason,
        recorded_at=event.at,
        restores=data["restores"],
    )


def _revision_settled(event: NewEvent, state: RevisionState) -> RevisionSettled:
    return RevisionSettled(
        target=_target(event),
        model=_model(event),
        number=_positive(event.data["revision"]),
        state=state,
        at=event.at,
        evidence=dict(event.data["evidence"]),
    )


def _freeze(event: NewEvent) -> Freeze:
    expires_at = event.data["expires_at"]
    return Freeze(
        target=_target(event),
        model=event.model,
        reason=event.reason,
        actor=event.actor,
        at=event.at,
        expires_at=None if expires_at is None else parse_time(expires_at),
    )


def _quarantine(event: NewEvent) -> Quarantine:
    return Quarantine(
        digest=parse_digest(event.data["digest"]),
        model=_model(event),
        version=VersionNumber(event.data["version"]),
        reason=event.reason,
        actor=event.actor,
        at=event.at,
    )


def _token(event: NewEvent) -> Token:
    data = event.data
    expires_at = data["expires_at"]
    return Token(
        id=data["id"],
        name=data["name"],
        digest=data["digest"],
        role=Role(data["role"]),
        created_at=event.at,
        created_by=str(event.actor),
        targets=frozenset(map(parse_target_name, data["targets"])),
        models=frozenset(map(parse_model_name, data["models"])),
        expires_at=None if expires_at is None else parse_time(expires_at),
    )


def _gate_record(event: NewEvent, document: Mapping[str, Any]) -> GateRecord:
    return GateRecord(
        key=document["key"],
        model=_model(event),
        version=VersionNumber(event.data["version"]),
        gate=document["gate"],
        outcome=document["outcome"],
        summary=storable(document["summary"]),
        problems=tuple(storable(problem) for problem in document["problems"]),
        duration_s=float(document["duration_s"]),
        evidence=dict(document["evidence"]),
    )


def _model(event: NewEvent) -> ModelName:
    if event.model is None:
        raise ValueError(f"{event.kind} must name a model")
    return event.model


def _target(event: NewEvent) -> TargetName:
    if event.target is None:
        raise ValueError(f"{event.kind} must name a target")
    return event.target


def _positive(number: int) -> int:
    if number < 1:
        raise ValueError(f"revision {number} is not a revision's number: they count from 1")
    return number
