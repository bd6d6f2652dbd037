"""What an engine says of its containers and images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployctl.errors import EngineError
from deployctl.serving.docker_labels import (
    IMAGE_LABEL,
    ISOLATED_LABEL,
    OURS_LABEL,
    ROLE_LABEL,
    SERVING_ROLE,
    SPEC_LABEL,
)

# The server's, inside its container.
GRPC_PORT = 8500
REST_PORT = 8501
_MICRO = re.compile(r"(\.\d{1,6})\d*")


class GoneError(EngineError):
    """The engine does not know the container, or no more."""


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


def image_facts(found: Mapping[str, Any]) -> ImageFacts:
    """Returns what `docker image inspect` says."""
    configuration = found.get("Config") or {}
    digests = found.get("RepoDigests") or [found["Id"]]
    labels = configuration.get("Labels") or {}
    return ImageFacts(str(found["Id"]), str(digests[0]), str(configuration.get("User") or ""), OURS_LABEL in labels)


def container_facts(found: Mapping[str, Any]) -> ContainerFacts:
    """Returns what `docker inspect` says."""
    state = found["State"]
    rest, grpc = (_address_of(found, port) for port in (REST_PORT, GRPC_PORT))
    return ContainerFacts(
        id=str(found["Id"]),
        name=str(found["Name"]).lstrip("/"),
        status=str(state["Status"]),
        exit_code=int(state["ExitCode"]),
        oom_killed=bool(state["OOMKilled"]),
        health=str((state.get("Health") or {}).get("Status", "")),
        started_at=_MICRO.sub(r"\1", str(state["StartedAt"])),
        restarts=int(found.get("RestartCount", 0)),
        image_id=str(found["Image"]),
        labels=found["Config"].get("Labels") or {},
        rest_address=rest,
        grpc_address=grpc,
        memory_limit=int(found["HostConfig"].get("Memory") or 0),
        pid=int(state.get("Pid") or 0),
    )


def _address_of(found: Mapping[str, Any], port: int) -> tuple[str, int] | None:
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
