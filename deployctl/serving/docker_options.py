"""What the Docker runtime asks an engine for: how a container is made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from deployctl.domain.names import TargetName
from deployctl.domain.serving import PullPolicy
from deployctl.serving.docker_facts import ImageFacts
from deployctl.serving.docker_labels import PROJECT_LABEL, TARGET_LABEL

_NOBODY = "65534:65534"
CONFIG_DIRECTORY = "/etc/deployctl"
CONFIG_NAME = "models.config"
MONITORING_NAME = "monitoring.config"


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
        kept: whether a container that ended is left for inspection.
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
    kept: bool = True
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


def container_spec(options: DockerOptions, image: ImageFacts) -> ContainerSpec:
    """Returns what `options` ask for, made from `image`."""
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
        user=options.user or _default_user(image),
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


def _pair(text: str, separator: str) -> tuple[str, str]:
    first, found, second = text.partition(separator)
    if not found or not first or not second.strip():
        from deployctl.errors import SettingsError

        raise SettingsError(f"{text!r} is not of the form NAME{separator}VALUE", hint="deployctl config show --origin")
    return first, second


def _default_user(image: ImageFacts) -> str:
    """Returns who the server runs as where the settings name nobody: who may read the repository, and never root."""
    if os.geteuid():
        return f"{os.geteuid()}:{os.getegid()}"
    return _NOBODY if image.user.partition(":")[0] in {"", "0", "root"} else image.user
