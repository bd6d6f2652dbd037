"""The one way in which what a target serves changes: new beside old, labels moved, old let go last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from deployctl.domain.duration import format_duration
from deployctl.domain.event import EventKind
from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.names import STABLE, LabelName, ModelName, VersionNumber
from deployctl.domain.operation import Phase
from deployctl.domain.revision import Desired, RevisionKind, Routing
from deployctl.domain.transition import together
from deployctl.errors import (
    DatabaseError,
    DegradedError,
    DeployctlError,
    LeaseLostError,
    PreconditionError,
    ReloadStuckError,
    RestoredError,
    ServerError,
)
from deployctl.operations.context import Context, Deadline
from deployctl.operations.leased import CALL_TIMEOUT_S, LeasedTarget
from deployctl.operations.target import Target
from deployctl.serving.interface import ServedSpec

_MEMORY_PER_BYTE = 1.2
# Returns why a version that is loaded does not answer as it should, None where it does.
Prover = Callable[[VersionNumber], str | None]


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
        restores: for a rollback, the revision that it returns to.
        evidence: JSON values to be recorded with it.
    """

    model: ModelName
    version: VersionNumber
    label: LabelName
    kind: RevisionKind
    reason: str
    timeout_s: float
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
    """Takes a target from one desired state of a model to the next, or leaves it as it was.

    Attributes:
        prove: asks a version that is loaded, and that clients do not reach yet by label, whether it answers rightly.
    """

    place: LeasedTarget
    prove: Prover | None = None

    @property
    def target(self) -> Target:
        """The target."""
        return self.place.target

    @property
    def context(self) -> Context:
        """The run of the operation."""
        return self.place.context

    def classify(self, model: ModelName, version: VersionNumber) -> RolloutClass:
        """Returns whether the server has the version loaded now, and if not, whether its bytes are here."""
        if version in self.place.available(model):
            return RolloutClass.HOT
        return RolloutClass.WARM if self.target.repository.is_local(model, version) else RolloutClass.COLD

    def __call__(self, change: Change, before: Desired, after: Desired) -> Rolled:
        """Makes `after` serve instead of `before`.

        Raises:
            ServerUnavailableError: the server does not answer; nothing changed.
            StorageError: a directory of a version that the target serves is gone, or a version could not be fetched;
                nothing changed.
            RestoredError: it failed, or was interrupted, and `before` serves again.
            DegradedError: it failed, and `before` could not be verified to serve.
            LeaseLostError: somebody released the lock; what was done so far is left for the next operation to settle.
        """
        place = self.place
        place.require_ready()
        rollout_class = self.classify(change.model, change.version)
        place.running.enter(Phase.FETCH)
        before, after = place.fetch(change.model, before), place.fetch(change.model, after)
        place.check_config(change.model, together(before, after))
        # In between only the labels of `before` need their versions.
        place.check_config(change.model, after)
        evicted = self._evicted(change, before) if rollout_class is not RolloutClass.HOT else ()
        after = after.without(evicted)
        place.running.enter(Phase.RECORD)
        number = self._record_pending(change, before, after)
        evidence: dict[str, Any] = {"class": rollout_class.value, **change.evidence}
        try:
            self._verify_bytes(change, before, after, rollout_class)
            self._let_go(change.model, before, evicted)
            self._load(change, before.without(evicted), after, evidence)
            self._switch(change, after, evidence)
            place.running.enter(Phase.FINISH)
            with place.lease.turn(timeout_s=CALL_TIMEOUT_S):
                self._record(EventKind.REVISION_SERVING, change, number, evidence)
        except LeaseLostError:
            raise
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

    def record(self, change: Change, before: Desired, after: Desired) -> int:
        """Records `after` as what the server is to start with, while it does not run; returns the revision.

        Raises:
            StorageError: a version is not in its place and could not be fetched; nothing changed.
        """
        place = self.place
        place.running.enter(Phase.FETCH)
        before, after = place.fetch(change.model, before), place.fetch(change.model, after)
        place.check_config(change.model, after)
        place.running.enter(Phase.RECORD)
        number = self._record_pending(change, before, after)
        self._verify_bytes(change, before, after, RolloutClass.WARM)
        place.running.enter(Phase.FINISH)
        with place.lease.turn(timeout_s=CALL_TIMEOUT_S):
            evidence = {"server": place.condition().value, **change.evidence}
            self._record(EventKind.REVISION_SERVING, change, number, evidence)
            self.target.runtime.persist(self.target.recorded_config())
        return number

    def _evicted(self, change: Change, before: Desired) -> tuple[VersionNumber, ...]:
        """Returns the standby versions, oldest first, that must go before the new version fits into memory."""
        standby = [version for version in before.standby(self.target.routing) if version != change.version]
        free = self.target.free_bytes() if standby else None
        if free is None:
            return ()
        missing = needed_memory(self.target, change.model, change.version) - free
        evicted: list[VersionNumber] = []
        for version in sorted(standby):
            if missing <= 0:
                break
            evicted.append(version)
            missing -= needed_memory(self.target, change.model, version)
        return tuple(evicted)

    def _let_go(self, model: ModelName, before: Desired, evicted: tuple[VersionNumber, ...]) -> None:
        if not evicted:
            return
        names = ", ".join(f"@{version}" for version in evicted)
        self.context.observer.step("standby", f"{names} let go: there is no memory for it beside the new version")
        deadline = self.context.deadline(CALL_TIMEOUT_S)
        self.place.apply(model, before.without(evicted), deadline)
        self.place.await_unloaded(model, evicted, deadline)

    def _serves(self, model: ModelName, number: int) -> bool:
        current = self.place.current(model)
        return current is not None and current.number == number

    def _verify_bytes(self, change: Change, before: Desired, after: Desired, rollout_class: RolloutClass) -> None:
        # What is loaded already was verified when it was loaded, and an incident does not wait for hashing.
        new = {*after.labels.values()} - {*before.versions} - {change.version}
        if rollout_class is not RolloutClass.HOT:
            new.add(change.version)
        for version in sorted(new):
            self.target.repository.ensure_local(change.model, version, self.context.observer, rehash=True)

    def _load(self, change: Change, before: Desired, after: Desired, evidence: dict[str, Any]) -> None:
        self.place.running.enter(Phase.LOAD)
        started = self.context.clock.monotonic()
        deadline = self.context.deadline(change.timeout_s)
        between = together(before, after)
        if self.target.lets_go_first(change.model) and before.versions and change.version not in before.versions:
            evidence["gap_began"] = format_time(self.context.clock.now())
            words = f"{change.model} answers nobody from now until @{change.version} is loaded"
            self.context.observer.step("gap", words)
            self._make_room(change.model, deadline)
            between = Desired(after.versions)
        self.place.apply(change.model, between, deadline)
        self.place.await_loaded(change.model, after, deadline)
        evidence["load_s"] = self.context.clock.monotonic() - started
        beside = ", ".join(f"@{version}" for version in between.versions if version != change.version)
        words = f"@{change.version} AVAILABLE{' beside ' + beside if beside else ''}"
        self.context.observer.step("load", f"{words} after {format_duration(evidence['load_s'])}")
        self._probe(change, ServedSpec(change.model, version=change.version), "version")
        problem = self.prove(change.version) if self.prove is not None else None
        if problem is not None:
            raise ServerError(f"{change.model}@{change.version} answers otherwise than is recorded: {problem}")

    def _make_room(self, model: ModelName, deadline: Deadline) -> None:
        """Lets all of a model go that is too big to be in memory twice."""
        self.place.apply(model, Desired(), deadline)
        self.place.await_unloaded(model, None, deadline)

    def _switch(self, change: Change, after: Desired, evidence: dict[str, Any]) -> None:
        self.place.running.enter(Phase.SWITCH)
        started = self.context.clock.monotonic()
        deadline = self.context.deadline(CALL_TIMEOUT_S)
        self.place.apply(change.model, after, deadline)
        self._probe(change, ServedSpec(change.model, label=change.label), "label")
        if change.label == STABLE and self.target.routing is Routing.LATEST:
            self._await_traffic(change, deadline)
        if "gap_began" in evidence:
            gap_s = (self.context.clock.now() - parse_time(evidence["gap_began"])).total_seconds()
            evidence["gap_s"] = gap_s
            self.context.observer.step("gap", f"{change.model} did not answer for {format_duration(gap_s)}")
        evidence["switch_s"] = self.context.clock.monotonic() - started
        evidence["available"] = sorted(self.place.available(change.model))

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

    def _restored(self, change: Change, before: Desired, number: int, cause: DeployctlError) -> DeployctlError:
        """Serves `before` again and returns what the failed change ends with."""
        target = self.target.name
        try:
            self.place.running.enter(Phase.RESTORE)
            if self.target.lets_go_first(change.model):
                self._make_room(change.model, self.context.deadline(CALL_TIMEOUT_S))
            self.place.put_back(change.model, before)
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

    def _record_pending(self, change: Change, before: Desired, after: Desired) -> int:
        # In a turn, since whoever lost the lease must not leave a revision behind that nobody settles.
        with self.place.lease.turn(timeout_s=CALL_TIMEOUT_S), self.target.lineage.transaction() as transaction:
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


def needed_memory(target: Target, model: ModelName, version: VersionNumber) -> int:
    """Returns the bytes that a version is taken to need in memory, 0 for one without a manifest.

    By the sizes of files times what TensorFlow Serving reserves for them
    (servables/tensorflow/bundle_factory_util.cc, kResourceEstimateRAMMultiplier).
    """
    manifest = target.repository.manifest(model, version)
    return int(manifest.size_bytes * _MEMORY_PER_BYTE) if manifest else 0


def check_current(target: Target, model: ModelName, if_current: int | None) -> None:
    """Raises PreconditionError unless the current revision is the one that the caller expects, None for any."""
    if if_current is None:
        return
    current = target.current(model)
    found = current.number if current else 0
    if found != if_current:
        raise PreconditionError(
            f"{model} on {target.name} is at revision {found}, not {if_current}",
            hint=f"deployctl history {model} --target {target.name}",
        )
