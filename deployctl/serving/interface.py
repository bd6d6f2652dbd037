"""The ports to what serves: a target's runtime, and prediction calls to its server."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployctl.domain.lease import LeaseRecord
from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.revision import Desired
from deployctl.domain.saved_model import Signature
from deployctl.domain.serving import Endpoints, ServerCondition, ServerState, ServingConfig, VersionStatus


@dataclass(frozen=True, slots=True)
class ServedSpec:
    """Which servable a call means: by version, by label, or, with neither, the highest loaded version."""

    model: ModelName
    version: VersionNumber | None = None
    label: LabelName | None = None


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """A REST-shaped request: exactly one of `instances` (row) and `inputs` (column) is given.

    Attributes:
        signature: "" for the default.
    """

    spec: ServedSpec
    signature: str = ""
    instances: list[Any] | None = None
    inputs: Any = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The server's answer.

    Attributes:
        version: the version that answered, where the protocol says (gRPC), else None.
        outputs: JSON values: for row requests a list by instance, for column requests by output name
            or the one output's value.
    """

    version: VersionNumber | None
    outputs: Any


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """What a server has counted of the requests to one model, since it started or since another count.

    Attributes:
        failed: those of `total` that were not answered with OK.
        latency_s: seconds that the `timed` requests took together.
    """

    total: int = 0
    failed: int = 0
    latency_s: float = 0.0
    timed: int = 0

    def since(self, earlier: RequestCounts) -> RequestCounts:
        """Returns what was counted after `earlier`; all of it where the server was started in between."""
        if self.total < earlier.total:
            return self
        return RequestCounts(
            self.total - earlier.total,
            self.failed - earlier.failed,
            self.latency_s - earlier.latency_s,
            self.timed - earlier.timed,
        )


@dataclass(slots=True)
class Turn:
    """One change of what the target's server is told; see `Lease.turn`.

    Attributes:
        others: what other operations that are under way have applied, by model.
        applied: what this one has applied; to be set once the server has it.
    """

    others: Mapping[ModelName, Desired]
    applied: Desired | None = None


class Lease(abc.ABC):
    """The right to change one model on a target, or all of them."""

    @abc.abstractmethod
    def turn(self, *, timeout_s: float) -> AbstractContextManager[Turn]:
        """Keeps every other change of the target's server away while the block runs.

        Each change replaces the configuration of all models, so operations on several models take turns.

        Raises:
            LeaseLostError: the lease was released by somebody or ran out; nothing may be changed any more.
            LockedError: another operation's turn had not ended after `timeout_s` seconds.
        """


class TargetLock(abc.ABC):
    """Keeps operations on one target apart, by model. A lease ends with its holder's process, however that ends."""

    @abc.abstractmethod
    def hold(self, *, model: ModelName | None, purpose: str, timeout_s: float) -> AbstractContextManager[Lease]:
        """Holds a lease on `model`, or on the whole target, while the block runs.

        Args:
            model: None for the whole target.
            purpose: shown to whoever waits.
            timeout_s: how long to wait for another operation.

        Raises:
            LockedError: another operation still held it then; says who and what for.
            StorageError: leases cannot be kept.
        """

    @abc.abstractmethod
    def leases(self) -> tuple[LeaseRecord, ...]:
        """Returns the leases that are held, by model; one of the whole target first."""

    @abc.abstractmethod
    def clear(self) -> tuple[LeaseRecord, ...]:
        """Removes what holders left that are dead, which keeps nobody from anything, and returns it."""

    @abc.abstractmethod
    def release(self, model: ModelName | None) -> LeaseRecord:
        """Takes a lease from its holder, who changes nothing from then on, and returns it.

        Raises:
            NotFoundError: exactly this lease is not held.
        """


class ServingRuntime(abc.ABC):
    """One target's server: starts it, stops it, tells it what to serve, asks what it serves.

    Every call has a deadline in seconds. Errors: ServerUnavailableError where nothing answers in time,
    ServerError with the server's own words where it refuses.
    """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes what is open; the next call opens it again."""

    @abc.abstractmethod
    def up(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Starts the server with `config`, or finds the running one, and returns once it answers for every model.

        A running server is left as it is: `apply` changes what it serves.

        Raises:
            PortTakenError: another program listens on a port of the target.
            ServerStartError: the server ended, or was not ready in time; with its last log lines.
        """

    @abc.abstractmethod
    def down(self, *, timeout_s: float) -> bool:
        """Stops the server, letting requests in flight finish; returns whether there was one."""

    def restart(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Stops the server and starts it with `config`, and returns once it answers for every model.

        Raises:
            PortTakenError, ServerStartError: as `up`.
        """
        self.down(timeout_s=timeout_s)
        return self.up(config, timeout_s=timeout_s)

    @abc.abstractmethod
    def state(self, *, timeout_s: float) -> ServerState:
        """Returns what is known of the server; never raises for a server that is down."""

    def condition(self, *, timeout_s: float) -> ServerCondition:
        """Returns of `state` only how the server is, which some runtimes know sooner; never raises either."""
        return self.state(timeout_s=timeout_s).condition

    @abc.abstractmethod
    def apply(self, config: ServingConfig, *, timeout_s: float) -> None:
        """Writes `config` to the server's file, then sends the same; returning means accepted, not loaded."""

    @abc.abstractmethod
    def persist(self, config: ServingConfig) -> None:
        """Writes `config` to the file that the server starts from, without calling the server."""

    @abc.abstractmethod
    def written(self) -> ServingConfig | None:
        """Returns what the file says that the server starts from, None where deployctl does not write it.

        Raises:
            SettingsError: the file does not read, or says what deployctl would not write.
        """

    @abc.abstractmethod
    def statuses(self, model: ModelName, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Returns every version of `model` that the server has seen, descending; () if it knows none."""

    @abc.abstractmethod
    def answering_version(self, spec: ServedSpec, *, timeout_s: float) -> tuple[VersionNumber, Mapping[str, Signature]]:
        """Returns which version answers a call to `spec`, and its signatures as the server tells them.

        Raises:
            NotFoundError: the server serves no such model or version.
            InvalidRequestError: it knows no such label; its own words.
        """

    @abc.abstractmethod
    def request_counts(self, *, timeout_s: float) -> Mapping[ModelName, RequestCounts]:
        """Returns what the server has counted since it started of the requests to each model that was called.

        Raises:
            ServerRefusedError: it does not tell: it runs without --monitoring_config_file.
        """

    @abc.abstractmethod
    def predict(self, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        """Calls the server as a client would, by REST, or by gRPC.

        Raises:
            InvalidRequestError: the server refused the request as malformed (its own words), or knows no such label.
            NotFoundError: the server serves no such model or version.
        """

    @abc.abstractmethod
    def served_path(self, base_path: Path) -> str:
        """Returns where the server sees the repository directory `base_path`."""

    @abc.abstractmethod
    def logs(self, *, lines: int | None, since_s: float | None, follow: bool) -> Iterator[str]:
        """Yields log lines, oldest first: the last `lines`, those of the last `since_s` seconds, and new ones."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a server's container is made from.

    Attributes:
        name: as it was asked for, by tag or digest; "" where that is not known any more.
        id: "sha256:…" of its configuration.
        digest: "NAME@sha256:…" by which a registry knows it; its id where it came from none.
    """

    name: str
    id: str
    digest: str

    def __str__(self) -> str:
        return self.name or self.digest

    def to_json(self) -> dict[str, str]:
        """Returns JSON values for the record."""
        return {"name": self.name, "id": self.id, "digest": self.digest}


class ImageRuntime(ServingRuntime):
    """A runtime whose server comes in an image, which can be exchanged for another."""

    @abc.abstractmethod
    def running_image(self) -> Image | None:
        """Returns what the server is made from, None where it does not run."""

    @abc.abstractmethod
    def wanted_image(self) -> Image:
        """Returns what a new server would be made from, fetched as the settings say.

        Raises:
            EngineUnavailableError, ImageMissingError: it cannot be had.
        """

    @abc.abstractmethod
    def exchange(self, config: ServingConfig, *, timeout_s: float) -> float:
        """Puts a server of the wanted image in the place of the running one; returns the seconds without an answer.

        Raises:
            ServerError, EngineError: it did not come up; the one before it serves, as far as it can.
        """
