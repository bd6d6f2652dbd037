"""The one way in which what a target serves changes: new beside old, labels moved, old let go last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deployctl.domain.duration import format_duration
from deployctl.domain.event import EventKind
from deployctl.domain.names import STABLE, LabelName, ModelName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, Routing
from deployctl.domain.serving import ServerCondition, ServingConfig, VersionState, VersionStatus
from deployctl.domain.transition import together
from deployctl.errors import (
    DatabaseError,
    DegradedError,
    DeployctlError,
    InvalidRequestError,
    NotFoundError,
    PreconditionError,
    ReloadStuckError,
    RestoredError,
    ServerError,
    ServerRefusedError,
    ServerUnavailableError,
    VersionNotFoundError,
)
from deployctl.operations.context import Context, Deadline
from deployctl.operations.target import Target
from deployctl.serving.interface import ServedSpec

# What a call to a healthy server may take; how long a load may take is the request's own timeout.
CALL_TIMEOUT_S = 10.0
RESTORE_TIMEOUT_S = 60.0


class RolloutClass(StrEnum):
    """How far the bytes are from serving: loaded already, on local disk, or to be fetched."""

    HOT = "hot"
    WARM = "warm"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to change.

    Attributes:
        version: the one that must serve afterwards.
        label: the one that must point to it.
        if_current: the revision number that must be current (0 for none), or None for any.
        restores: for a rollback, the revision that it returns to.
        evidence: JSON values to be recorded with it.
    """

    model: ModelName
    version: VersionNumber
    label: LabelName
    kind: RevisionKind
    reason: str
    timeout_s: float
    if_current: int | None = None
    restores: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rolled:
    """A change that serves, with the evidence for it.

    Attributes:
        previous: what was desired before.
        evidence: JSON values, as recorded.
    """

    revision: int
    desired: Desired
    previous: Desired
    rollout_class: RolloutClass
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rollout:
    """Takes a target from one desired state of a model to the next, or leaves it as it was."""

    target: Target
    context: Context

    @contextmanager
    def locked(self, purpose: str, *, settle: bool = True) -> Iterator[None]:
        """Keeps other operations away from the target, after making good one that was interrupted.

        Without `settle`, for who only looks, what was interrupted is left as it is.
        """
        with self.target.lock.hold(purpose=purpose, timeout_s=self.target.lock_timeout_s):
            if settle:
                self.settle_interrupted()
            yield

    def current(self, model: ModelName) -> Revision | None:
        """Returns the newest revision of `model` that served."""
        return self.target.recorded().get(model)

    def check_current(self, change: Change) -> None:
        """Raises PreconditionError unless the current revision is the one that the caller expects."""
        if change.if_current is None:
            return
        current = self.current(change.model)
        found = current.number if current else 0
        if found != change.if_current:
            raise PreconditionError(
                f"{change.model} on {self.target.name} is at revision {found}, not {change.if_current}",
                hint=f"deployctl history {change.model} --target {self.target.name}",
            )

    def classify(self, model: ModelName, version: VersionNumber) -> RolloutClass:
        """Returns whether the server has the version loaded now, and if not, whether its bytes are here."""
        if version in self._available(model):
            return RolloutClass.HOT
        return RolloutClass.WARM if self.target.repository.is_local(model, version) else RolloutClass.COLD

    def __call__(self, change: Change, before: Desired, after: Desired) -> Rolled:
        """Makes `after` serve instead of `before`; must run inside `locked`.

        Raises:
            ServerUnavailableError: the server does not answer; nothing changed.
            StorageError: a directory of a version that the target serves is gone, or a version could not be fetched;
                nothing changed.
            RestoredError: it failed, or was interrupted, and `before` serves again.
            DegradedError: it failed, and `before` could not be verified to serve.
        """
        self.require_ready()
        rollout_class = self.classify(change.model, change.version)
        self.fetch(change.model, together(before, after))
        before, after = self._servable(change.model, before), self._servable(change.model, after)
        self._config(change.model, together(before, after))
        number = self._record_pending(change, before, after)
        evidence: dict[str, Any] = {"class": rollout_class.value, **change.evidence}
        try:
            self._verify_bytes(change, rollout_class)
            self._load(change, before, after, evidence)
            self._switch(change, after, evidence)
            self._record(EventKind.REVISION_SERVING, change, number, evidence)
        except DeployctlError as error:
            raise self._restored(change, before, number, error) from error
        except BaseException as error:
            if self._serves(change.model, number):
                raise
            restored = self._restored(change, before, number, DeployctlError("interrupted"))
            if isinstance(error, KeyboardInterrupt):
                raise restored from error
            raise
        return Rolled(number, after, before, rollout_class, evidence)

    def _serves(self, model: ModelName, number: int) -> bool:
        current = self.current(model)
        return current is not None and current.number == number

    def require_ready(self) -> None:
        """Raises ServerUnavailableError unless the target's server answers."""
        state = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S)
        if state.condition is not ServerCondition.READY:
            raise ServerUnavailableError(
                f"the server of {self.target.name} is {state.condition.value}", hint=f"deployctl up {self.target.name}"
            )

    def fetch(self, model: ModelName, desired: Desired) -> None:
        """Brings to this machine what is not here yet, before anything is recorded or changed."""
        repository = self.target.repository
        for version in desired.versions:
            if not repository.is_local(model, version):
                # What is nowhere is missed by name when the configuration is made.
                with suppress(VersionNotFoundError):
                    repository.ensure_local(model, version, self.context.observer)

    def _verify_bytes(self, change: Change, rollout_class: RolloutClass) -> None:
        # What is loaded already was verified when it was loaded, and an incident does not wait for hashing.
        if rollout_class is RolloutClass.HOT:
            return
        self.target.repository.ensure_local(change.model, change.version, self.context.observer, rehash=True)

    def _load(self, change: Change, before: Desired, after: Desired, evidence: dict[str, Any]) -> None:
        started = self.context.clock.monotonic()
        deadline = self.context.deadline(change.timeout_s)
        self._apply(change.model, together(before, after), deadline)
        self._await_loaded(change.model, after, deadline)
        evidence["load_s"] = self.context.clock.monotonic() - started
        beside = ", ".join(f"@{version}" for version in before.versions if version != change.version)
        words = f"@{change.version} AVAILABLE{' beside ' + beside if beside else ''}"
        self.context.observer.step("load", f"{words} after {format_duration(evidence['load_s'])}")
        self._probe(change, ServedSpec(change.model, version=change.version), "version")

    def _switch(self, change: Change, after: Desired, evidence: dict[str, Any]) -> None:
        started = self.context.clock.monotonic()
        deadline = self.context.deadline(CALL_TIMEOUT_S)
        self._apply(change.model, after, deadline)
        self._probe(change, ServedSpec(change.model, label=change.label), "label")
        if change.label == STABLE and self.target.routing is Routing.LATEST:
            self._await_traffic(change, deadline)
        evidence["switch_s"] = self.context.clock.monotonic() - started
        evidence["available"] = sorted(self._available(change.model))

    def _probe(self, change: Change, spec: ServedSpec, by: str) -> None:
        answering, signatures = self.target.runtime.answering_version(spec, timeout_s=CALL_TIMEOUT_S)
        if answering != change.version:
            raise ServerError(f"a call by {by} to {change.model} is answered by @{answering}, not @{change.version}")
        manifest = self.target.repository.manifest(change.model, change.version)
        absent = set(manifest.signatures) - set(signatures) if manifest else set()
        if absent:
            raise ServerError(f"{change.model}@{change.version} serves without its signature {min(absent)!r}")

    def _await_traffic(self, change: Change, deadline: Deadline) -> None:
        """Clients that name no version follow the highest loaded one, so a higher one must be gone first."""

        def switched() -> bool | None:
            answering, _ = self.target.runtime.answering_version(ServedSpec(change.model), timeout_s=CALL_TIMEOUT_S)
            return True if answering == change.version else None

        if not deadline.poll(switched):
            raise ServerError(f"calls to {change.model} that name no version are not answered by @{change.version}")

    def _apply(self, model: ModelName, desired: Desired, deadline: Deadline) -> None:
        config = self._config(model, desired)
        self.target.runtime.apply(config, timeout_s=max(deadline.left_s(), 0.1))

    def _config(self, model: ModelName, desired: Desired) -> ServingConfig:
        states = {name: revision.desired for name, revision in self.target.recorded().items()}
        states[model] = desired
        return self.target.config(states)

    def _servable(self, model: ModelName, desired: Desired) -> Desired:
        found = self.target.servable(model, desired)
        for version in desired.versions:
            if version not in found.versions:
                self.context.observer.warn(f"{model}@{version} does not stand by: its directory is gone")
        return found

    def _await_loaded(self, model: ModelName, desired: Desired, deadline: Deadline) -> None:
        """Raises ServerError where a version that clients reach does not load; a standby's failure is only told."""
        standby = desired.standby(self.target.routing)
        for version in desired.without(standby).versions:
            self._await_available(model, version, deadline)
        for version in standby:
            try:
                self._await_available(model, version, deadline)
            except ServerError as error:
                self.context.observer.warn(f"no standby: {error}")

    def _await_available(self, model: ModelName, version: VersionNumber, deadline: Deadline) -> None:
        def settled() -> VersionStatus | None:
            status = self._status(model, version)
            return status if status and (status.failed or status.state is VersionState.AVAILABLE) else None

        status = deadline.poll(settled)
        if status is None:
            seen = self._status(model, version)
            state = seen.state.name if seen else "not seen"
            raise ServerError(f"{model}@{version} was still {state} when the time for loading was over")
        if status.failed:
            raise ServerError(f"{model}@{version} cannot be loaded: {status.error}")

    def _status(self, model: ModelName, version: VersionNumber) -> VersionStatus | None:
        statuses = self.target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S)
        return next((status for status in statuses if status.version == version), None)

    def _available(self, model: ModelName) -> set[VersionNumber]:
        statuses = self.target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S)
        return {status.version for status in statuses if status.state is VersionState.AVAILABLE}

    def _restored(self, change: Change, before: Desired, number: int, cause: DeployctlError) -> DeployctlError:
        """Serves `before` again and returns what the failed change ends with."""
        target = self.target.name
        try:
            self.put_back(change.model, before)
        except DeployctlError as error:
            self._record_failed(change, number, {"error": str(cause), "restore": str(error)})
            return DegradedError(
                f"{cause}; and the previous state of {change.model} on {target} could not be restored: {error}",
                hint=error.hint if isinstance(error, ReloadStuckError) else f"deployctl status {target}",
            )
        self._record_failed(change, number, {"error": str(cause), "restored": True})
        live = before.live(self.target.routing)
        state = f"{change.model} is not served, as before" if live is None else f"@{live} was restored and verified"
        return RestoredError(f"{cause}; {state}", hint=cause.hint or f"deployctl logs {target} --since 1m")

    def _record_failed(self, change: Change, number: int, evidence: dict[str, Any]) -> None:
        try:
            self._record(EventKind.REVISION_FAILED, change, number, evidence)
        except DatabaseError as error:
            # It stays pending, and the next operation on the target settles it.
            self.context.observer.warn(f"revision {number} of {change.model} could not be recorded as failed: {error}")

    def put_back(self, model: ModelName, desired: Desired) -> None:
        """Applies a recorded state of `model` and returns once the server answers accordingly."""
        desired = self._servable(model, desired)
        deadline = self.context.deadline(RESTORE_TIMEOUT_S)
        try:
            self._apply(model, desired, deadline)
        except ServerRefusedError as error:
            if error.code != "FAILED_PRECONDITION":
                raise
            # A label was moved, and the version that it must return to has been let go since: load that one first.
            self._apply(model, together(self._observed(model, desired), desired), deadline)
            self._await_loaded(model, desired, deadline)
            self._apply(model, desired, deadline)
        self._await_state(model, desired, deadline)

    def put_all_back(self) -> None:
        """Applies the recorded state of every model and returns once the server answers accordingly."""
        recorded = {
            model: self._servable(model, revision.desired) for model, revision in self.target.recorded().items()
        }
        deadline = self.context.deadline(RESTORE_TIMEOUT_S)
        try:
            self.target.runtime.apply(self.target.config(recorded), timeout_s=RESTORE_TIMEOUT_S)
        except ServerRefusedError:
            for model, desired in recorded.items():
                self.put_back(model, desired)
        for model, desired in recorded.items():
            self._await_state(model, desired, deadline)

    def _observed(self, model: ModelName, desired: Desired) -> Desired:
        """Returns what the server has of `model` now, of the labels only those of `desired`."""
        labels = {}
        for label in desired.labels:
            # A label that the server does not know, or whose version is gone, answers nothing.
            with suppress(NotFoundError, InvalidRequestError, ServerRefusedError):
                labels[label], _ = self.target.runtime.answering_version(
                    ServedSpec(model, label=label), timeout_s=CALL_TIMEOUT_S
                )
        return Desired(tuple(sorted(self._available(model))), labels)

    def _await_state(self, model: ModelName, desired: Desired, deadline: Deadline) -> None:
        self._await_loaded(model, desired, deadline)
        for label, version in desired.labels.items():
            answering, _ = self.target.runtime.answering_version(
                ServedSpec(model, label=label), timeout_s=CALL_TIMEOUT_S
            )
            if answering != version:
                raise ServerError(f"label {label} of {model} is answered by @{answering}, not @{version}")

    def settle_interrupted(self) -> None:
        """Undoes what a killed operation left: we hold the lock, so nobody is working on a pending revision."""
        for revision in self.target.lineage.pending(self.target.name):
            current = self.current(revision.model)
            desired = current.desired if current else Desired()
            self.context.observer.warn(
                f"revision {revision.number} of {revision.model} by {revision.actor} was interrupted; "
                f"restoring what served before it"
            )
            if self.target.runtime.state(timeout_s=CALL_TIMEOUT_S).condition is ServerCondition.READY:
                self.put_back(revision.model, desired)
            else:
                self.target.runtime.persist(self.target.recorded_config())
            data = {"revision": revision.number, "evidence": {"error": "interrupted", "restored": True}}
            with self.target.lineage.transaction() as transaction:
                transaction.append(
                    self.context.event(
                        EventKind.REVISION_FAILED, model=revision.model, target=self.target.name, data=data
                    )
                )

    def _record_pending(self, change: Change, before: Desired, after: Desired) -> int:
        with self.target.lineage.transaction() as transaction:
            number = transaction.next_revision(self.target.name, change.model)
            data = {
                "revision": number,
                "kind": change.kind.value,
                "desired": after.to_json(),
                "before": before.to_json(),
                "restores": change.restores,
            }
            transaction.append(
                self.context.event(
                    EventKind.REVISION_PENDING,
                    model=change.model,
                    target=self.target.name,
                    reason=change.reason,
                    data=data,
                )
            )
        return number

    def _record(self, kind: EventKind, change: Change, number: int, evidence: dict[str, Any]) -> None:
        data = {"revision": number, "evidence": evidence}
        with self.target.lineage.transaction() as transaction:
            transaction.append(
                self.context.event(kind, model=change.model, target=self.target.name, reason=change.reason, data=data)
            )
