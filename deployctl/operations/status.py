"""Status: what each target serves now, beside what is recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from deployctl.domain.clock import Observer
from deployctl.domain.event import Actor
from deployctl.domain.hold import Freeze, Quarantine
from deployctl.domain.names import LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.operation import OperationRecord, OperationState
from deployctl.domain.revision import Desired, Revision
from deployctl.domain.serving import Endpoints, ServerCondition, VersionState, VersionStatus
from deployctl.domain.transition import rollback_version
from deployctl.errors import DeployctlError
from deployctl.operations.context import Context
from deployctl.operations.drift import file_drift, model_drift
from deployctl.operations.holds import quarantine_of, unreviewed
from deployctl.operations.known_good import History, known_good
from deployctl.operations.rollback import estimate
from deployctl.operations.rollout import RolloutClass
from deployctl.operations.target import Target

STATUS_TIMEOUT_S = 3.0
# So often it is looked again where somebody changed the target meanwhile.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class RollbackReadiness:
    """Where a rollback would go and how far that is."""

    version: VersionNumber
    rollout_class: RolloutClass
    estimate_s: float | None


@dataclass(frozen=True, slots=True)
class ModelOnTarget:
    """One model on one target.

    Attributes:
        versions: every version that the server has seen, descending; () when it does not answer.
        drift: differences between the record and the server, one sentence each.
        interrupted: whether an operation was cut off, so that the record is older than the server.
        running: the operation that is changing it now, None without one.
        unreviewed: changes made past a freeze or a gate that nobody has reviewed, newest first.
        changed: versions that serve and whose files are not what their manifests say, where that was looked at.
        quarantined: why versions that clients reach are not to be served; they go on until they are rolled back.
    """

    name: ModelName
    revision: int
    labels: Mapping[LabelName, VersionNumber]
    live: VersionNumber | None
    standby: tuple[VersionNumber, ...]
    versions: tuple[VersionStatus, ...]
    since: datetime
    actor: Actor
    reason: str
    rollback: RollbackReadiness | None
    drift: tuple[str, ...]
    interrupted: bool
    running: OperationRecord | None
    unreviewed: tuple[Revision, ...]
    changed: tuple[VersionNumber, ...] = ()
    quarantined: Mapping[VersionNumber, Quarantine] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TargetStatus:
    """One target.

    Attributes:
        freezes: those in force.
        operations: those that are changing it now.
        drift: how the file that the server starts from differs from the record, one sentence each; () while an
            operation is changing it.
        error: why its models' states could not be asked for.
    """

    name: TargetName
    runtime: str
    state: ServerCondition
    endpoints: Endpoints
    detail: Mapping[str, str]
    models: tuple[ModelOnTarget, ...]
    freezes: tuple[Freeze, ...] = ()
    operations: tuple[OperationRecord, ...] = ()
    drift: tuple[str, ...] = ()
    error: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the server answers and serves what is recorded; one that has nothing to serve may be stopped.

        What an operation is changing now is not held against it.
        """
        settled = all(model.running or not (model.drift or model.interrupted) for model in self.models)
        idle = not self.models and self.state is ServerCondition.STOPPED
        return (idle or self.state is ServerCondition.READY) and not (self.error or self.drift) and settled


@dataclass(frozen=True, slots=True)
class Status:
    """All targets that were asked for, in the order of the settings."""

    targets: tuple[TargetStatus, ...] = field(default=())

    @property
    def healthy(self) -> bool:
        """Whether every target is."""
        return all(target.healthy for target in self.targets)


def target_status(
    target: Target, context: Context, *, model: ModelName | None = None, verify: bool = False
) -> TargetStatus:
    """Returns what `target` serves, of one model if it is given; a server that is down is a state, not an error.

    What it tells of drift is what a reconciliation would put right. With `verify` the files of every version that
    should be loaded are compared with their manifests.
    """
    for _ in range(_LOOKS):
        before = _recorded(target)
        found = _look(target, context, model=model, verify=verify)
        # What was changed between the look at the record and that at the server differs, and is no drift.
        if found.healthy or _recorded(target) == before:
            break
    return found


def _recorded(target: Target) -> tuple[set[str], dict[ModelName, int]]:
    """Returns who holds leases, and each model's revision: what differs when something was changed in between."""
    leases = {lease.operation for lease in target.lock.leases()}
    return leases, {model: revision.number for model, revision in target.recorded().items()}


def _look(target: Target, context: Context, *, model: ModelName | None, verify: bool) -> TargetStatus:
    # Asked before the record: an operation that ends in between is seen as done, not as cut off.
    running, now = _running(target, context), context.clock.now()
    state = target.runtime.state(timeout_s=STATUS_TIMEOUT_S)
    pending = {revision.model for revision in target.lineage.pending(target.name)}
    models, error = [], ""
    for revision in target.lineage.current(target.name):
        if model is not None and revision.model != model:
            continue
        statuses: tuple[VersionStatus, ...] = ()
        drift: tuple[str, ...] = ()
        if state.condition is ServerCondition.READY:
            try:
                statuses = target.runtime.statuses(revision.model, timeout_s=STATUS_TIMEOUT_S)
                drift = _drift(target, revision, statuses)
            except DeployctlError as failure:
                error = str(failure)
        operation = running.get(revision.model, running.get(None))
        interrupted = revision.model in pending and operation is None
        served = _on_target(target, revision, statuses, drift, interrupted=interrupted, running=operation, now=now)
        models.append(_with_changed_files(target, revision, served) if verify else served)
    return TargetStatus(
        name=target.name,
        runtime=target.runtime_name,
        state=state.condition,
        endpoints=state.endpoints,
        detail=state.detail,
        models=tuple(models),
        freezes=tuple(each for each in target.lineage.freezes(target.name) if each.in_force(now)),
        operations=tuple(running.values()),
        drift=tuple(file_drift(target)) if state.condition is ServerCondition.READY and not running else (),
        error=error,
    )


def _running(target: Target, context: Context) -> dict[ModelName | None, OperationRecord]:
    """Returns the operations that hold a lease now, by model; None for the whole target."""
    holders = {lease.operation for lease in target.lock.leases()}
    found = [record for record in context.journal.operations() if record.state is OperationState.RUNNING]
    return {each.request.model: each for each in found if each.id in holders and each.request.target == target.name}


def _on_target(
    target: Target,
    revision: Revision,
    statuses: tuple[VersionStatus, ...],
    drift: tuple[str, ...],
    *,
    interrupted: bool,
    running: OperationRecord | None,
    now: datetime,
) -> ModelOnTarget:
    desired = revision.desired
    available = {status.version for status in statuses if status.state is VersionState.AVAILABLE}
    return ModelOnTarget(
        name=revision.model,
        revision=revision.number,
        labels=desired.labels,
        live=desired.live(target.routing),
        standby=desired.standby(target.routing),
        versions=statuses,
        since=revision.settled_at or revision.recorded_at,
        actor=revision.actor,
        reason=revision.reason,
        rollback=_readiness(target, revision.model, available, now),
        drift=drift,
        interrupted=interrupted,
        running=running,
        unreviewed=unreviewed(target.lineage, target.name, revision.model),
        quarantined=_quarantined(target, revision.model, desired),
    )


def _quarantined(target: Target, model: ModelName, desired: Desired) -> dict[VersionNumber, Quarantine]:
    live = desired.live(target.routing)
    found = {}
    for version in sorted({*desired.labels.values(), *(() if live is None else (live,))}):
        quarantine = quarantine_of(target.repository, target.lineage, model, version)
        if quarantine is not None:
            found[version] = quarantine
    return found


def _drift(target: Target, revision: Revision, statuses: tuple[VersionStatus, ...]) -> tuple[str, ...]:
    """Returns how a model on a server that answers differs from the record, what is only lost on disk included."""
    model, desired = revision.model, revision.desired
    gone = [
        f"@{each.version} is served, but its files are not on this machine"
        for each in statuses
        if each.state is VersionState.AVAILABLE
        and each.version in desired.versions
        and not target.repository.is_local(model, each.version)
    ]
    return (*model_drift(target, model, desired, statuses, timeout_s=STATUS_TIMEOUT_S), *gone)


def _with_changed_files(target: Target, revision: Revision, served: ModelOnTarget) -> ModelOnTarget:
    """Adds a sentence for each version whose files are not what its manifest says; adopted ones have none."""
    words: dict[VersionNumber, str] = {}
    for version in revision.desired.versions:
        manifest = target.repository.manifest(revision.model, version)
        problems = target.repository.verify(manifest, Observer()) if manifest is not None else ()
        for each in problems[:1]:
            words[version] = f"@{version} does not match its manifest: {each.path} is {each.problem}"
    return replace(served, drift=(*served.drift, *words.values()), changed=tuple(words))


def _readiness(
    target: Target, model: ModelName, available: set[VersionNumber], now: datetime
) -> RollbackReadiness | None:
    history = History(target, model)
    goal = known_good(history, now).revision
    version = rollback_version(goal.desired, target.routing) if goal else None
    if version is None:
        return None
    here = RolloutClass.WARM if target.repository.is_local(model, version) else RolloutClass.COLD
    rollout_class = RolloutClass.HOT if version in available else here
    return RollbackReadiness(version, rollout_class, estimate(history.newest(), rollout_class))
