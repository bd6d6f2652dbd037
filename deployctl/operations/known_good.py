"""Which revision a rollback returns to when none is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Revision, RevisionState
from deployctl.domain.transition import last_known_good, served_seconds
from deployctl.errors import DependencyError
from deployctl.lineage.interface import LineageStore
from deployctl.operations.holds import quarantine_of
from deployctl.operations.target import Target

# How many revisions are looked at in turn. Most rollbacks go to what served just before, and nobody waits for the rest.
_LOOKS = (50, 1000, 20_000)


@dataclass(frozen=True, slots=True)
class KnownGood:
    """What a rollback without a version returns to.

    Attributes:
        revision: None where there is nothing.
        proven: whether a server answered with it, for the target's soak time.
        skipped: why the versions that were passed over cannot be returned to.
    """

    revision: Revision | None
    proven: bool
    skipped: Mapping[VersionNumber, str]


def looks_back(lineage: LineageStore, target: TargetName, model: ModelName) -> Iterator[tuple[list[Revision], bool]]:
    """Yields the revisions of a model that served, newest first, and whether these are all; each look goes further."""
    for limit in _LOOKS:
        revisions = lineage.revisions(target, model, limit=limit)
        whole = len(revisions) < limit
        yield [revision for revision in revisions if revision.state is RevisionState.SERVING], whole
        if whole:
            return


def known_good(target: Target, model: ModelName, now: datetime) -> KnownGood:
    """Returns the last known good revision of a model, the newest of those without proof where none has any."""
    found = KnownGood(None, proven=False, skipped={})
    for served, whole in looks_back(target.lineage, target.name, model):
        found = _known_good(target, served, now, whole=whole)
        if found.proven or whole:
            break
    return found


def _known_good(target: Target, served: list[Revision], now: datetime, *, whole: bool) -> KnownGood:
    seconds = served_seconds(served, now)
    skipped: dict[VersionNumber, str] = {}

    def refused(revision: Revision, version: VersionNumber) -> bool:
        reason = obstacle(target, revision.model, version)
        if reason is not None:
            skipped[version] = reason
        return reason is not None

    def unproven(revision: Revision, version: VersionNumber) -> bool:
        proven = "available" in revision.evidence and seconds[revision.number] >= target.soak_s
        return not proven or refused(revision, version)

    proven = last_known_good(served, target.routing, unproven, whole=whole)
    return KnownGood(
        proven or last_known_good(served, target.routing, refused, whole=whole), proven is not None, skipped
    )


def obstacle(target: Target, model: ModelName, version: VersionNumber) -> str | None:
    """Returns why a version cannot be rolled back to, None where nothing is known to be in the way."""
    repository = target.repository
    quarantine = quarantine_of(repository, target.lineage, model, version)
    if quarantine is not None:
        return str(quarantine)
    if repository.is_local(model, version):
        return None
    # A store that does not answer is told when the bytes are asked for.
    with suppress(DependencyError):
        if version not in repository.versions(model):
            return "its directory is gone"
    return None
