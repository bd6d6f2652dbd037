"""Settings as frozen values; each field's metadata is its reference text.

A duration is in seconds; in the file it may also be written as "90s" or "5m".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from deployctl.domain.names import TargetName
from deployctl.domain.revision import Routing

# The mark of a float field that takes durations.
DURATION = "duration"


class RuntimeName(StrEnum):
    """What runs a target's server."""

    PROCESS = "process"


def setting(doc: str, *, default: Any, kind: str = "") -> Any:
    """Returns a dataclass field with its reference text; `kind` is DURATION for seconds."""
    return field(default=default, metadata={"doc": doc, "kind": kind})


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """Where published models live."""

    model_base_path: str = setting(
        "Directory of the repository; relative to the settings file. Versions are "
        "`<model_base_path>/<model>/<version>/`.",
        default="models",
    )


@dataclass(frozen=True, slots=True)
class LineageSettings:
    """Where events and revisions are recorded."""

    url: str = setting(
        "SQLAlchemy URL of the lineage database; a relative SQLite path is relative to the settings file.",
        default="sqlite:///deployctl.db",
    )
    busy_timeout_s: float = setting(
        "How long to wait for another program that has the database locked.", default=5.0, kind=DURATION
    )


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """A named place that serves."""

    runtime: RuntimeName = setting(
        'What runs the server: "process" is the embedded model server, a child process on this machine.',
        default=RuntimeName.PROCESS,
    )
    routing: Routing = setting(
        'How clients call: "label" (by the label `stable`) or "latest" (naming no version, '
        "so that the highest loaded one answers).",
        default=Routing.LABEL,
    )
    host: str = setting("Address that the server listens on.", default="127.0.0.1")
    rest_port: int = setting("Port of the REST API; 0 takes a free one at each start.", default=8501)
    grpc_port: int = setting("Port of the gRPC API; 0 takes a free one at each start.", default=8500)
    warm_standby: int = setting(
        "How many earlier versions stay loaded after a promotion, for a rollback without loading.", default=1
    )
    load_timeout_s: float = setting(
        "How long a version may take to become AVAILABLE before the change is undone.", default=300.0, kind=DURATION
    )
    start_timeout_s: float = setting(
        "How long the server may take to answer after it was started.", default=120.0, kind=DURATION
    )
    stop_timeout_s: float = setting(
        "How long requests in flight may take to finish when the server is stopped.", default=15.0, kind=DURATION
    )
    lock_timeout_s: float = setting(
        "How long to wait for another operation on this target.", default=10.0, kind=DURATION
    )
    server_args: tuple[str, ...] = setting("Further flags for the model server.", default=())


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set.

    Attributes:
        root: the directory that relative paths are relative to: the settings file's, or the working directory.
        targets: in the file's order.
    """

    root: Path
    repository: RepositorySettings = field(default_factory=RepositorySettings)
    lineage: LineageSettings = field(default_factory=LineageSettings)
    state_dir: str = setting(
        "Directory for servers' configuration, logs and locks; relative to the settings file.", default=".deployctl"
    )
    default_target: str = setting(
        "The target that commands mean when none is named; empty: the only one, or the first.", default=""
    )
    targets: Mapping[TargetName, TargetSettings] = field(default_factory=dict)

    @property
    def model_base_path(self) -> Path:
        """The repository's absolute directory."""
        return self.root / self.repository.model_base_path

    @property
    def state_path(self) -> Path:
        """The absolute state directory."""
        return self.root / self.state_dir
