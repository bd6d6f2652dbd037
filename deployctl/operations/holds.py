"""Freeze, quarantine, review, release locks: what keeps versions from being promoted, and what is owed afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from deployctl.domain.event import EventKind, NewEvent
from deployctl.domain.hold import Freeze, Quarantine
from deployctl.domain.manifest import Manifest, format_time
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.revision import BREAK_GLASS, Revision
from deployctl.errors import (
    DependencyError,
    FrozenError,
    ManifestError,
    ModelNotFoundError,
    NotFoundError,
    QuarantinedError,
    RevisionNotFoundError,
)
from deployctl.lineage.interface import LineageStore
from deployctl.operations.context import Context
from deployctl.repository.interface import ModelRepository

if TYPE_CHECKING:
    from deployctl.domain.lease import LeaseRecord
    from deployctl.operations.target import Target

_LOOK_BACK = 200


@dataclass(frozen=True, slots=True)
class Holds:
    """Keeps targets and versions from changing, and lets them go again."""

    lineage: LineageStore
    context: Context

    def freeze(
        self, target: TargetName, model: ModelName | None, *, reason: str, expires_at: datetime | None
    ) -> Freeze:
        """Lets nothing be promoted to `target`, or one model of it, until it is lifted or `expires_at`.

        A freeze of the same thing is replaced, which is told. Rollbacks stay allowed.
        """
        replaced = next((each for each in self.lineage.freezes(target) if each.model == model), None)
        data = {"expires_at": None if expires_at is None else format_time(expires_at)}
        event = self.context.event(EventKind.TARGET_FROZEN, model=model, target=target, reason=reason, data=data)
        with self.lineage.transaction() as transaction:
            transaction.append(event)
        if replaced is not None and replaced.in_force(event.at):
            self.context.observer.warn(f"this replaces: {replaced}")
        return Freeze(target, model, reason, event.actor, event.at, expires_at)

    def unfreeze(self, target: TargetName, model: ModelName | None, *, reason: str) -> Freeze:
        """Lifts a freeze and returns it.

        Raises:
            NotFoundError: there is none of exactly this target and model.
        """
        found = next((freeze for freeze in self.lineage.freezes(target) if freeze.model == model), None)
        if found is None:
            what = f"{model} on {target}" if model else f"target {target}"
            raise NotFoundError(f"{what} is not frozen", hint=f"deployctl status {target}")
        with self.lineage.transaction() as transaction:
            transaction.append(
                self.context.event(EventKind.TARGET_UNFROZEN, model=model, target=target, reason=reason, data={})
            )
        return found

    def lift_expired(self, target: TargetName) -> tuple[Freeze, ...]:
        """Records the end of each freeze of `target` that has run out, and returns those freezes."""
        if not self._expired(target):
            return ()
        with self.lineage.transaction() as transaction:
            # Read again where nobody else can write: what somebody has frozen anew meanwhile stays so.
            lifted = self._expired(target)
            for freeze in lifted:
                transaction.append(
                    self.context.event(
                        EventKind.TARGET_UNFROZEN, model=freeze.model, target=target, reason="it ran out", data={}
                    )
                )
        return lifted

    def _expired(self, target: TargetName) -> tuple[Freeze, ...]:
        now = self.context.clock.now()
        return tuple(freeze for freeze in self.lineage.freezes(target) if not freeze.in_force(now))

    def quarantine(self, manifest: Manifest, *, reason: str) -> Quarantine:
        """Keeps the bytes of a version from ever being served again, under whatever number.

        What serves them now goes on until it is rolled back.
        """
        event = self._about(EventKind.VERSION_QUARANTINED, manifest, reason)
        return Quarantine(manifest.digest, manifest.model, manifest.version, reason, event.actor, event.at)

    def release(self, manifest: Manifest, *, reason: str) -> Quarantine:
        """Lets the bytes of a version be served again and returns the quarantine that ended.

        Raises:
            NotFoundError: they are not in quarantine.
        """
        found = self.lineage.quarantine(manifest.digest)
        if found is None:
            name = f"{manifest.model}@{manifest.version}"
            raise NotFoundError(f"{name} is not in quarantine", hint=f"deployctl show {name}")
        self._about(EventKind.VERSION_RELEASED, manifest, reason)
        return found

    def review(self, target: TargetName, model: ModelName, *, reason: str) -> tuple[Revision, ...]:
        """Records that somebody looked at every change of `model` that was made past a freeze or a gate.

        Raises:
            RevisionNotFoundError: there is none that was not reviewed.
        """
        owed = unreviewed(self.lineage, target, model)
        if not owed:
            known = any(revision.model == model for revision in self.lineage.current(target))
            raise RevisionNotFoundError(
                f"{model} on {target} has no change that waits for a review",
                hint=f"deployctl history {model} --target {target}" if known else f"deployctl status {target}",
            )
        with self.lineage.transaction() as transaction:
            for revision in owed:
                data = {"revision": revision.number}
                transaction.append(
                    self.context.event(
                        EventKind.REVISION_REVIEWED, model=model, target=target, reason=reason, data=data
                    )
                )
        return owed

    def _about(self, kind: EventKind, manifest: Manifest, reason: str) -> NewEvent:
        data = {"version": manifest.version, "digest": manifest.digest}
        event = self.context.event(kind, model=manifest.model, reason=reason, data=data)
        with self.lineage.transaction() as transaction:
            transaction.append(event)
        return event


def check_model_known(repository: ModelRepository, lineage: LineageStore, target: TargetName, model: ModelName) -> None:
    """Checks that `model` has a version, here or on `target`; the store is not asked for what the target serves.

    Raises:
        ModelNotFoundError: it has none.
    """
    if not any(revision.model == model for revision in lineage.current(target)) and not repository.versions(model):
        raise ModelNotFoundError(model)


def release_lock(target: Target, context: Context, model: ModelName | None, *, reason: str) -> LeaseRecord:
    """Takes the lock on `model`, or on the whole target, from its holder, and returns what that was.

    Its holder changes nothing from then on; what it left is put right by the next operation.

    Raises:
        NotFoundError: nobody holds it.
    """
    context.permit("lock release", target=target.name, model=model)
    lease = target.lock.release(model)
    data = {"owner": lease.owner, "purpose": lease.purpose, "operation": lease.operation, "token": lease.token}
    with target.lineage.transaction() as transaction:
        transaction.append(
            context.event(EventKind.LOCK_RELEASED, model=lease.model, target=target.name, reason=reason, data=data)
        )
    return lease


def unreviewed(lineage: LineageStore, target: TargetName, model: ModelName) -> tuple[Revision, ...]:
    """Returns the changes made past a freeze or a gate that nobody has reviewed, newest first."""
    revisions = lineage.revisions(target, model, limit=_LOOK_BACK)
    return tuple(each for each in revisions if BREAK_GLASS in each.evidence and each.reviewed_at is None)


def check_not_frozen(lineage: LineageStore, context: Context, target: TargetName, model: ModelName) -> None:
    """Raises FrozenError where a freeze keeps `model` on `target` from being promoted now."""
    now = context.clock.now()
    holding = next((freeze for freeze in lineage.freezes(target) if freeze.holds(model, now)), None)
    if holding is not None:
        of_model = f" --model {holding.model}" if holding.model else ""
        raise FrozenError(str(holding), hint=f"deployctl unfreeze {target}{of_model}    (or --break-glass TICKET)")


def quarantine_of(
    repository: ModelRepository, lineage: LineageStore, model: ModelName, version: VersionNumber
) -> Quarantine | None:
    """Returns the quarantine of a version's bytes, None where it has none or its bytes cannot be told.

    A rollback must work while a store or a manifest does not; bytes that are not loaded yet are verified before they
    are.
    """
    try:
        manifest = repository.manifest(model, version)
    except (NotFoundError, ManifestError, DependencyError):
        return None
    return lineage.quarantine(manifest.digest) if manifest else None


def check_not_quarantined(found: Quarantine | None, name: str) -> None:
    """Raises QuarantinedError where the bytes of `name` are in quarantine."""
    if found is not None:
        raise QuarantinedError(
            f"{name} is not to be served: {found}",
            hint=f'deployctl quarantine {found.model}@{found.version} --release -m "why it may serve again"',
        )


def manifest_of(repository: ModelRepository, model: ModelName, version: VersionNumber) -> Manifest:
    """Returns a version's manifest.

    Raises:
        ManifestError: it has none.
    """
    manifest = repository.manifest(model, version)
    if manifest is None:
        raise ManifestError(f"{model}@{version} has no manifest", hint=f"deployctl adopt {model}")
    return manifest
