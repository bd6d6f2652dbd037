"""Promote: a label moves to a version, once that is safe for clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deployctl.domain.names import STABLE, LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.operation import OperationRequest
from deployctl.domain.reference import Reference
from deployctl.domain.revision import BREAK_GLASS, Desired, RevisionKind
from deployctl.domain.transition import promoted
from deployctl.errors import FrozenError
from deployctl.operations.admission import Admission, Judge, admit
from deployctl.operations.context import Context
from deployctl.operations.holds import check_not_frozen, check_not_quarantined, quarantine_of
from deployctl.operations.known_good import unusable_versions
from deployctl.operations.leased import leased
from deployctl.operations.resolve import resolve
from deployctl.operations.rollout import Change, Prover, Rollout, check_current
from deployctl.operations.target import Target


@dataclass(frozen=True, slots=True)
class PromoteRequest:
    """What to promote.

    Attributes:
        if_current: the revision number that must be current, 0 for none.
        break_glass: the ticket under which to pass what would refuse the promotion; "" passes nothing.
    """

    reference: Reference
    label: LabelName = STABLE
    reason: str = ""
    if_current: int | None = None
    timeout_s: float = 300.0
    dry_run: bool = False
    break_glass: str = ""


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
    """Moves a label of a model on one target to a version.

    Attributes:
        judge: asks the target's gates; None where it has none.
        prove: asks the version on the target, before clients are sent to it.
    """

    target: Target
    context: Context
    judge: Judge | None = None
    prove: Prover | None = None

    def __call__(self, request: PromoteRequest) -> Promotion:
        """Promotes and returns once clients are answered by the version, or raises with nothing changed for them.

        Raises:
            NotFoundError, UsageError: what was asked for does not exist or cannot be.
            DeniedError: whoever acts may not pass freezes and gates.
            FrozenError, QuarantinedError: it may not be promoted there now, or ever.
            GateRefusedError: a gate refused it.
            LockedError, PreconditionError, ServerUnavailableError: nothing changed.
            RestoredError, DegradedError: see `Rollout`.

        Where the label is at the version already, what is recorded is sent to the server again and verified.
        """
        started = self.context.clock.monotonic()
        model = request.reference.model
        if request.break_glass:
            self.context.permit("break-glass", target=self.target.name, model=model)
        # Words are checked and gates asked before any lock is taken.
        admission = self._admit(request)
        with leased(
            self.target, self.context, self._operation(request, admission.version), dry_run=request.dry_run
        ) as place:
            check_current(self.target, model, request.if_current)
            version = self._resolve(request)
            current = self.target.current(model)
            before = current.desired if current else Desired()
            previous = before.labels.get(request.label)
            change = Change(
                model=model,
                version=version,
                label=request.label,
                kind=RevisionKind.PROMOTE,
                reason=request.reason,
                timeout_s=request.timeout_s,
                evidence=self._permit(request, admission, before, version) if previous != version else {},
            )
            rollout = Rollout(place, self.prove)
            after = promoted(
                before,
                version,
                request.label,
                routing=self.target.routing,
                warm_standby=self.target.standby_of(model),
                unusable=unusable_versions(self.target, model, loaded=before.versions),
            )
            revision, outcome = current.number if current else None, "planned"
            if previous == version:
                outcome, after = "unchanged", before
                place.require_ready()
                if not request.dry_run:
                    place.put_back(model, before)
            elif not request.dry_run:
                rolled = rollout(change, before, after)
                revision, after, outcome = rolled.revision, rolled.desired, "serving"
                self.context.observer.step("labels", f"{request.label} {previous or 'nothing'} -> {version}")
            place.running.end(outcome)
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

    def _operation(self, request: PromoteRequest, version: VersionNumber) -> OperationRequest:
        model = request.reference.model
        # Not the revision that was expected: beginning again is after that one's end.
        repeat = {"version": version, "label": request.label, "reason": request.reason, "timeout_s": request.timeout_s}
        return OperationRequest("promote", f"{model}@{version}", self.target.name, model, repeat)

    def _admit(self, request: PromoteRequest) -> Admission:
        """Returns what holds and gates say of the version; one that serves already needs no admission."""
        model = request.reference.model
        version = self._resolve(request)
        current = self.target.current(model)
        before = current.desired if current else Desired()
        live = before.live(self.target.routing)
        if before.labels.get(request.label) == version:
            return Admission(version, live)
        check_current(self.target, model, request.if_current)
        self._check_holds(request, version)
        return admit(
            self.judge,
            self.context,
            self.target.name,
            model=model,
            version=version,
            live=live,
            ticket=request.break_glass,
        )

    def _permit(
        self, request: PromoteRequest, admission: Admission, before: Desired, version: VersionNumber
    ) -> dict[str, Any]:
        """Raises unless the version may be promoted now; returns evidence: verdicts, and what a ticket passed."""
        evidence = dict(admission.evidence)
        if self.judge is not None:
            live = before.live(self.target.routing)
            admission.check_current(self.target.name, request.reference.model, version, live)
        frozen = self._check_holds(request, version)
        if frozen:
            self.context.observer.warn(f"{frozen}; passed under {request.break_glass}")
            passed = [frozen, *evidence.get(BREAK_GLASS, {}).get("passed", ())]
            evidence[BREAK_GLASS] = {"ticket": request.break_glass, "passed": passed}
        return evidence

    def _check_holds(self, request: PromoteRequest, version: VersionNumber) -> str:
        """Raises where a quarantine or a freeze forbids it; returns the words of a freeze that a ticket passes."""
        model = request.reference.model
        found = quarantine_of(self.target.repository, self.target.lineage, model, version)
        check_not_quarantined(found, f"{model}@{version}")
        try:
            check_not_frozen(self.target.lineage, self.context, self.target.name, model)
        except FrozenError as frozen:
            if not request.break_glass:
                raise
            return str(frozen)
        return ""

    def _resolve(self, request: PromoteRequest) -> VersionNumber:
        current = self.target.current(request.reference.model)
        labels = current.desired.labels if current else {}
        return resolve(request.reference, self.target.repository, labels=labels, target=self.target.name)
