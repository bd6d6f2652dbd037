"""Retire: versions that nothing needs leave the repository and the registry; they can be got back for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from deployctl.domain.event import EventKind
from deployctl.domain.manifest import Manifest
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Revision, RevisionState
from deployctl.errors import ManifestError, ModelNotFoundError, StorageError, VersionHeldError
from deployctl.lineage.interface import LineageStore
from deployctl.operations.context import Context
from deployctl.operations.known_good import History, known_good
from deployctl.operations.publish import record_version
from deployctl.operations.target import Target
from deployctl.repository.interface import ModelRepository

_LOOK_BACK = 200


@dataclass(frozen=True, slots=True)
class RetireRequest:
    """What to retire.

    Attributes:
        versions: these, or
        keep: all but so many of the newest, and but those that a target holds; None where `versions` says which.
        dry_run: only say what would be retired.
    """

    model: ModelName
    versions: tuple[VersionNumber, ...] = ()
    keep: int | None = None
    reason: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Retirement:
    """What was retired, or would be.

    Attributes:
        versions: ascending.
        size_bytes: what they hold together.
        held: those that would have been, and why they were not.
    """

    model: ModelName
    versions: tuple[VersionNumber, ...]
    size_bytes: int
    held: Mapping[VersionNumber, str] = field(default_factory=dict)
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Retire:
    """Moves versions of a model to the trash and out of the registry.

    Attributes:
        targets: those of the settings; other targets in the record hold their versions too.
    """

    repository: ModelRepository
    lineage: LineageStore
    targets: Sequence[Target]
    context: Context

    def __call__(self, request: RetireRequest) -> Retirement:
        """Retires and returns what.

        Raises:
            ModelNotFoundError, VersionNotFoundError: there is no such version.
            VersionHeldError: a target holds one of the versions that were named; nothing was retired.
            ManifestError: one of those was not published by deployctl.
            LockedError: an operation on a target is under way with this model.
            StorageError, DatabaseError: the repository or the lineage database is unavailable.
        """
        with ExitStack() as stack:
            if not request.dry_run:
                # Whatever is about to serve a version holds this, and so cannot begin to meanwhile.
                for target in self.targets:
                    purpose = f"retire versions of {request.model}"
                    stack.enter_context(
                        target.lock.hold(model=request.model, purpose=purpose, timeout_s=target.lock_timeout_s)
                    )
            holds = self._holds(request.model)
            chosen = self._chosen(request, holds)
            if not request.dry_run:
                for manifest in chosen:
                    self._retire(manifest, request.reason)
        return Retirement(
            model=request.model,
            versions=tuple(manifest.version for manifest in chosen),
            size_bytes=sum(manifest.size_bytes for manifest in chosen),
            held={} if request.keep is None else {each: holds[each] for each in self._old(request) if each in holds},
            dry_run=request.dry_run,
        )

    def _chosen(self, request: RetireRequest, holds: Mapping[VersionNumber, str]) -> list[Manifest]:
        if request.keep is not None:
            found = [self.repository.manifest(request.model, each) for each in self._old(request) if each not in holds]
            return [manifest for manifest in found if manifest is not None]
        for version in request.versions:
            if version in holds:
                raise VersionHeldError(f"{request.model}@{version}", holds[version])
        return [self._manifest(request.model, version) for version in sorted(set(request.versions))]

    def _old(self, request: RetireRequest) -> tuple[VersionNumber, ...]:
        """Returns all versions but the newest ones, ascending."""
        versions = self.repository.versions(request.model)
        if not versions:
            raise ModelNotFoundError(request.model)
        return versions[: -request.keep] if request.keep else versions

    def _manifest(self, model: ModelName, version: VersionNumber) -> Manifest:
        manifest = self.repository.manifest(model, version)
        if manifest is None:
            raise ManifestError(f"{model}@{version} has no manifest", hint=f"deployctl adopt {model}")
        return manifest

    def _retire(self, manifest: Manifest, reason: str) -> None:
        """Takes a version out of the registry, then out of sight; killed in between, it is there and not recorded."""
        data = {"version": manifest.version, "digest": manifest.digest}
        event = self.context.event(EventKind.VERSION_RETIRED, model=manifest.model, reason=reason, data=data)
        if not self._is_recorded_as_retired(manifest):
            with self.lineage.transaction() as transaction:
                transaction.append(event)
        try:
            self.repository.retire(manifest.model, manifest.version)
        except StorageError:
            reason = "it could not be retired"
            record_version(self.lineage, self.context, manifest, kind=EventKind.VERSION_ADOPTED, reason=reason)
            raise

    def _is_recorded_as_retired(self, manifest: Manifest) -> bool:
        """Whether somebody was killed once it was recorded that this version is retired."""
        if self.lineage.manifest(manifest.model, manifest.version) is not None:
            return False
        events = self.lineage.history(model=manifest.model, limit=_LOOK_BACK)
        retired = (event.content.data for event in events if event.content.kind is EventKind.VERSION_RETIRED)
        return any((data["version"], data["digest"]) == (manifest.version, manifest.digest) for data in retired)

    def _holds(self, model: ModelName) -> dict[VersionNumber, str]:
        """Returns the versions that something needs, and what."""
        ours = {target.name: target for target in self.targets}
        holds: dict[VersionNumber, str] = {}
        for name in self.lineage.targets():
            for version, why in self._held_on(name, ours.get(name), model):
                holds.setdefault(version, why)
        return holds

    def _held_on(
        self, name: TargetName, target: Target | None, model: ModelName
    ) -> Iterator[tuple[VersionNumber, str]]:
        for revision in self.lineage.current(name):
            if revision.model == model:
                for label, version in revision.desired.labels.items():
                    yield version, f"it is {label} on {name}"
                yield from ((version, f"it is loaded on {name}") for version in revision.desired.versions)
        for revision in self.lineage.pending(name):
            if revision.model == model:
                yield from ((version, f"a change of {name} is pending with it") for version in _versions(revision))
        goal = self._goal(name, target, model)
        if goal is not None:
            # What stood by then need not stand by again.
            versions = set(goal.desired.labels.values()) or _versions(goal)
            yield from ((version, f"a rollback on {name} would go to it") for version in versions)

    def _goal(self, name: TargetName, target: Target | None, model: ModelName) -> Revision | None:
        """Returns the revision that a rollback would return to; of a target of others', the one that served before."""
        if target is not None:
            return known_good(History(target, model), self.context.clock.now()).revision
        revisions = self.lineage.revisions(name, model, limit=_LOOK_BACK)
        served = [revision for revision in revisions if revision.state is RevisionState.SERVING]
        return served[1] if len(served) > 1 else None


def _versions(revision: Revision) -> set[VersionNumber]:
    return {*revision.desired.versions, *revision.desired.labels.values()}
