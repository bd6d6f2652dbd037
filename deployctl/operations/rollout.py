"""The one way in which what a target serves changes: new beside old, labels moved, old let go last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deployctl.domain.duration import format_duration
from deployctl.domain.event import EventKind
from deployctl.domain.names import STABLE, LabelName, ModelName, VersionNumber
from deployctl.domain.revision import Desired, Revision, RevisionKind, Routing
from deployctl.domain.serving import ServerCondition, VersionState, VersionStatus
from deployctl.domain.transition import together
from deployctl.errors import (
    DegradedError,
    DeployctlError,
    PreconditionError,
    RestoredError,
    ServerError,
    ServerUnavailableError,
)
from deployctl.operations.context import Context, Deadline
from deployctl.operations.target import Target
from deployctl.serving.interface import ServedSpec

# What a call to a healthy server may take; how long a load may take is the request's own timeout.
CALL_TIMEOUT_S = 10.0
RESTORE_TIMEOUT_S = 60.0


class RolloutClass(StrEnum):
    """How far the bytes are from serving: loaded already, or on local disk."""

    HOT = "hot"
    WARM = "warm"


@dataclass(frozen=True, slots=True)
class Change:
    """What is to change.

    Attributes:
        version: the one that must serve afterwards.
        label: the one that must point to it.
        if_current: the revision number that must be current (0 for none), or None for any.
        restores: for a rollback, the revision that it returns to.
    """

    model: ModelName
    version: VersionNumber
    label: LabelName
    kind: RevisionKind
    reason: str
    timeout_s: float
    if_current: int | None = None
    restores: int | None = None


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
    def locked(self, purpose: str) -> Iterator[None]:
        """Keeps other operations away from the target, after making good one that was interrupted."""
        with self.target.lock.hold(purpose=purpose, timeout_s=self.target.lock_timeout_s):
            self._settle_interrupted()
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
        """Returns whether the server has the version loaded now."""
        loaded = self._available(model)
        return RolloutClass.HOT if version in loaded else RolloutClass.WARM

    def __call__(self, change: Change, before: Desired, after: Desired) -> Rolled:
        """Makes `after` serve instead of `before`; must run inside `locked`.

        Raises:
            ServerUnavailableError: the server does not answer; nothing changed.
            RestoredError: it failed, and `before` serves again.
            DegradedError: it failed, and `before` could not be verified to serve.
        """
        self._require_ready()
        rollout_class = self.classify(change.model, change.version)
        number = self._record_pending(change, before, after)
        evidence: dict[str, Any] = {"class": rollout_class.value}
        try:
            self._verify_bytes(change, rollout_class)
            self._load(change, before, after, evidence)
            self._switch(change, after, evidence)
        except DeployctlError as error:
            self._restore(change, before, number, error)
        except BaseException:
            # Ctrl-C: put back what served before the process goes.
            self._restore(change, before, number, ServerError("it was interrupted"))
            raise
        self._record(EventKind.REVISION_SERVING, change, number, evidence)
        return Rolled(number, after, before, rollout_class, evidence)

    def _require_ready(self) -> None:
        state = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S)
        if state.condition is not ServerCondition.READY:
            raise ServerUnavailableError(
                f"the server of {self.target.name} is {state.condition.value}", hint=f"deployctl up {self.target.name}"
            )

    def _verify_bytes(self, change: Change, rollout_class: RolloutClass) -> None:
        # What is loaded already was verified when it was loaded, and an incident does not wait for hashing.
        if rollout_class is RolloutClass.HOT:
            return
        repository = self.target.repository
        manifest = repository.manifest(change.model, change.version)
        if manifest is None:
            return
        problems = repository.verify(manifest, self.context.observer)
        if problems:
            worst = problems[0]
            raise ServerError(
                f"{change.model}@{change.version} does not match its manifest: {worst.path} is {worst.problem}"
            )

    def _load(self, change: Change, before: Desired, after: Desired, evidence: dict[str, Any]) -> None:
        started = self.context.clock.monotonic()
        deadline = self.context.deadline(change.timeout_s)
        self._apply(change.model, together(before, after), deadline)
        for version in after.versions:
            self._await_available(change.model, version, deadline)
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
        states = {name: revision.desired for name, revision in self.target.recorded().items()}
        states[model] = desired
        timeout_s = max(deadline.left_s(), 0.1)
        self.target.runtime.apply(self.target.config(states), timeout_s=timeout_s)

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

    def _restore(self, change: Change, before: Desired, number: int, cause: DeployctlError) -> None:
        """Serves `before` again and raises what the failed change ends with."""
        target = self.target.name
        try:
            self.put_back(change.model, before)
        except DeployctlError as error:
            self._record(EventKind.REVISION_FAILED, change, number, {"error": str(cause), "restore": str(error)})
            raise DegradedError(
                f"{cause}; and the previous state of {change.model} on {target} could not be restored: {error}",
                hint=f"deployctl status {target}",
            ) from cause
        self._record(EventKind.REVISION_FAILED, change, number, {"error": str(cause), "restored": True})
        live = before.live(self.target.routing)
        state = "is not served, as before" if live is None else f"@{live} was restored and verified"
        raise RestoredError(
            f"{cause}; {change.model} {state}" if live is None else f"{cause}; {state}",
            hint=f"deployctl logs {target} --since 1m",
        ) from cause

    def put_back(self, model: ModelName, desired: Desired) -> None:
        """Applies a recorded state of `model` and returns once the server answers accordingly."""
        deadline = self.context.deadline(RESTORE_TIMEOUT_S)
        self._apply(model, desired, deadline)
        for version in desired.versions:
            self._await_available(model, version, deadline)
        for label, version in desired.labels.items():
            answering, _ = self.target.runtime.answering_version(
                ServedSpec(model, label=label), timeout_s=CALL_TIMEOUT_S
            )
            if answering != version:
                raise ServerError(f"label {label} of {model} is answered by @{answering}, not @{version}")

    def _settle_interrupted(self) -> None:
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
