"""Values between the Docker runtime and the engine: how a container is made, and what the engine says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from deployctl.domain.names import TargetName
from deployctl.domain.serving import PullPolicy

GRPC_PORT = 8500
REST_PORT = 8501
CONFIG_DIRECTORY = "/etc/deployctl"
CONFIG_NAME = "models.config"
MONITORING_NAME = "monitoring.config"

TARGET_LABEL = "io.deployctl.target"
# Which state directory it belongs to: two projects on one engine may both have a target `local`.
PROJECT_LABEL = "io.deployctl.project"
# What it was made from: another value means that a setting has changed.
SPEC_LABEL = "io.deployctl.spec"
ROLE_LABEL = "io.deployctl.role"
# What its image was called when it was made: a name may come to mean another image.
IMAGE_LABEL = "io.deployctl.image"
# On containers that publish nothing and are reached at their own address.
ISOLATED_LABEL = "io.deployctl.isolated"
# On images of the embedded server, which has flags of its own.
OURS_LABEL = "io.deployctl.model-server"

SERVING_ROLE = "serving"
TRIAL_ROLE = "trial"


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    """How one target's container is made.

    Attributes:
        state_dir: holds `<target>/config/` with the server's configuration.
        repository: the directory that holds the models, as the engine's machine has it.
        image: by tag or digest.
        host: the address of the engine's machine that ports are published on.
        rest_port: 0 for one that is free at each start; so `grpc_port`.
        models_path: where the repository is mounted.
        memory: "4g", "" for no limit; so `cpus` ("1.5") and `tmp_size`.
        gpus: "all", a number, "device=0,1", or "".
        user: "" for who runs this, or, where that is root, for anybody but root.
        environment: "NAME=VALUE" each; so `log_options`.
        mounts: "SOURCE:PATH" each, read-only.
        stop_timeout_s: how long requests may take to finish when a container is replaced.
        isolated: whether it has a network of its own that leads nowhere, instead of published ports.
    """

    target: TargetName
    state_dir: Path
    repository: Path
    image: str
    pull: PullPolicy = PullPolicy.MISSING
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    models_path: str = "/models"
    restart: str = "unless-stopped"
    memory: str = ""
    cpus: str = ""
    gpus: str = ""
    network: str = ""
    user: str = ""
    environment: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    log_driver: str = "json-file"
    log_options: tuple[str, ...] = ("max-size=16m", "max-file=2")
    tmp_size: str = "64m"
    extra_args: tuple[str, ...] = ()
    stop_timeout_s: float = 15.0
    isolated: bool = False

    @property
    def directory(self) -> Path:
        """The target's own directory, absolute."""
        return self.state_dir.resolve() / self.target

    @property
    def project(self) -> str:
        """What tells this state directory from every other."""
        return hashlib.sha256(str(self.state_dir.resolve()).encode()).hexdigest()[:12]

    @property
    def container_name(self) -> str:
        """The name that the serving container has."""
        return f"deployctl-{self.target}-{self.project}"

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels by which the target's containers are found."""
        return {TARGET_LABEL: str(self.target), PROJECT_LABEL: self.project}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image on the engine.

    Attributes:
        id: "sha256:…" of its configuration.
        digest: "NAME@sha256:…" by which a registry knows it; its id where it came from none.
        user: as the image has it, "" for root.
        ours: whether it holds the embedded server.
    """

    id: str
    digest: str
    user: str
    ours: bool


@dataclass(frozen=True, slots=True)
class ContainerFacts:
    """A container on the engine.

    Attributes:
        status: "created", "running", "restarting", "paused", "exited" or "dead".
        health: "healthy", "unhealthy" or "starting" where its image checks itself, else "".
        started_at: RFC 3339, as the engine gives it.
        restarts: how often its restart policy has started it again.
        rest_address: host and port of the engine's machine, None where none is published now; so `grpc_address`.
        memory_limit: in bytes, 0 for none.
        pid: of its first process, on the engine's machine; 0 where it does not run.
    """

    id: str
    name: str
    status: str
    exit_code: int
    oom_killed: bool
    health: str
    started_at: str
    restarts: int
    image_id: str
    labels: Mapping[str, str]
    rest_address: tuple[str, int] | None
    grpc_address: tuple[str, int] | None
    memory_limit: int
    pid: int

    @property
    def running(self) -> bool:
        """Whether it is under way, or on its way back."""
        return self.status in {"running", "paused", "restarting"}

    @property
    def spec(self) -> str:
        """What it was made from."""
        return self.labels.get(SPEC_LABEL, "")

    @property
    def image_name(self) -> str:
        """What its image was called when it was made, "" where it does not say."""
        return self.labels.get(IMAGE_LABEL, "")

    @property
    def role(self) -> str:
        """Whether it serves or was only tried."""
        return self.labels.get(ROLE_LABEL, SERVING_ROLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """All that a container is made from; two equal ones make containers that differ in nothing.

    Attributes:
        image_name: what the image is called now, which says nothing of how the container is.
        mounts: source and path, all read-only.
    """

    image_id: str
    image_name: str = ""
    command: tuple[str, ...]
    host: str
    rest_port: int
    grpc_port: int
    mounts: tuple[tuple[str, str], ...]
    user: str
    restart: str
    memory: str
    cpus: str
    gpus: str
    network: str
    environment: tuple[str, ...]
    log_driver: str
    log_options: tuple[str, ...]
    tmp_size: str
    isolated: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """What tells it from a spec with other settings."""
        values = {name: value for name, value in asdict(self).items() if name != "image_name"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    def with_mounts(self, mounts: tuple[tuple[str, str], ...]) -> ContainerSpec:
        """Returns the same with other mounts."""
        return replace(self, mounts=mounts)


def container_spec(options: DockerOptions, image: ImageFacts, *, default_user: str) -> ContainerSpec:
    """Returns what `options` ask for, made from `image`; `default_user` is for options that name no user."""
    return ContainerSpec(
        image_id=image.id,
        image_name=options.image,
        command=server_flags(options, ours=image.ours),
        host=options.host,
        rest_port=options.rest_port,
        grpc_port=options.grpc_port,
        mounts=(
            (str(options.repository.resolve()), options.models_path),
            (str(options.directory / "config"), CONFIG_DIRECTORY),
            *(_pair(mount, ":") for mount in options.mounts),
        ),
        user=options.user or default_user,
        restart=options.restart,
        memory=options.memory,
        cpus=options.cpus,
        gpus=options.gpus,
        network=options.container_name if options.isolated else options.network,
        environment=options.environment,
        log_driver=options.log_driver,
        log_options=options.log_options,
        tmp_size=options.tmp_size,
        isolated=options.isolated,
        labels=options.labels,
    )


def server_flags(options: DockerOptions, *, ours: bool) -> tuple[str, ...]:
    """Returns what is appended to the image's entry point; the last of two equal flags counts.

    TensorFlow Serving's own defaults retry a failed load for five minutes, during which nothing else loads.
    """
    flags = (
        f"--model_config_file={CONFIG_DIRECTORY}/{CONFIG_NAME}",
        f"--monitoring_config_file={CONFIG_DIRECTORY}/{MONITORING_NAME}",
        "--num_load_threads=2",
        "--num_unload_threads=2",
        "--max_num_load_retries=1",
        "--load_retry_interval_micros=1000000",
        "--allow_version_labels_for_unavailable_models=true",
        "--file_system_poll_wait_seconds=1",
    )
    # The official server has no such flag, and ends without letting requests finish.
    drain = (f"--drain_timeout={max(1.0, options.stop_timeout_s - 2):g}",) if ours else ()
    return (*flags, *drain, *options.extra_args)


def named_values(pairs: tuple[str, ...]) -> dict[str, str]:
    """Returns "NAME=VALUE" texts by name."""
    return dict(_pair(pair, "=") for pair in pairs)


def repository_and_tag(name: str) -> tuple[str, str]:
    """Returns what a pull is asked for: without a tag the engine would pull all that there are."""
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def address_of(found: Mapping[str, Any], port: int) -> tuple[str, int] | None:
    """Returns where a port of a container is reached: as published, or, isolated, at its own address.

    Args:
        found: what the engine says of the container, as `docker inspect`.
        port: of the server, inside.
    """
    settings = found["NetworkSettings"]
    if ISOLATED_LABEL in (found["Config"].get("Labels") or {}):
        own = [str(each["IPAddress"]) for each in (settings.get("Networks") or {}).values() if each.get("IPAddress")]
        return (own[0], port) if own else None
    bindings = (settings.get("Ports") or {}).get(f"{port}/tcp")
    return (str(bindings[0]["HostIp"]), int(bindings[0]["HostPort"])) if bindings else None


def _pair(text: str, separator: str) -> tuple[str, str]:
    first, found, second = text.partition(separator)
    if not found or not first or not second.strip():
        from deployctl.errors import SettingsError

        raise SettingsError(f"{text!r} is not of the form NAME{separator}VALUE", hint="deployctl config show --origin")
    return first, second
