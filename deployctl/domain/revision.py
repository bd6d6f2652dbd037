"""Revisions: the numbered, recorded desired state of one model on one target."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployctl.domain.event import Actor
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.names import STABLE, LabelName, ModelName, TargetName, VersionNumber

# Where a revision's evidence keeps the ticket under which a freeze or a gate was passed, and what was passed.
BREAK_GLASS = "break_glass"


class RevisionState(StrEnum):
    """PENDING until there is evidence that it serves (SERVING) or cannot (FAILED)."""

    PENDING = "pending"
    SERVING = "serving"
    FAILED = "failed"


class RevisionKind(StrEnum):
    """Which verb made the revision."""

    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Routing(StrEnum):
    """How the clients of a target call: by label, or with neither label nor version (the highest loaded)."""

    LABEL = "label"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Desired:
    """What a server should have of one model.

    Attributes:
        versions: loaded ones, ascending, standby included; () when the model is not served.
        labels: version by label; each is among `versions`.
    """

    versions: tuple[VersionNumber, ...] = ()
    labels: Mapping[LabelName, VersionNumber] = field(default_factory=dict)

    def live(self, routing: Routing) -> VersionNumber | None:
        """The version that clients reach, or None when nothing is served."""
        if routing is Routing.LATEST:
            return max(self.versions, default=None)
        return self.labels.get(STABLE)

    def standby(self, routing: Routing) -> tuple[VersionNumber, ...]:
        """Loaded versions that are neither live nor labelled, highest first."""
        used = {*self.labels.values(), self.live(routing)}
        return tuple(sorted((version for version in self.versions if version not in used), reverse=True))

    def without(self, versions: Collection[VersionNumber]) -> Desired:
        """Returns the same state but for `versions`, none of which is labelled."""
        return Desired(tuple(version for version in self.versions if version not in versions), self.labels)

    def to_json(self) -> dict[str, Any]:
        """Returns JSON values; `desired_from_json` gives the same value back."""
        return {"versions": list(self.versions), "labels": dict(sorted(self.labels.items()))}


def desired_from_json(document: Mapping[str, Any]) -> Desired:
    """Returns what `Desired.to_json` was given."""
    return Desired(
        tuple(VersionNumber(version) for version in document["versions"]),
        {LabelName(label): VersionNumber(version) for label, version in document["labels"].items()},
    )


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of `model` on `target`; `number` counts from 1 for each pair.

    Attributes:
        before: what was desired when it was made.
        restores: for a rollback, the number of the revision that it returns to.
        recorded_at: when it became pending.
        settled_at: when it became serving or failed, None while pending.
        evidence: JSON values: what showed that it serves, or why it failed.
        reviewed_at: when somebody looked at a change made past a gate or a freeze, None if nobody has.
    """

    target: TargetName
    model: ModelName
    number: int
    kind: RevisionKind
    desired: Desired
    before: Desired
    state: RevisionState
    actor: Actor
    operation: str
    reason: str
    recorded_at: datetime
    settled_at: datetime | None = None
    restores: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reviewed_at: datetime | None = None


def revision_to_json(revision: Revision) -> dict[str, Any]:
    """Returns JSON values; `revision_from_json` gives the same revision back."""
    actor = revision.actor
    return {
        "target": revision.target,
        "model": revision.model,
        "number": revision.number,
        "kind": revision.kind.value,
        "desired": revision.desired.to_json(),
        "before": revision.before.to_json(),
        "state": revision.state.value,
        "actor": {"user": actor.user, "host": actor.host, "ci": actor.ci, "command": actor.command},
        "operation": revision.operation,
        "reason": revision.reason,
        "recorded_at": format_time(revision.recorded_at),
        "settled_at": None if revision.settled_at is None else format_time(revision.settled_at),
        "restores": revision.restores,
        "evidence": dict(revision.evidence),
        "reviewed_at": None if revision.reviewed_at is None else format_time(revision.reviewed_at),
    }


def revision_from_json(document: Mapping[str, Any]) -> Revision:
    """Returns what `revision_to_json` was given.

    Raises:
        KeyError, TypeError, ValueError: it is no such document.
    """
    settled_at = document["settled_at"]
    return Revision(
        target=TargetName(document["target"]),
        model=ModelName(document["model"]),
        number=document["number"],
        kind=RevisionKind(document["kind"]),
        desired=desired_from_json(document["desired"]),
        before=desired_from_json(document["before"]),
        state=RevisionState(document["state"]),
        actor=Actor(**document["actor"]),
        operation=document["operation"],
        reason=document["reason"],
        recorded_at=parse_time(document["recorded_at"]),
        settled_at=None if settled_at is None else parse_time(settled_at),
        restores=document["restores"],
        evidence=document["evidence"],
        reviewed_at=None if document["reviewed_at"] is None else parse_time(document["reviewed_at"]),
    )
