"""A model server in memory, with TensorFlow Serving's states, label rules and versions policy, on a clock by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deployctl.domain.clock import Clock
from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.saved_model import Signature
from deployctl.domain.serving import (
    Endpoints,
    ServedModel,
    ServerCondition,
    ServerState,
    ServingConfig,
    VersionState,
    VersionStatus,
)
from deployctl.errors import (
    InvalidRequestError,
    NotFoundError,
    ServerRefusedError,
    ServerStartError,
    ServerUnavailableError,
)
from deployctl.serving.interface import Prediction, PredictionRequest, RequestCounts, ServedSpec, ServingRuntime

ADDRESS = "127.0.0.1:8500"
Key = tuple[ModelName, VersionNumber]


class ManualClock(Clock):
    """Time passes only by `pause`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 11, 21, 7, 0, 0, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def pause(self, seconds: float) -> None:
        self.seconds += seconds


class Killed(BaseException):
    """The process ended here, as by kill -9: nothing after this point may have an effect."""


@dataclass
class Fuse:
    """Ends the operation at one of its calls to the outside, and answers nothing until it is mended.

    Attributes:
        left: calls that still succeed; None for any number.
        calls: the names of all calls so far.
        hook: hears of each call before it is made, and may raise.
    """

    left: int | None = None
    calls: list[str] = field(default_factory=list)
    hook: Callable[[str], None] | None = None

    def burn(self, call: str) -> None:
        """Counts one call."""
        if self.left is not None:
            if self.left <= 0:
                raise Killed(call)
            self.left -= 1
        self.calls.append(call)
        if self.hook is not None:
            self.hook(call)

    def at(self, call: str, nth: int, act: Callable[[], None], *, and_after: bool = False) -> None:
        """Calls `act` before the `nth` next call of that name, counted from 1, and perhaps before each later one."""
        seen = 0

        def hook(name: str) -> None:
            nonlocal seen
            seen += name == call
            if name == call and (seen == nth or (and_after and seen > nth)):
                act()

        self.hook = hook


@dataclass
class _Version:
    state: VersionState = VersionState.START
    ready_at: float = 0.0
    error: str = ""
    aspired: bool = True


class InMemoryServer(ServingRuntime):
    """One server, whose versions load in `load_s` seconds of `clock`.

    Attributes:
        sent: every configuration that was applied, oldest first.
        file: what the server would start from.
        broken: versions that cannot be loaded, with the server's words.
        refuses: words with which every reload is refused, "" for none.
        lost: whether nothing answers though the server should.
    """

    def __init__(self, clock: ManualClock, fuse: Fuse | None = None, *, load_s: float = 0.5) -> None:
        self.clock, self.fuse, self.load_s = clock, fuse or Fuse(), load_s
        self.traffic: Callable[[float], RequestCounts] = lambda _: RequestCounts()
        self.sent: list[ServingConfig] = []
        self.file = ServingConfig()
        self.broken: dict[Key, str] = {}
        self.refuses = ""
        self.lost = False
        self.signatures: dict[Key, Mapping[str, Signature]] = {}
        self._running = False
        self._versions: dict[Key, _Version] = {}
        self._models: dict[ModelName, ServedModel] = {}

    def close(self) -> None:
        pass

    def up(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        self.fuse.burn("up")
        self.file = config
        if not self._running:
            self._versions, self._models = {}, {}
            self._set(config)
            self._settle({model.name for model in config.models})
            failed = [version for version in self._versions.values() if version.error]
            if failed:
                raise ServerStartError(f"the server ended: {failed[0].error}")
            self._running = True
        return self._endpoints()

    def down(self, *, timeout_s: float) -> bool:
        self.fuse.burn("down")
        was, self._running = self._running, False
        return was

    def crash(self) -> None:
        """Ends the server without a word."""
        self._running = False

    def state(self, *, timeout_s: float) -> ServerState:
        self.fuse.burn("state")
        condition = ServerCondition.READY if self._running else ServerCondition.STOPPED
        detail = {"uptime": "1 min"} if self._running else {}
        return ServerState(ServerCondition.UNREACHABLE if self.lost else condition, self._endpoints(), detail)

    def apply(self, config: ServingConfig, *, timeout_s: float) -> None:
        self._call("apply")
        if self.refuses:
            raise ServerRefusedError(ADDRESS, "INTERNAL", self.refuses)
        for model in config.models:
            self._check_labels(model)
        new = {model.name for model in config.models} - set(self._models)
        self.sent.append(config)
        self.file = config
        self._set(config)
        self._settle(new)

    def persist(self, config: ServingConfig) -> None:
        self.fuse.burn("persist")
        self.file = config

    def written(self) -> ServingConfig | None:
        return self.file

    def statuses(self, model: ModelName, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        self._call("statuses")
        found = [(number, each) for (name, number), each in self._versions.items() if name == model]
        return tuple(VersionStatus(number, each.state, each.error) for number, each in sorted(found, reverse=True))

    def answering_version(self, spec: ServedSpec, *, timeout_s: float) -> tuple[VersionNumber, Mapping[str, Signature]]:
        self._call("answering_version")
        available = self.available(spec.model)
        version = spec.version if spec.version is not None else max(available, default=None)
        if spec.label is not None:
            labels = self._models[spec.model].labels if spec.model in self._models else {}
            if spec.label not in labels:
                raise InvalidRequestError(f"Unrecognized servable version label: {spec.label}")
            version = labels[spec.label]
        if version is None or version not in available:
            raise NotFoundError(f"Servable not found for request: {spec}")
        return version, self.signatures.get((spec.model, version), {})

    def request_counts(self, *, timeout_s: float) -> Mapping[ModelName, RequestCounts]:
        if self.lost or not self._running:
            raise ServerUnavailableError(f"nothing answers at {ADDRESS}", hint="deployctl up")
        return {model: self.traffic(self.clock.seconds) for model in self._models}

    def predict(self, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        version, _ = self.answering_version(request.spec, timeout_s=timeout_s)
        return Prediction(version if grpc else None, request.instances or request.inputs)

    def served_path(self, base_path: Path) -> str:
        return str(base_path)

    def logs(self, *, lines: int | None, since_s: float | None, follow: bool) -> Iterator[str]:
        return iter(())

    def available(self, model: str) -> set[VersionNumber]:
        """Returns the versions that answer now."""
        self._advance()
        is_ready = VersionState.AVAILABLE
        return {number for (name, number), each in self._versions.items() if name == model and each.state is is_ready}

    def labels(self, model: str) -> Mapping[LabelName, VersionNumber]:
        """Returns where the model's labels point now."""
        served = self._models.get(ModelName(model))
        return served.labels if served else {}

    def _call(self, name: str) -> None:
        self.fuse.burn(name)
        if self.lost or not self._running:
            raise ServerUnavailableError(f"nothing answers at {ADDRESS}", hint="deployctl up")
        self._advance()

    def _endpoints(self) -> Endpoints:
        return Endpoints("http://127.0.0.1:8501", ADDRESS)

    def _check_labels(self, model: ServedModel) -> None:
        """Refuses as --allow_version_labels_for_unavailable_models does: only a label that moves needs AVAILABLE."""
        before = self._models[model.name].labels if model.name in self._models else {}
        for label, version in model.labels.items():
            if before.get(label, version) != version and version not in self.available(model.name):
                words = f"Request to assign label to version {version}, which is not currently available for inference"
                raise ServerRefusedError(ADDRESS, "FAILED_PRECONDITION", words)

    def _set(self, config: ServingConfig) -> None:
        wanted = {(model.name, version) for model in config.models for version in model.versions}
        for key, version in self._versions.items():
            if key not in wanted:
                version.aspired = False
        for key in wanted:
            known = self._versions.get(key)
            # What failed is tried again only after it was left out of a configuration in between.
            if known is None or (known.state is VersionState.END and not known.aspired):
                self._versions[key] = _Version(ready_at=self.clock.seconds + self.load_s)
            else:
                known.aspired = True
        self._models = {model.name: model for model in config.models}
        self._advance()

    def _settle(self, models: set[ModelName]) -> None:
        """A reload answers when every name that is new to the server has loaded or failed."""
        busy = (VersionState.START, VersionState.LOADING)
        while any(each.state in busy for (name, _), each in self._versions.items() if name in models and each.aspired):
            self.clock.pause(0.01)
            self._advance()

    def _advance(self) -> None:
        for key, version in self._versions.items():
            if version.state is VersionState.START:
                version.state = VersionState.LOADING
            if version.state is VersionState.LOADING and self.clock.seconds >= version.ready_at:
                version.error = self.broken.get(key, "")
                version.state = VersionState.END if version.error else VersionState.AVAILABLE
        for (model, _), version in self._versions.items():
            if version.aspired or version.state is not VersionState.AVAILABLE:
                continue
            others = [each for (name, _), each in self._versions.items() if name == model and each.aspired]
            # The old version serves until an aspired one does (AvailabilityPreservingPolicy).
            if not others or any(each.state is VersionState.AVAILABLE for each in others):
                version.state = VersionState.END
