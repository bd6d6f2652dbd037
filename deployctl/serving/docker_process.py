"""What the kernel of this machine says of a container's processes, where the engine is on it."""

from __future__ import annotations

from pathlib import Path

from deployctl.serving.docker_facts import ContainerFacts

_CGROUPS = Path("/sys/fs/cgroup")


def memory_held(container: ContainerFacts) -> int | None:
    """Returns what the container holds, in bytes, without file pages that can be dropped.

    The engine gives the same number, but only once a second. None where the container is not of this machine.
    """
    try:
        lines = Path(f"/proc/{container.pid}/cgroup").read_text().splitlines()
        for line in lines:
            number, controllers, path = line.split(":", 2)
            if container.id not in path:
                continue
            if "memory" in controllers.split(","):
                return _held(_CGROUPS / "memory" / path.lstrip("/"), "memory.usage_in_bytes", "total_inactive_file")
            if number == "0" and len(lines) == 1:
                return _held(_CGROUPS / path.lstrip("/"), "memory.current", "inactive_file")
    except (OSError, ValueError):
        return None
    return None


def _held(directory: Path, usage: str, dropped: str) -> int:
    counts = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
    return max(0, int((directory / usage).read_text()) - int(counts.get(dropped, 0)))


def innermost_process(container: ContainerFacts) -> int:
    """Returns the server's own process below a container's first one, which is the engine's init; 0 for none."""
    pid = container.pid
    while pid:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        except OSError:
            return 0
        if not children:
            return pid
        pid = int(children[0])
    return 0
