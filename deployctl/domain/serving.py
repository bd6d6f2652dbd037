"""What a model server is asked to serve and what it says of it, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from deployctl.domain.names import LabelName, ModelName, VersionNumber


class VersionState(IntEnum):
    """ModelVersionStatus.State (tensorflow_serving/apis/get_model_status.proto)."""

    UNKNOWN = 0
    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What the server says of one version.

    Attributes:
        error: the server's own words; "" unless loading failed. END with "" is a normal unload.
    """

    version: VersionNumber
    state: VersionState
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether the version could not be loaded."""
        return self.state is VersionState.END and self.error != ""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model of a server's configuration.

    Attributes:
        base_path: absolute, as the server sees it.
        versions: which to load, ascending; always named one by one (`specific`).
        labels: version by label.
    """

    name: ModelName
    base_path: str
    versions: tuple[VersionNumber, ...]
    labels: Mapping[LabelName, VersionNumber] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServingConfig:
    """All that one server should serve: the fold of its models' current revisions, in name order."""

    models: tuple[ServedModel, ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where clients call: "http://127.0.0.1:8501" and "127.0.0.1:8500"; "" where there is none."""

    rest: str
    grpc: str


class PullPolicy(StrEnum):
    """When a container's image is fetched. MISSING: where the engine lacks it. ALWAYS: at each `up`."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class ServerCondition(StrEnum):
    """STOPPED: not running. UNREACHABLE: runs or should, but does not answer. READY: answers."""

    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class ServerState:
    """What is known of a target's server.

    Attributes:
        detail: facts of the runtime by name, in display order (pid, uptime, image digest).
        identity: which server it is, as the record of its start keeps it (container, image, digest); {} where the
            runtime does not tell.
    """

    condition: ServerCondition
    endpoints: Endpoints
    detail: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, str] = field(default_factory=dict)
