"""Settings as frozen values; each field's metadata is its reference text.

A duration is in seconds; in the file it may also be written as "90s" or "5m".
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from deployctl.config.daemon_settings import (
    DaemonSettings,
    HealthSettings,
    InboxSettings,
    NotificationSettings,
    RuleSettings,
)
from deployctl.config.definition import DURATION, SIZE, setting
from deployctl.config.gate_settings import DEFAULT_ADVISORY_GATES, DEFAULT_GATES, GateSettings
from deployctl.domain.names import TargetName
from deployctl.domain.revision import Routing
from deployctl.domain.serving import PullPolicy

T = TypeVar("T")


class RuntimeName(StrEnum):
    """What runs a target's server."""

    PROCESS = "process"
    DOCKER = "docker"
    EXTERNAL = "external"


class Addressing(StrEnum):
    """Where the bucket's name is in a request: in the path, in the host name, or as the SDK finds best."""

    AUTO = "auto"
    PATH = "path"
    VIRTUAL = "virtual"


class Encryption(StrEnum):
    """How the store encrypts what it keeps: as the bucket says, with S3's own keys, or with a key of AWS KMS."""

    BUCKET = ""
    S3 = "AES256"
    KMS = "aws:kms"


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How a repository in an S3-compatible store is reached; credentials come from AWS's own chain, never from here."""

    endpoint_url: str = setting("URL of the store; empty: AWS.", default="")
    region: str = setting("Region of the bucket; empty: as AWS's own settings say.", default="")
    addressing: Addressing = setting(
        'Where the bucket\'s name is in a request: "path", "virtual" (in the host name) or "auto".',
        default=Addressing.AUTO,
    )
    profile: str = setting("Profile of AWS's own settings to take credentials from; empty: its default.", default="")
    sse: Encryption = setting(
        'How the store encrypts objects: "AES256", "aws:kms", or empty for what the bucket says.',
        default=Encryption.BUCKET,
    )
    kms_key_id: str = setting('Key for `sse = "aws:kms"`; empty: AWS\'s own for S3.', default="")
    storage_class: str = setting("Storage class of versions' files; empty: the store's default.", default="")
    requester_pays: bool = setting("Whether we pay for requests to somebody else's bucket.", default=False)
    tags: tuple[str, ...] = setting("Tags for versions' files, each `KEY=VALUE`.", default=())
    single_publisher: bool = setting(
        "Whether never two publish at a time, so that a store that ignores conditional puts will do.", default=False
    )
    deadline_s: float = setting(
        "How long one request may take, with all its repetitions.", default=120.0, kind=DURATION
    )
    connections: int = setting("How many requests are under way at the same time.", default=10)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where versions of a repository that is elsewhere are kept on this machine."""

    path: str = setting("Directory of the cache; relative to the settings file; empty: below `state_dir`.", default="")
    max_size: int = setting(
        'What the cache\'s files are kept below by removing what served longest ago, such as "50GiB"; 0: no bound. '
        "What serves, stands by or is labelled is never removed, nor what was asked for within the last 15 minutes.",
        default=0,
        kind=SIZE,
    )


@dataclass(frozen=True, slots=True)
class RepositorySettings:
    """Where published models live."""

    model_base_path: str = setting(
        "Directory of the repository, relative to the settings file, or `s3://BUCKET/PREFIX`. Versions are "
        "`<model_base_path>/<model>/<version>/`.",
        default="models",
    )
    retired_s: float = setting(
        "How long what was retired can be got back; `gc` removes it then.", default=7 * 24 * 3600.0, kind=DURATION
    )
    s3: S3Settings = field(default_factory=S3Settings)
    cache: CacheSettings = field(default_factory=CacheSettings)


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
class DockerSettings:
    """How a target's container is made, where `runtime` is "docker"."""

    pull: PullPolicy = setting(
        'When the image is pulled: "missing" (if the engine does not have it), "always" (at each `up`) or "never".',
        default=PullPolicy.MISSING,
    )
    models_path: str = setting("Where the repository is mounted in the container, read-only.", default="/models")
    restart: str = setting(
        'What the engine does when the server ends: "no", "on-failure", "always" or "unless-stopped".',
        default="unless-stopped",
    )
    memory: str = setting('Memory limit, such as "4g"; without swap. Empty: none.', default="")
    cpus: str = setting('How many processors it may use, such as "1.5". Empty: all.', default="")
    gpus: str = setting('GPUs: "all", a number, or "device=0,1". Empty: none.', default="")
    network: str = setting("User-defined network to join. Empty: the engine's default bridge.", default="")
    user: str = setting(
        "User, and group, that the server runs as, such as `1000:1000`. Empty: who runs deployctl; where that is root, "
        "the image's own user, or 65534:65534 where that is root too.",
        default="",
    )
    environment: tuple[str, ...] = setting("Variables for the server, each NAME=VALUE.", default=())
    mounts: tuple[str, ...] = setting(
        "Further files and directories for the server, read-only, each SOURCE:PATH.", default=()
    )
    log_driver: str = setting("Log driver. Empty: the engine's default.", default="json-file")
    log_options: tuple[str, ...] = setting(
        "Options of the log driver, each NAME=VALUE.", default=("max-size=16m", "max-file=2")
    )
    tmp_size: str = setting("Size of the server's /tmp; the rest of its file system is read-only.", default="64m")


@dataclass(frozen=True, slots=True)
class ExternalSettings:
    """A server that someone else runs, where `runtime` is "external"."""

    models_path: str = setting("Where the server sees the repository. Empty: where deployctl sees it.", default="")
    config_file: str = setting(
        "The ModelServerConfig that the server starts from; deployctl replaces it. Empty: whoever runs the server "
        "keeps that, and a restart loses what was changed.",
        default="",
    )
    rest_url: str = setting(
        "URL of the REST API, such as `https://serving.example.com`. Empty: made of `host` and `rest_port`.", default=""
    )
    tls: bool = setting("Whether gRPC is called with TLS.", default=False)
    tls_ca_file: str = setting("Certificates to trust, in PEM. Empty: the system's.", default="")
    tls_cert_file: str = setting("Certificate to show to the server, in PEM. Empty: none.", default="")
    tls_key_file: str = setting("Private key of that certificate, in PEM.", default="")


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """A named place that serves."""

    runtime: RuntimeName = setting(
        'What runs the server: "process" is the embedded model server, a child process on this machine; "docker" a '
        'container; "external" someone else.',
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
    soak_s: float = setting(
        "How long a version must have served to be what a rollback without a version returns to.",
        default=0.0,
        kind=DURATION,
    )
    resource_preserving: tuple[str, ...] = setting(
        "Models too big to be in memory twice: the old version is let go before the new one is loaded, and nobody is "
        'answered in between. `["*"]` for all.',
        default=(),
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
    image: str = setting(
        'Image of the container, where `runtime` is "docker"; by digest (`NAME@sha256:…`) it is always the same.',
        default="tensorflow/serving:2.19.1",
    )
    gates: tuple[str, ...] = setting(
        "Gates that a version must pass before it is promoted, in this order; each may be one of deployctl's or of a "
        "package that brings some.",
        default=DEFAULT_GATES,
    )
    advisory_gates: tuple[str, ...] = setting(
        "Gates that are asked too, unless `gates` is empty: a promotion only tells what they refuse. `validate` exits "
        "with 3 for these as well.",
        default=DEFAULT_ADVISORY_GATES,
    )
    gate: GateSettings = field(default_factory=GateSettings)
    docker: DockerSettings = field(default_factory=DockerSettings)
    external: ExternalSettings = field(default_factory=ExternalSettings)
    health: HealthSettings = field(default_factory=HealthSettings)


# Tables of which there is one, and tables of which there is one for each name.
SECTIONS: Mapping[str, type] = {
    "repository": RepositorySettings,
    "lineage": LineageSettings,
    "daemon": DaemonSettings,
}
NAMED: Mapping[str, type] = {
    "targets": TargetSettings,
    "inboxes": InboxSettings,
    "rules": RuleSettings,
    "notifications": NotificationSettings,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set.

    Attributes:
        root: the directory that relative paths are relative to: the settings file's, or the working directory.
        targets: in the file's order, as are the other tables by name.
    """

    root: Path
    repository: RepositorySettings = field(default_factory=RepositorySettings)
    lineage: LineageSettings = field(default_factory=LineageSettings)
    daemon: DaemonSettings = field(default_factory=DaemonSettings)
    state_dir: str = setting(
        "Directory for servers' configuration, logs and locks; relative to the settings file.", default=".deployctl"
    )
    default_target: str = setting(
        "The target that commands mean when none is named; empty: the only one, or the first.", default=""
    )
    targets: Mapping[TargetName, TargetSettings] = field(default_factory=dict)
    inboxes: Mapping[str, InboxSettings] = field(default_factory=dict)
    rules: Mapping[str, RuleSettings] = field(default_factory=dict)
    notifications: Mapping[str, NotificationSettings] = field(default_factory=dict)

    @property
    def repository_scheme(self) -> str:
        """What kind of store the repository is in: "s3", or "" for a directory."""
        scheme, separator, _ = self.repository.model_base_path.partition("://")
        return scheme if separator else ""

    @property
    def repository_location(self) -> str:
        """Where the repository is: its absolute directory, or its URL."""
        return self.repository.model_base_path if self.repository_scheme else str(self.model_base_path)

    @property
    def model_base_path(self) -> Path:
        """The absolute directory that servers on this machine read: the repository's, or that of its cache."""
        if not self.repository_scheme:
            return self.root / self.repository.model_base_path
        return self.root / self.repository.cache.path if self.repository.cache.path else self.state_path / "cache"

    @property
    def state_path(self) -> Path:
        """The absolute state directory."""
        return self.root / self.state_dir


def leaves(owner: type, prefix: str = "") -> Iterator[tuple[str, Field[Any], Any]]:
    """Yields dotted name, field and type of every setting of `owner`, those of its sub-tables included."""
    types = typing.get_type_hints(owner)
    for each in fields(owner):
        kind = types[each.name]
        if "doc" in each.metadata:
            yield f"{prefix}{each.name}", each, kind
        elif is_dataclass(kind):
            yield from leaves(kind if isinstance(kind, type) else type(kind), f"{prefix}{each.name}.")


def built(owner: type[T], values: Mapping[str, Any], prefix: str) -> T:
    """Returns `owner` with the values of its settings, which `values` holds by dotted name after `prefix`."""
    types = typing.get_type_hints(owner)
    return owner(
        **{
            each.name: values[f"{prefix}{each.name}"]
            if "doc" in each.metadata
            else built(types[each.name], values, f"{prefix}{each.name}.")
            for each in fields(owner)  # type: ignore[arg-type]
        }
    )
