"""Rollback: return to what served before, as a new revision."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from deployctl.domain.duration import format_duration
from deployctl.domain.names import CANARY, STABLE, ModelName, TargetName, VersionNumber
from deployctl.domain.operation import OperationRequest
from deployctl.domain.revision import Revision, RevisionKind, RevisionState
from deployctl.domain.transition import last_known_good, restored, rollback_version
from deployctl.errors import DependencyError, ModelNotFoundError, RevisionNotFoundError, VersionNotFoundError
from deployctl.operations.context import Context
from deployctl.operations.holds import check_not_quarantined, quarantine_of
from deployctl.operations.leased import leased
from deployctl.operations.rollout import Change, Rollout, RolloutClass, check_current
from deployctl.operations.target import Target

# Further back than anyone returns without naming the revision.
_LOOK_BACK = 1000


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Where to go back to: a revision by number, a revision that served `version`, or the last known good."""

    model: ModelName
    to_revision: int | None = None
    to_version: VersionNumber | None = None
    reason: str = ""
    if_current: int | None = None
    timeout_s: float = 300.0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A rollback's outcome.

    Attributes:
        restores: the number of the revision that it returned to.
        outcome: "serving"; "unchanged" where all labels and versions are so already; "planned" in a dry run.
        revision: the current revision afterwards.
        rollout_class: how far the bytes were from serving when it started.
        estimate_s: seconds predicted from this target's history, None without any.
        undone_canary: the version that was `canary` before and no longer is, None without one.
    """

    model: ModelName
    target: TargetName
    version: VersionNumber
    previous_version: VersionNumber | None
    revision: int | None
    restores: int
    outcome: str
    rollout_class: RolloutClass
    estimate_s: float | None
    undone_canary: VersionNumber | None
    duration_s: float


@dataclass(frozen=True, slots=True)
class Rollback:
    """Returns a model on one target to an earlier revision."""

    target: Target
    context: Context

    def __call__(self, request: RollbackRequest) -> RolledBack:
        """Rolls back and returns once clients are answered by the earlier version.

        Raises:
            RevisionNotFoundError: nothing to go back to.
            QuarantinedError, VersionNotFoundError: it cannot be gone back to; nothing changed.
            LockedError, PreconditionError, ServerUnavailableError: nothing changed.
            RestoredError, DegradedError: see `Rollout`.
        """
        started = self.context.clock.monotonic()
        target = self.target
        with leased(target, self.context, self._operation(request), dry_run=request.dry_run) as place:
            served = self._served(request.model)
            check_current(target, request.model, request.if_current)
            goal, version = self._goal(request, served)
            before = served[0].desired
            after = restored(before, goal.desired, routing=target.routing, warm_standby=target.warm_standby)
            change = Change(
                model=request.model,
                version=version,
                label=STABLE,
                kind=RevisionKind.ROLLBACK,
                reason=request.reason,
                timeout_s=request.timeout_s,
                restores=goal.number,
            )
            rollout = Rollout(place)
            rollout_class = rollout.classify(request.model, version)
            estimate_s = estimate(served, rollout_class)
            previous = before.live(target.routing)
            revision, outcome = None, "planned"
            if after == before:
                revision, outcome = served[0].number, "unchanged"
                if not request.dry_run:
                    place.require_ready()
                    place.put_back(request.model, after)
            else:
                self._announce(change, previous, rollout_class, estimate_s)
            if outcome == "planned" and not request.dry_run:
                revision, outcome = rollout(change, before, after).revision, "serving"
            place.running.end(outcome)
        return RolledBack(
            model=request.model,
            target=target.name,
            version=version,
            previous_version=previous,
            revision=revision,
            restores=goal.number,
            outcome=outcome,
            rollout_class=rollout_class,
            estimate_s=estimate_s,
            undone_canary=before.labels.get(CANARY) if CANARY not in after.labels else None,
            duration_s=self.context.clock.monotonic() - started,
        )

    def _operation(self, request: RollbackRequest) -> OperationRequest:
        subject = f"{request.model}@{request.to_version}" if request.to_version is not None else request.model
        repeat = {
            "to_revision": request.to_revision,
            "to_version": request.to_version,
            "reason": request.reason,
            "timeout_s": request.timeout_s,
        }
        return OperationRequest("rollback", subject, self.target.name, request.model, repeat)

    def _served(self, model: ModelName) -> list[Revision]:
        revisions = self.target.lineage.revisions(self.target.name, model, limit=_LOOK_BACK)
        served = [revision for revision in revisions if revision.state is RevisionState.SERVING]
        if not served and not self.target.repository.versions(model):
            raise ModelNotFoundError(model)
        if not served:
            raise RevisionNotFoundError(
                f"{model} has never served on {self.target.name}", hint=f"deployctl promote {model}@latest"
            )
        return served

    def _goal(self, request: RollbackRequest, served: list[Revision]) -> tuple[Revision, VersionNumber]:
        """Returns the revision to return to and the version that it makes live."""
        goal, wanted = self._wanted(request, served)
        version = rollback_version(goal.desired, self.target.routing) if goal else None
        where = f"{request.model} on {self.target.name}"
        if goal is None or version is None:
            raise RevisionNotFoundError(
                f"{where} has no {wanted}", hint=f"deployctl history {request.model} --target {self.target.name}"
            )
        repository = self.target.repository
        quarantine = quarantine_of(repository, self.target.lineage, request.model, version)
        check_not_quarantined(quarantine, f"{request.model}@{version}")
        # What is on this machine needs no store, which may be what is down.
        if not repository.is_local(request.model, version) and version not in repository.versions(request.model):
            raise VersionNotFoundError(request.model, version)
        return goal, version

    def _wanted(self, request: RollbackRequest, served: list[Revision]) -> tuple[Revision | None, str]:
        """Returns the revision that is asked for, if there is one, and the words for it."""
        if request.to_revision is not None:
            goal = next((each for each in served if each.number == request.to_revision), None)
            return goal, f"revision {request.to_revision} that served"
        if request.to_version is not None:
            routing = self.target.routing
            goal = next((e for e in served if rollback_version(e.desired, routing) == request.to_version), None)
            return goal, f"revision that served @{request.to_version}"

        def refused(version: VersionNumber) -> bool:
            reason = obstacle(self.target, request.model, version)
            if reason is not None:
                self.context.observer.step("skipped", f"@{version}: {reason}")
            return reason is not None

        goal = last_known_good(served, self.target.routing, refused)
        return goal, "earlier revision that served another version"

    def _announce(
        self, change: Change, previous: VersionNumber | None, rollout_class: RolloutClass, estimate_s: float | None
    ) -> None:
        was = "nothing" if previous is None else f"@{previous}"
        about = f", about {format_duration(estimate_s)}" if estimate_s is not None else ""
        self.context.observer.step(
            f"{change.model} on {self.target.name}:",
            f"{was} -> @{change.version}, revision {change.restores}, {rollout_class.value}{about}",
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


def estimate(served: list[Revision], rollout_class: RolloutClass) -> float | None:
    """Returns the median seconds that this target's recorded changes of the same class took, None without any."""
    seconds = sorted(
        float(revision.evidence["load_s"]) + float(revision.evidence["switch_s"])
        for revision in served
        if revision.evidence.get("class") == rollout_class.value and "switch_s" in revision.evidence
    )
    return seconds[len(seconds) // 2] if seconds else None
