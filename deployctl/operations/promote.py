"""Promote: a label moves to a version, once that is safe for clients."""

from __future__ import annotations

from dataclasses import dataclass

from deployctl.domain.names import STABLE, LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.reference import Reference
from deployctl.domain.revision import Desired, RevisionKind
from deployctl.domain.transition import promoted
from deployctl.operations.context import Context
from deployctl.operations.resolve import resolve
from deployctl.operations.rollout import Change, Rollout
from deployctl.operations.target import Target


@dataclass(frozen=True, slots=True)
class PromoteRequest:
    """What to promote; `if_current` is the revision number that must be current, 0 for none."""

    reference: Reference
    label: LabelName = STABLE
    reason: str = ""
    if_current: int | None = None
    timeout_s: float = 300.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion's outcome.

    Attributes:
        previous_version: what the label pointed to before, None if to nothing.
        revision: the current revision afterwards.
        outcome: "serving"; "unchanged" where the label was there already; "planned" in a dry run.
        standby: loaded versions that no client reaches unless it names them, highest first.
    """

    model: ModelName
    target: TargetName
    label: LabelName
    version: VersionNumber
    previous_version: VersionNumber | None
    revision: int | None
    outcome: str
    standby: tuple[VersionNumber, ...]
    duration_s: float


@dataclass(frozen=True, slots=True)
class Promote:
    """Moves a label of a model on one target to a version."""

    target: Target
    context: Context

    def __call__(self, request: PromoteRequest) -> Promotion:
        """Promotes and returns once clients are answered by the version, or raises with nothing changed for them.

        Raises:
            NotFoundError, UsageError: what was asked for does not exist or cannot be.
            LockedError, PreconditionError, ServerUnavailableError: nothing changed.
            RestoredError, DegradedError: see `Rollout`.

        Where the label is at the version already, what is recorded is sent to the server again and verified.
        """
        started = self.context.clock.monotonic()
        rollout = Rollout(self.target, self.context)
        model = request.reference.model
        self._resolve(request, rollout)  # words are checked before any lock is taken
        with rollout.locked(f"promote {request.reference}", settle=not request.dry_run):
            version = self._resolve(request, rollout)
            change = Change(
                model=model,
                version=version,
                label=request.label,
                kind=RevisionKind.PROMOTE,
                reason=request.reason,
                timeout_s=request.timeout_s,
                if_current=request.if_current,
            )
            rollout.check_current(change)
            current = rollout.current(model)
            before = current.desired if current else Desired()
            after = promoted(
                before, version, request.label, routing=self.target.routing, warm_standby=self.target.warm_standby
            )
            previous = before.labels.get(request.label)
            revision, outcome = current.number if current else None, "planned"
            if previous == version:
                outcome, after = "unchanged", before
                rollout.require_ready()
                if not request.dry_run:
                    rollout.put_back(model, before)
            elif not request.dry_run:
                revision, outcome = rollout(change, before, after).revision, "serving"
                self.context.observer.step("labels", f"{request.label} {previous or 'nothing'} -> {version}")
        return Promotion(
            model=model,
            target=self.target.name,
            label=request.label,
            version=version,
            previous_version=previous,
            revision=revision,
            outcome=outcome,
            standby=after.standby(self.target.routing),
            duration_s=self.context.clock.monotonic() - started,
        )

    def _resolve(self, request: PromoteRequest, rollout: Rollout) -> VersionNumber:
        current = rollout.current(request.reference.model)
        labels = current.desired.labels if current else {}
        return resolve(request.reference, self.target.repository, labels=labels, target=self.target.name)
