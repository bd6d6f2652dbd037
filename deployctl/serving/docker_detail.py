"""What `status` tells of a container."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

from deployctl.domain.duration import format_duration
from deployctl.errors import EngineError
from deployctl.serving.docker import Engine
from deployctl.serving.docker_facts import ContainerFacts, ImageFacts
from deployctl.serving.docker_launch import size
from deployctl.serving.docker_options import DockerOptions
from deployctl.serving.docker_process import innermost_process, memory_held


def detail(
    container: ContainerFacts, image: ImageFacts | None, options: DockerOptions, engine: Engine
) -> dict[str, str]:
    """Returns facts by name, in display order; `image` is None where the engine has it no more."""
    told = {"container": f"{container.id[:12]} ({container.status})", "image": container.image_name or options.image}
    if image is not None:
        told["digest"] = image.digest
    if container.health:
        told["health"] = container.health
    if not container.running:
        told["ended"] = "OOMKilled" if container.oom_killed else f"exit code {container.exit_code}"
        return told
    up_s = (datetime.now(UTC) - datetime.fromisoformat(container.started_at)).total_seconds()
    told["uptime"] = format_duration(max(0.0, up_s))
    told["restarts"] = str(container.restarts)
    if options.isolated and (pid := innermost_process(container)):
        told["pid"] = str(pid)
    with contextlib.suppress(EngineError):
        limit = f" of {size(container.memory_limit)}" if container.memory_limit else ""
        held = memory_held(container)
        told["memory"] = f"{size(engine.memory_bytes(container) if held is None else held)}{limit}"
    return told


def identity(container: ContainerFacts, image: ImageFacts | None) -> dict[str, str]:
    """Returns which container it is, and what it really runs, for the record."""
    return {"container": container.id, "image": container.image_id, "digest": image.digest if image else ""}
