"""A target under a lease: what its server has, and how it is brought to what it should have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import MappingProxyType

from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.operation import OperationRecord, OperationRequest, OperationState, Phase
from deployctl.domain.revision import Desired, Revision
from deployctl.domain.serving import ServerCondition, ServingConfig, VersionState, VersionStatus
from deployctl.domain.transition import together
from deployctl.errors import (
    EngineError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    ServerRefusedError,
    ServerUnavailableError,
    VersionNotFoundError,
)
from deployctl.lineage.interface import RunningOperation
from deployctl.operations.context import Context, Deadline
from deployctl.operations.target import Target
from deployctl.serving.interface import Lease, ServedSpec

# What a call to a healthy server may take; how long a load may take is the request's own timeout.
CALL_TIMEOUT_S = 10.0
RESTORE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class LeasedTarget:
    """What one operation may do to the server of a target; made by `leased`."""

    target: Target
    context: Context
    lease: Lease
    running: RunningOperation

    def current(self, model: ModelName) -> Revision | None:
        """Returns the newest revision of `model` that served."""
        return self.target.current(model)

    def condition(self) -> ServerCondition:
        """Returns how the server is."""
        return self.target.runtime.condition(timeout_s=CALL_TIMEOUT_S)

    def require_ready(self) -> None:
        """Raises ServerUnavailableError unless the target's server answers, EngineError where nobody can tell."""
        if self.condition() is ServerCondition.READY:
            return
        state = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S)
        if "engine" in state.detail:
            raise EngineError(state.detail["engine"], hint="docker info")
        if state.condition is not ServerCondition.READY:
            raise ServerUnavailableError(
                f"the server of {self.target.name} is {state.condition.value}", hint=f"deployctl up {self.target.name}"
            )

    def fetch(self, model: ModelName, desired: Desired) -> Desired:
        """Brings to this machine what is not here yet, and returns `desired` without standby that is nowhere."""
        repository = self.target.repository
        for version in desired.versions:
            if not repository.is_local(model, version):
                # What is nowhere is missed by name when the configuration is made.
                with suppress(VersionNotFoundError):
                    repository.ensure_local(model, version, self.context.observer)
        return self._servable(model, desired)

    def status(self, model: ModelName, version: VersionNumber) -> VersionStatus | None:
        """Returns the state of one version, None where the server has not heard of it."""
        statuses = self.target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S)
        return next((status for status in statuses if status.version == version), None)

    def available(self, model: ModelName) -> set[VersionNumber]:
        """Returns the versions that the server can answer with."""
        statuses = self.target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S)
        return {status.version for status in statuses if status.state is VersionState.AVAILABLE}

    def apply(self, model: ModelName, desired: Desired, deadline: Deadline) -> None:
        """Tells the server to serve `desired`, and of other models what operations under way or the record say.

        Raises:
            LeaseLostError: the lease was taken away; nothing was changed.
            ServerError: see `ServingRuntime.apply`.
        """
        with self.lease.turn(timeout_s=max(deadline.left_s(), 0.1)) as turn:
            states = {name: revision.desired for name, revision in self.target.recorded().items()}
            config = self.target.config(states | dict(turn.others) | {model: desired})
            self.target.runtime.apply(config, timeout_s=max(deadline.left_s(), 0.1))
            turn.applied = desired

    def check_config(self, model: ModelName, desired: Desired) -> None:
        """Raises StorageError where a version that is to be served is not in its place."""
        states = {name: revision.desired for name, revision in self.target.recorded().items()}
        self.target.config(states | {model: desired})

    def await_loaded(self, model: ModelName, desired: Desired, deadline: Deadline) -> None:
        """Raises ServerError where a version that clients reach does not load; a standby's failure is only told."""
        standby = desired.standby(self.target.routing)
        for version in desired.without(standby).versions:
            self._await_available(model, version, deadline)
        for version in standby:
            try:
                self._await_available(model, version, deadline)
            except ServerError as error:
                self.context.observer.warn(f"no standby: {error}")

    def await_unloaded(self, model: ModelName, versions: Collection[VersionNumber] | None, deadline: Deadline) -> None:
        """Returns once the server holds none of `versions`, None for all, or raises ServerError at the deadline."""

        def gone() -> bool | None:
            with suppress(NotFoundError):
                statuses = self.target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S)
                loaded = [status for status in statuses if status.state is not VersionState.END]
                if any(versions is None or status.version in versions for status in loaded):
                    return None
            return True

        if not deadline.poll(gone):
            raise ServerError(f"{model} was still in memory when the time for unloading was over")

    def put_back(self, model: ModelName, recorded: Desired) -> None:
        """Applies a recorded state of `model` and returns once the server answers accordingly."""
        desired = self._servable(model, recorded)
        deadline = self.context.deadline(RESTORE_TIMEOUT_S)
        try:
            self.apply(model, desired, deadline)
        except ServerRefusedError as error:
            if error.code != "FAILED_PRECONDITION":
                raise
            # A label was moved, and the version that it must return to has been let go since: load that one first.
            self.apply(model, together(self._observed(model, desired), desired), deadline)
            self.await_loaded(model, desired, deadline)
            self.apply(model, desired, deadline)
        self._await_state(model, desired, deadline)

    def put_all_back(self, without: Mapping[ModelName, Collection[VersionNumber]] = MappingProxyType({})) -> None:
        """Applies the recorded state of every model; needs the lease on the whole target.

        Args:
            without: standby versions that are not loaded, by model.
        """
        recorded = {
            model: self._servable(model, revision.desired).without(without.get(model, ()))
            for model, revision in self.target.recorded().items()
        }
        deadline = self.context.deadline(RESTORE_TIMEOUT_S)
        try:
            with self.lease.turn(timeout_s=RESTORE_TIMEOUT_S):
                self.target.runtime.apply(self.target.config(recorded), timeout_s=RESTORE_TIMEOUT_S)
        except ServerRefusedError:
            for model, desired in recorded.items():
                self.put_back(model, desired)
        for model, desired in recorded.items():
            self._await_state(model, desired, deadline)

    def settle_interrupted(self, model: ModelName | None) -> None:
        """Undoes what killed operations left of `model`, or of all: we hold the lease, so nobody works on it."""
        left = {record.id: record for record in self._left_by_others(model)}
        for revision in self.target.lineage.pending(self.target.name):
            if model in (None, revision.model):
                record = left.pop(revision.operation, None)
                self._settle(revision, record)
        for record in left.values():
            self.context.journal.settle(record.id, by=self.context.operation)

    def _left_by_others(self, model: ModelName | None) -> Iterator[OperationRecord]:
        for record in self.context.journal.operations():
            request = record.request
            ours = request.target == self.target.name and (None in (model, request.model) or request.model == model)
            # One that runs and only waits for the lock, or watches what it has done, has left nothing.
            waiting = record.state is OperationState.RUNNING and record.phase in {Phase.LOCK, Phase.SOAK}
            ended = record.state not in {OperationState.RUNNING, OperationState.INTERRUPTED}
            if ours and not waiting and not ended and record.id != self.context.operation:
                yield record

    def _settle(self, revision: Revision, record: OperationRecord | None) -> None:
        current = self.current(revision.model)
        desired = current.desired if current else Desired()
        what = str(record) if record else f"revision {revision.number} of {revision.model} by {revision.actor}"
        self.context.observer.warn(f"{what} was interrupted; restoring what served before it")
        if self.condition() is ServerCondition.READY:
            self.put_back(revision.model, desired)
        else:
            self.target.runtime.persist(self.target.recorded_config())
        data = {"revision": revision.number, "evidence": {"error": "interrupted", "restored": True}}
        with self.target.lineage.transaction() as transaction:
            transaction.append(
                self.context.event(EventKind.REVISION_FAILED, model=revision.model, target=self.target.name, data=data)
            )
        if record is not None:
            self.context.journal.settle(record.id, by=self.context.operation)
            if record.request.repeat:
                self.context.observer.step("left", f"deployctl op resume {record.id} would begin it again")

    def _servable(self, model: ModelName, desired: Desired) -> Desired:
        found = self.target.servable(model, desired)
        for version in desired.versions:
            if version not in found.versions:
                self.context.observer.warn(f"{model}@{version} does not stand by: its directory is gone")
        return found

    def _await_available(self, model: ModelName, version: VersionNumber, deadline: Deadline) -> None:
        def settled() -> VersionStatus | None:
            status = self.status(model, version)
            return status if status and (status.failed or status.state is VersionState.AVAILABLE) else None

        status = deadline.poll(settled)
        if status is None:
            seen = self.status(model, version)
            state = seen.state.name if seen else "not seen"
            raise ServerError(f"{model}@{version} was still {state} when the time for loading was over")
        if status.failed:
            raise ServerError(f"{model}@{version} cannot be loaded: {status.error}")

    def _observed(self, model: ModelName, desired: Desired) -> Desired:
        """Returns what the server has of `model` now, of the labels only those of `desired`."""
        labels = {}
        for label in desired.labels:
            # A label that the server does not know, or whose version is gone, answers nothing.
            with suppress(NotFoundError, InvalidRequestError, ServerRefusedError):
                labels[label], _ = self.target.runtime.answering_version(
                    ServedSpec(model, label=label), timeout_s=CALL_TIMEOUT_S
                )
        return Desired(tuple(sorted(self.available(model))), labels)

    def _await_state(self, model: ModelName, desired: Desired, deadline: Deadline) -> None:
        self.await_loaded(model, desired, deadline)
        for label, version in desired.labels.items():
            answering, _ = self.target.runtime.answering_version(
                ServedSpec(model, label=label), timeout_s=CALL_TIMEOUT_S
            )
            if answering != version:
                raise ServerError(f"label {label} of {model} is answered by @{answering}, not @{version}")


class _Unjournalled(RunningOperation):
    """What only looks leaves no trace."""

    def enter(self, phase: Phase) -> None:
        """Writes nothing."""

    def end(self, outcome: str) -> None:
        """Writes nothing."""


@contextmanager
def leased(
    target: Target, context: Context, request: OperationRequest, *, dry_run: bool = False, settle: bool = True
) -> Iterator[LeasedTarget]:
    """Journals an operation and holds its lease while the block runs, after making good one that was interrupted.

    A `dry_run` leaves no trace, and leaves what was interrupted as it is; so does an operation that does not `settle`.

    Raises:
        LockedError: another operation works on the model, or on the whole target.
    """
    actor = str(context.actor)
    journalled = nullcontext(_Unjournalled()) if dry_run else context.journal.open(context.operation, request, actor)
    with (
        journalled as running,
        target.lock.hold(model=request.model, purpose=str(request), timeout_s=target.lock_timeout_s) as lease,
    ):
        running.enter(Phase.CHECK)
        place = LeasedTarget(target, context, lease, running)
        if settle and not dry_run:
            place.settle_interrupted(request.model)
        yield place


def recorded_without_standby(target: Target) -> ServingConfig:
    """Returns the recorded configuration with only what clients reach."""
    return target.config(
        {
            model: revision.desired.without(revision.desired.standby(target.routing))
            for model, revision in target.recorded().items()
        }
    )
