"""Which revision a rollback returns to when none is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.revision import Revision, RevisionState
from deployctl.domain.transition import last_known_good, served_seconds
from deployctl.errors import DependencyError
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


class History:
    """The revisions of a model on a target that served, newest first; read as far back as is asked for, and once."""

    def __init__(self, target: Target, model: ModelName) -> None:
        self.model = model
        self.target = target
        self._looks: list[tuple[list[Revision], bool]] = []

    def looks(self) -> Iterator[tuple[list[Revision], bool]]:
        """Yields revisions, and whether these are all that there are; each look goes further back."""
        for number, limit in enumerate(_LOOKS):
            if number == len(self._looks):
                revisions = self.target.lineage.revisions(self.target.name, self.model, limit=limit)
                served = [revision for revision in revisions if revision.state is RevisionState.SERVING]
                self._looks.append((served, len(revisions) < limit))
            yield self._looks[number]
            if self._looks[number][1]:
                return

    def newest(self) -> list[Revision]:
        """Returns the newest ones: the current one is there, but not always all of them; [] where none ever served."""
        return next((served for served, _ in self.looks() if served), [])

    def find(self, wanted: Callable[[Revision], bool]) -> Revision | None:
        """Returns the newest `wanted` one."""
        return next((each for served, _ in self.looks() for each in served if wanted(each)), None)


def known_good(history: History, now: datetime) -> KnownGood:
    """Returns the last known good revision of a model, the newest of those without proof where none has any."""
    found = KnownGood(None, proven=False, skipped={})
    for served, whole in history.looks():
        found = _known_good(history.target, served, now, whole=whole)
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


def unusable_versions(
    target: Target, model: ModelName, *, loaded: Iterable[VersionNumber], labelled: Iterable[VersionNumber] = ()
) -> dict[VersionNumber, str]:
    """Returns why versions are not to be served, by version: of those that are `loaded` the ones in quarantine.

    Of those that are to be `labelled` also the ones that are gone.
    """
    words = {version: quarantine_of(target.repository, target.lineage, model, version) for version in loaded}
    found = {version: str(quarantine) for version, quarantine in words.items() if quarantine is not None}
    for version in labelled:
        reason = obstacle(target, model, version)
        if reason is not None:
            found[version] = reason
    return found


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
