"""Rollback: return to what served before, as a new revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from deployctl.domain.duration import format_duration
from deployctl.domain.names import CANARY, STABLE, LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.operation import OperationRequest
from deployctl.domain.revision import Desired, Revision, RevisionKind, Routing
from deployctl.domain.serving import ServerCondition
from deployctl.domain.transition import LabelChange, label_changes, relabelled, restored, rollback_version
from deployctl.errors import ModelNotFoundError, RevisionNotFoundError, VersionNotFoundError
from deployctl.operations.context import Context
from deployctl.operations.holds import check_not_quarantined, quarantine_of
from deployctl.operations.known_good import History, known_good, unusable_versions
from deployctl.operations.leased import LeasedTarget, leased
from deployctl.operations.rollout import Change, Rollout, RolloutClass, check_current
from deployctl.operations.target import Target


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """Where to go back to: a revision by number, a revision that served `version`, or the last known good.

    Attributes:
        label: the only label to go back, to where the revision before the current one has it; None for all.
    """

    model: ModelName
    to_revision: int | None = None
    to_version: VersionNumber | None = None
    reason: str = ""
    if_current: int | None = None
    timeout_s: float = 300.0
    dry_run: bool = False
    label: LabelName | None = None


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A rollback's outcome.

    Attributes:
        restores: the number of the revision that it returned to.
        outcome: "serving"; "unchanged" where all labels and versions are so already; "recorded" where the server is
            down, and serves it once it is up; "planned" in a dry run.
        revision: the current revision afterwards.
        rollout_class: how far the bytes were from serving when it started.
        estimate_s: seconds predicted from this target's history, None without any.
        undone_canary: the version that was `canary` before and no longer is, None without one.
        labels: what becomes of every other label than `stable` that moves, goes, or cannot be restored.
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
    labels: tuple[LabelChange, ...] = ()


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
            LockedError, PreconditionError: nothing changed.
            RestoredError, DegradedError: see `Rollout`.
        """
        started = self.context.clock.monotonic()
        with leased(self.target, self.context, self._operation(request), dry_run=request.dry_run) as place:
            plan = self._plan(request, place)
            revision, outcome = self._carry_out(plan, place, dry_run=request.dry_run)
            place.running.end(outcome)
        before, after = plan.before, plan.after
        return RolledBack(
            model=request.model,
            target=self.target.name,
            version=plan.change.version,
            previous_version=before.live(self.target.routing),
            revision=revision,
            restores=plan.goal.number,
            outcome=outcome,
            rollout_class=plan.rollout_class,
            estimate_s=plan.estimate_s,
            undone_canary=before.labels.get(CANARY) if CANARY not in after.labels else None,
            duration_s=self.context.clock.monotonic() - started,
            labels=plan.labels,
        )

    def _plan(self, request: RollbackRequest, place: LeasedTarget) -> _Plan:
        target, model = self.target, request.model
        history = History(target, model)
        served = self._served(history)
        check_current(target, model, request.if_current)
        goal, version = self._goal(request, history)
        before = served[0].desired
        after, labels = self._restored(request, before, goal, version)
        change = Change(
            model=model,
            version=version,
            label=STABLE,
            kind=RevisionKind.ROLLBACK,
            reason=request.reason,
            timeout_s=request.timeout_s,
            restores=goal.number,
        )
        condition = place.condition()
        down = condition is not ServerCondition.READY
        if condition is ServerCondition.UNREACHABLE:
            self.context.observer.warn(
                f"the server of {target.name} does not answer; if it runs all the same, it goes on with "
                f"@{before.live(target.routing)} until `deployctl up {target.name}`"
            )
        if down:
            here = target.repository.is_local(model, version)
            rollout_class = RolloutClass.WARM if here else RolloutClass.COLD
        else:
            rollout_class = Rollout(place).classify(model, version)
        estimate_s = estimate(served, rollout_class)
        return _Plan(change, served[0], goal, before, after, labels, rollout_class, estimate_s, down)

    def _restored(
        self, request: RollbackRequest, before: Desired, goal: Revision, version: VersionNumber
    ) -> tuple[Desired, tuple[LabelChange, ...]]:
        """Returns what is to be served, and what becomes of labels; what may not or cannot be served is left out."""
        target, model = self.target, request.model
        unusable = unusable_versions(target, model, loaded=before.versions, labelled=goal.desired.labels.values())
        how = _Ways(routing=target.routing, warm_standby=target.standby_of(model), unusable=unusable)
        if request.label is not None:
            label, wanted = request.label, goal.desired.labels.get(request.label)
            after = relabelled(before, label, wanted, **how)
            return after, label_changes(before, {} if wanted is None else {label: wanted}, after, unusable)
        named = request.to_revision is not None or request.to_version is not None
        if not named and version == rollback_version(before, target.routing):
            after = relabelled(before, CANARY, None, **how)
            return after, label_changes(before, {}, after, unusable)
        after = restored(before, goal.desired, **how)
        return after, label_changes(before, goal.desired.labels, after, unusable)

    def _carry_out(self, plan: _Plan, place: LeasedTarget, *, dry_run: bool) -> tuple[int | None, str]:
        """Returns the current revision afterwards, and the outcome."""
        for each in plan.labels:
            if each.reason:
                self.context.observer.warn(f"label {each}, since {plan.change.model}{each.reason}")
        if plan.after == plan.before:
            if not (dry_run or plan.down):
                place.put_back(plan.change.model, plan.after)
            return plan.current.number, "unchanged"
        self._announce(plan)
        if dry_run:
            return None, "planned"
        if plan.down:
            return Rollout(place).record(plan.change, plan.before, plan.after), "recorded"
        return Rollout(place)(plan.change, plan.before, plan.after).revision, "serving"

    def _operation(self, request: RollbackRequest) -> OperationRequest:
        subject = f"{request.model}@{request.to_version}" if request.to_version is not None else request.model
        repeat = {
            "to_revision": request.to_revision,
            "to_version": request.to_version,
            "reason": request.reason,
            "timeout_s": request.timeout_s,
        }
        # What one label was before is not known any more when others have acted since.
        return OperationRequest(
            "rollback", subject, self.target.name, request.model, {} if request.label is not None else repeat
        )

    def _served(self, history: History) -> list[Revision]:
        served, model = history.newest(), history.model
        if not served and not self.target.repository.versions(model):
            raise ModelNotFoundError(model)
        if not served:
            raise RevisionNotFoundError(
                f"{model} has never served on {self.target.name}", hint=f"deployctl promote {model}@latest"
            )
        return served

    def _goal(self, request: RollbackRequest, history: History) -> tuple[Revision, VersionNumber]:
        """Returns the revision to return to and the version that it makes live."""
        goal, wanted = self._wanted(request, history)
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

    def _wanted(self, request: RollbackRequest, history: History) -> tuple[Revision | None, str]:
        """Returns the revision that is asked for, if there is one, and the words for it."""
        if request.to_revision is not None:
            goal = history.find(lambda each: each.number == request.to_revision)
            return goal, f"revision {request.to_revision} that served"
        if request.to_version is not None:
            routing = self.target.routing
            goal = history.find(lambda each: rollback_version(each.desired, routing) == request.to_version)
            return goal, f"revision that served @{request.to_version}"

        if request.label is not None:
            current = history.newest()[0]
            goal = history.find(lambda each: each.number < current.number)
            return goal, f"revision before {current.number}"

        return self._last_known_good(history), "earlier revision that served another version"

    def _last_known_good(self, history: History) -> Revision | None:
        found = known_good(history, self.context.clock.now())
        for version, reason in found.skipped.items():
            self.context.observer.step("skipped", f"@{version}: {reason}")
        if found.revision is not None and not found.proven and self.target.soak_s:
            soak = format_duration(self.target.soak_s)
            self.context.observer.warn(
                f"no earlier revision of {history.model} served for {soak}; returning to revision "
                f"{found.revision.number}"
            )
        return found.revision

    def _announce(self, plan: _Plan) -> None:
        change, previous = plan.change, plan.before.live(self.target.routing)
        was = "nothing" if previous is None else f"@{previous}"
        about = f", about {format_duration(plan.estimate_s)}" if plan.estimate_s is not None else ""
        labels = map(str, plan.labels)
        self.context.observer.step(
            f"{change.model} on {self.target.name}:",
            ", ".join(
                (f"{was} -> @{change.version}, revision {change.restores}, {plan.rollout_class.value}{about}", *labels)
            ),
        )


class _Ways(TypedDict):
    routing: Routing
    warm_standby: int
    unusable: Mapping[VersionNumber, str]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a rollback is going to do; `down` where the server is."""

    change: Change
    current: Revision
    goal: Revision
    before: Desired
    after: Desired
    labels: tuple[LabelChange, ...]
    rollout_class: RolloutClass
    estimate_s: float | None
    down: bool


def estimate(served: list[Revision], rollout_class: RolloutClass) -> float | None:
    """Returns the median seconds that this target's recorded changes of the same class took, None without any."""
    seconds = sorted(
        float(revision.evidence["load_s"]) + float(revision.evidence["switch_s"])
        for revision in served
        if revision.evidence.get("class") == rollout_class.value and "switch_s" in revision.evidence
    )
    return seconds[len(seconds) // 2] if seconds else None
