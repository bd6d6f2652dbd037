"""Upgrade: a server's image is exchanged for another one that answers alike."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.operation import OperationRequest, Phase
from deployctl.domain.serving import Endpoints, ServerCondition, ServingConfig
from deployctl.errors import (
    DegradedError,
    DeployctlError,
    EngineError,
    GateRefusedError,
    PreconditionError,
    RestoredError,
    ServerError,
    ServerExitedError,
    ServerOutOfMemoryError,
    ServerStartError,
    ServerUnavailableError,
)
from deployctl.gates.interface import Outcome, Verdict
from deployctl.operations.context import Context
from deployctl.operations.holds import check_not_frozen
from deployctl.operations.leased import CALL_TIMEOUT_S, LeasedTarget, leased
from deployctl.operations.target import Target
from deployctl.serving.interface import Image, ImageRuntime, ServedSpec, ServingRuntime

# Compares what one version answers on the old server, the first one, and on the new one.
Compare = Callable[[ServingRuntime, ServingRuntime, ModelName, VersionNumber], Verdict]
# Gives a server of the wanted image on ports of its own, not up yet, which is gone after the block.
Beside = Callable[[], AbstractContextManager[ServingRuntime]]


@dataclass(frozen=True, slots=True)
class Compared:
    """One version on both servers."""

    model: ModelName
    version: VersionNumber
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Upgraded:
    """An upgrade's outcome.

    Attributes:
        outcome: "upgraded"; "unchanged" where the image runs already; "planned" in a dry run.
        gap_s: for how many seconds nobody was answered.
    """

    target: TargetName
    outcome: str
    before: Image
    after: Image
    compared: tuple[Compared, ...]
    endpoints: Endpoints
    gap_s: float
    duration_s: float


@dataclass(frozen=True, slots=True)
class Upgrade:
    """Exchanges the image of a target's server.

    Attributes:
        runtime: the target's, which wants the new image.
        beside: gives the server that is tried.
    """

    target: Target
    runtime: ImageRuntime
    context: Context
    beside: Beside
    compare: Compare

    def __call__(self, *, timeout_s: float, reason: str = "", dry_run: bool = False) -> Upgraded:
        """Returns once the new image serves what the old one did, or raises with the old one serving.

        A dry run starts and compares the new one, and does not switch.

        Raises:
            ImageMissingError, EngineError, ServerUnavailableError: nothing was done.
            FrozenError: nothing is to be changed there now.
            GateRefusedError: the new image answers otherwise.
            RestoredError: the new one does not come up with what is served.
            PreconditionError: something else was promoted meanwhile.
            DegradedError: it failed while they were exchanged, and the old one could not be verified to serve.
        """
        started = self.context.clock.monotonic()
        before = self._running()
        after = self.runtime.wanted_image()
        for model in self.target.recorded():
            check_not_frozen(self.target.lineage, self.context, self.target.name, model)
        config = self.target.recorded_config()
        compared: tuple[Compared, ...] = ()
        gap_s, outcome = 0.0, "unchanged"
        if before.id != after.id:
            # Without a lease: until it is switched, whoever must roll back may.
            compared, outcome = self._try(before, after, config, timeout_s), "planned"
            if not dry_run:
                gap_s, outcome = self._exchange(before, after, compared, config, timeout_s, reason), "upgraded"
        endpoints = self.runtime.state(timeout_s=CALL_TIMEOUT_S).endpoints
        duration_s = self.context.clock.monotonic() - started
        return Upgraded(self.target.name, outcome, before, after, compared, endpoints, gap_s, duration_s)

    def _running(self) -> Image:
        state = self.runtime.state(timeout_s=CALL_TIMEOUT_S)
        if "engine" in state.detail:
            raise EngineError(state.detail["engine"], hint="docker info")
        image = self.runtime.running_image()
        if image is None or state.condition is not ServerCondition.READY:
            name = self.target.name
            raise ServerUnavailableError(
                f"the server of {name} is {state.condition.value}, so that there is nothing to compare with",
                hint=f"deployctl up {name}",
            )
        return image

    def _try(self, before: Image, after: Image, config: ServingConfig, timeout_s: float) -> tuple[Compared, ...]:
        """Returns how the new image answers for each version that is served, all alike, or raises."""
        name, observer = self.target.name, self.context.observer
        try:
            with self.beside() as new:
                new.up(config, timeout_s=timeout_s)
                observer.step("start", f"{after} runs beside {before}, with the same versions and labels")
                compared = [
                    self._compared(new, served.name, version) for served in config.models for version in served.versions
                ]
                for served in config.models:
                    for label, version in served.labels.items():
                        _check_label(new, ServedSpec(served.name, label=label), version)
        except ServerError as error:
            raise _does_not_serve(name, before, after, error) from error
        for each in compared:
            if each.verdict.outcome is Outcome.FAILED:
                raise GateRefusedError(
                    f"{after} is refused on {name}: {each.model}@{each.version} answers otherwise than with {before}: "
                    f"{each.verdict.problems[0]}",
                    hint=f"deployctl status {name}",
                )
        return tuple(compared)

    def _compared(self, new: ServingRuntime, model: ModelName, version: VersionNumber) -> Compared:
        verdict = self.compare(self.runtime, new, model, version)
        self.context.observer.step("compare", f"{model}@{version}: {verdict.summary}")
        return Compared(model, version, verdict)

    def _exchange(
        self,
        before: Image,
        after: Image,
        compared: tuple[Compared, ...],
        config: ServingConfig,
        timeout_s: float,
        reason: str,
    ) -> float:
        request = OperationRequest("upgrade", self.target.name, self.target.name)
        with leased(self.target, self.context, request) as place:
            if self.target.recorded_config() != config:
                raise PreconditionError(
                    f"what {self.target.name} serves was changed while {after} was compared; {before} serves",
                    hint=f"deployctl upgrade {self.target.name} --image {after}",
                )
            place.running.enter(Phase.SWITCH)
            try:
                gap_s = self.runtime.exchange(config, timeout_s=timeout_s)
                place.put_all_back()
            except DeployctlError as error:
                raise self._restored(place, before, after, error) from error
            place.running.enter(Phase.FINISH)
            self._record(before, after, compared, gap_s, reason)
            place.running.end("upgraded")
        return gap_s

    def _restored(self, place: LeasedTarget, before: Image, after: Image, cause: DeployctlError) -> DeployctlError:
        name = self.target.name
        words = f"{after} could not take the place of {before} on {name}: {cause}"
        try:
            place.running.enter(Phase.RESTORE)
            place.put_all_back()
        except DeployctlError as error:
            return DegradedError(
                f"{words}; and what served could not be verified: {error}", hint=f"deployctl status {name}"
            )
        serves = self.runtime.running_image()
        return RestoredError(f"{words}; {serves or before} serves what was served", hint=cause.hint)

    def _record(self, before: Image, after: Image, compared: tuple[Compared, ...], gap_s: float, reason: str) -> None:
        state = self.runtime.state(timeout_s=CALL_TIMEOUT_S)
        answers = [{"model": each.model, "version": each.version, "says": each.verdict.summary} for each in compared]
        data: dict[str, Any] = {
            "runtime": self.target.runtime_name,
            "rest": state.endpoints.rest,
            "grpc": state.endpoints.grpc,
            **state.identity,
            "before": before.to_json(),
            "after": after.to_json(),
            "compared": answers,
            "gap_s": gap_s,
        }
        event = self.context.event(EventKind.TARGET_UPGRADED, target=self.target.name, reason=reason, data=data)
        with self.target.lineage.transaction() as transaction:
            transaction.append(event)


def _does_not_serve(name: TargetName, before: Image, after: Image, error: ServerError) -> RestoredError:
    """Returns what is said of a server beside: it is gone already, and was a target of its own to itself."""
    what, hint = str(error).partition("\n")[0], f"deployctl status {name}"
    log = error.log if isinstance(error, ServerStartError) else ()
    if isinstance(error, ServerExitedError):
        what = f"it ended with exit code {error.status} before it was ready"
    elif isinstance(error, ServerOutOfMemoryError):
        what = f"it was killed for want of memory (OOMKilled): the limit of its container is {error.limit}"
        hint = f"deployctl --set targets.{name}.docker.memory=SIZE up {name}"
    sentence = f"{after} does not serve what {name} serves: {what}; {before} was not touched and serves"
    return RestoredError("\n".join((sentence, *(f"  {line}" for line in log))), hint=hint)


def _check_label(new: ServingRuntime, spec: ServedSpec, version: VersionNumber) -> None:
    answering, _ = new.answering_version(spec, timeout_s=CALL_TIMEOUT_S)
    if answering != version:
        raise ServerError(f"label {spec.label} of {spec.model} is answered by @{answering}, not @{version}")
