"""Up and down: a target's server runs with what is recorded, or does not run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from deployctl.domain.event import EventKind
from deployctl.domain.names import TargetName
from deployctl.domain.operation import OperationRequest, Phase
from deployctl.domain.serving import Endpoints, ServerCondition, ServerState, ServingConfig
from deployctl.errors import DatabaseError, ServerStartError
from deployctl.operations.context import Context
from deployctl.operations.leased import CALL_TIMEOUT_S, LeasedTarget, leased, recorded_without_standby
from deployctl.operations.target import Target


@dataclass(frozen=True, slots=True)
class TargetChange:
    """What `up` or `down` did.

    Attributes:
        outcome: "started", "already running", "replaced" (by a server of other settings), "restarted", "stopped" or
            "not running".
        endpoints: where clients call, or called.
    """

    target: TargetName
    outcome: str
    endpoints: Endpoints
    duration_s: float


@dataclass(frozen=True, slots=True)
class BringUp:
    """Starts a target's server with the recorded state of all its models."""

    target: Target
    context: Context

    def __call__(self, *, timeout_s: float, reason: str = "", unless_stopped: bool = False) -> TargetChange:
        """Returns once the server answers for every model.

        A server that runs already is left running, and brought to what is recorded where it serves anything else.
        With `unless_stopped`, one that somebody has stopped is left stopped.

        Raises:
            LockedError: another operation works on the target.
            PortTakenError, ServerStartError: see `ServingRuntime.up`.
            StorageError: a recorded version's directory is gone.
        """
        started = self.context.clock.monotonic()
        request = OperationRequest("up", self.target.name, self.target.name)
        with leased(self.target, self.context, request) as place:
            was = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S)
            if unless_stopped and self.target.lineage.running(self.target.name) is False:
                place.running.end("stopped")
                return TargetChange(self.target.name, "stopped", was.endpoints, 0.0)
            for model, revision in self.target.recorded().items():
                place.fetch(model, revision.desired)
            place.running.enter(Phase.LOAD)
            endpoints = _with_what_loads(place, lambda config: self.target.runtime.up(config, timeout_s=timeout_s))
            now = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S)
            # One that was too busy to answer may be what it was, with what an operation that was cut off left in it.
            running = was.condition is ServerCondition.READY or _is_same(was, now)
            if running:
                place.put_all_back()
            replaced = running and was.identity != now.identity
            if replaced or not running:
                _record(self.target, self.context, EventKind.TARGET_STARTED, endpoints, reason, now.identity)
            outcome = "replaced" if replaced else "already running" if running else "started"
            place.running.end(outcome)
        return TargetChange(self.target.name, outcome, endpoints, self.context.clock.monotonic() - started)


@dataclass(frozen=True, slots=True)
class Restart:
    """Stops a target's server and starts it again with the recorded state of all its models."""

    target: Target
    context: Context

    def __call__(self, *, timeout_s: float, reason: str = "") -> TargetChange:
        """Returns once the server answers for every model; until then it may answer nobody.

        What was interrupted is settled afterwards: a server that is restarted may be one that takes no calls.

        Raises:
            LockedError: another operation works on the target.
            ExternallyRunError: someone else runs the server.
            PortTakenError, ServerStartError: see `ServingRuntime.up`.
        """
        started = self.context.clock.monotonic()
        request = OperationRequest("restart", self.target.name, self.target.name)
        with leased(self.target, self.context, request, settle=False) as place:
            for model, revision in self.target.recorded().items():
                place.fetch(model, revision.desired)
            place.running.enter(Phase.LOAD)
            endpoints = _with_what_loads(place, lambda config: self.target.runtime.restart(config, timeout_s=timeout_s))
            place.settle_interrupted(None)
            place.put_all_back()
            identity = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S).identity
            _record(self.target, self.context, EventKind.TARGET_STARTED, endpoints, reason, identity)
            place.running.end("restarted")
        return TargetChange(self.target.name, "restarted", endpoints, self.context.clock.monotonic() - started)


@dataclass(frozen=True, slots=True)
class TakeDown:
    """Stops a target's server."""

    target: Target
    context: Context

    def __call__(self, *, timeout_s: float, reason: str = "") -> TargetChange:
        """Returns once the server has finished its requests in flight and ended.

        Raises:
            LockedError: another operation works on the target.
        """
        started = self.context.clock.monotonic()
        request = OperationRequest("down", self.target.name, self.target.name)
        with leased(self.target, self.context, request, settle=False) as place:
            endpoints = self.target.runtime.state(timeout_s=CALL_TIMEOUT_S).endpoints
            stopped = self.target.runtime.down(timeout_s=timeout_s)
            self._record(endpoints, reason, stopped=stopped)
            outcome = "stopped" if stopped else "not running"
            place.running.end(outcome)
        return TargetChange(self.target.name, outcome, endpoints, self.context.clock.monotonic() - started)

    def _record(self, endpoints: Endpoints, reason: str, *, stopped: bool) -> None:
        try:
            # One that ended by itself is not to be started again either.
            if stopped or self.target.lineage.running(self.target.name):
                _record(self.target, self.context, EventKind.TARGET_STOPPED, endpoints, reason)
        except DatabaseError as error:
            # The server is stopped, which is what was asked for.
            self.context.observer.warn(f"that {self.target.name} was stopped could not be recorded: {error}")


def _is_same(was: ServerState, now: ServerState) -> bool:
    """Whether a server that did not answer is the one that does now, by its container or its process."""
    if was.condition is ServerCondition.STOPPED:
        return False
    return (was.identity, was.detail.get("pid")) == (now.identity, now.detail.get("pid"))


def _with_what_loads(place: LeasedTarget, start: Callable[[ServingConfig], Endpoints]) -> Endpoints:
    """Starts a server with all that is recorded, or without standby versions where it ends because of one.

    A version that does not load while the server starts makes TensorFlow Serving give up the start.
    """
    wanted = place.target.recorded_config()
    try:
        return start(wanted)
    except ServerStartError as error:
        needed = recorded_without_standby(place.target)
        if needed == wanted:
            raise
        place.context.observer.warn(f"{error}; starting without standby versions")
        return start(needed)


def _record(
    target: Target,
    context: Context,
    kind: EventKind,
    endpoints: Endpoints,
    reason: str,
    identity: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Appends an event; `identity` tells which server it is, for a container with the digest that really runs."""
    data = {"runtime": target.runtime_name, "rest": endpoints.rest, "grpc": endpoints.grpc, **identity}
    with target.lineage.transaction() as transaction:
        transaction.append(context.event(kind, target=target.name, reason=reason, data=data))
