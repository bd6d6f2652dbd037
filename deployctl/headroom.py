"""What memory a target has left, as far as this machine can tell."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.config.settings import RuntimeName, TargetSettings
from deployctl.domain.size import parse_size
from deployctl.errors import DeployctlError, NotFoundError, UsageError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.names import ModelName, TargetName
    from deployctl.gates.resources import Headroom

_CALL_TIMEOUT_S = 5.0
# What Docker understands by one letter.
_DOCKER_UNITS = {"b": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def headroom(
    deployment: Deployment, name: TargetName | None, target: TargetSettings, model: ModelName | None
) -> Headroom:
    """Returns what the target's server may still use, and what unloading versions of `model` would give back."""
    from deployctl.gates.resources import Headroom

    live, standby = _loaded(deployment, name, model)
    limit = target.gate.resources.memory or (
        _docker_bytes(target.docker.memory) if target.runtime is RuntimeName.DOCKER else 0
    )
    if limit:
        used = _used(deployment, name)
        if used is None:
            return Headroom(None, "the server does not tell what it uses", live, standby)
        return Headroom(max(0, limit - used), f"left of {limit / 1e6:.0f} MB", live, standby)
    if target.runtime is RuntimeName.EXTERNAL:
        return Headroom(None, "somebody else's machine; set gate.resources.memory", live, standby)
    return Headroom(_machine_free(), "free on this machine", live, standby)


def _loaded(deployment: Deployment, name: TargetName | None, model: ModelName | None) -> tuple[int, int]:
    """Returns the estimated bytes of the live version of `model`, and of its others that are loaded."""
    from deployctl.gates.resources import directory_bytes

    if name is None or model is None:
        return 0, 0
    target = deployment.target(name)
    revision = target.recorded().get(model)
    if revision is None:
        return 0, 0
    sizes = {}
    for version in revision.desired.versions:
        with suppress(NotFoundError, OSError):
            sizes[version] = directory_bytes(target.repository.local_path(model, version))
    live = revision.desired.live(target.routing)
    return sum(size for version, size in sizes.items() if version == live), sum(
        size for version, size in sizes.items() if version != live
    )


def _used(deployment: Deployment, name: TargetName | None) -> int | None:
    """Returns what the target's server holds now, 0 where it is not running, None where it does not tell."""
    if name is None:
        return 0
    try:
        state = deployment.target(name).runtime.state(timeout_s=_CALL_TIMEOUT_S)
    except DeployctlError:
        return None
    if "memory" not in state.detail:
        return 0 if state.condition.value == "stopped" else None
    try:
        return parse_size(state.detail["memory"].partition(" of ")[0].replace("kB", "KB"))
    except UsageError:
        return None


def _docker_bytes(text: str) -> int:
    if text[-1:].lower() in _DOCKER_UNITS:
        return int(float(text[:-1]) * _DOCKER_UNITS[text[-1].lower()])
    return int(text or 0)


def _machine_free() -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
