"""A daemon looks after a container's server: its memory, its restarts, and a version that lets it end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.api import api_of, eventually, metrics, new_token
from tests.support.daemon import daemon
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

LIMIT = 600 * 2**20
STARTS = 'deployctl_target_starts_total{target="local"}'
MEMORY = 'deployctl_target_memory_bytes{target="local"}'
WATCHED = 'deployctl_model_probe_ok{target="local",model="half",version="2"}'
DAEMON = '[daemon]\nreconcile_interval_s = "1s"\n'


def test_memory_and_restarts_are_counted_and_a_version_that_lets_its_server_end_twice_is_taken_back(
    docker_workspace: Callable[..., Workspace], docker_engine: Any
) -> None:
    health = '[targets.local.health]\nsoak_s = "10m"\nprobe_interval_s = "1s"\n'
    workspace = docker_workspace(docker=f'memory = "{LIMIT}"\n{DAEMON}', settings=health)
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    token = new_token(workspace, "prometheus", "viewer")
    (target,) = workspace.json("status", "local")["targets"]
    container = docker_engine.containers.get(target["detail"]["container"].split()[0])
    with daemon(workspace) as running:
        api = api_of(running, token)
        held = eventually(lambda: metrics(api).get(MEMORY))
        assert held == pytest.approx(shown_by_docker(container), rel=0.5)
        assert held < LIMIT
        workspace.ok("promote", "half@2")
        eventually(lambda: WATCHED in metrics(api))
        assert metrics(api)[STARTS] == 0

        for times in (1, 2):
            kill(container)
            eventually(lambda: metrics(api)[STARTS] >= times)  # noqa: B023
        running.await_line("half@2 let the server end")
        eventually(lambda: newest_change(workspace)["reason"].startswith("soak: let the server end"))
        eventually(lambda: workspace.run("status").returncode == 0)

        assert ask(workspace.rest(), "half") == 3.0
        assert running.stop() == 0


def shown_by_docker(container: Any) -> int:
    """Returns the bytes that `docker stats` shows: without files that were read and can be dropped at any time."""
    found = container.stats(stream=False)["memory_stats"]
    dropped = found["stats"].get("total_inactive_file", found["stats"].get("inactive_file", 0))
    return int(found["usage"] - dropped)


def kill(container: Any) -> None:
    """Ends the container's process as the kernel does where memory runs out; its restart policy starts it again."""
    container.reload()
    os.kill(int(container.attrs["State"]["Pid"]), signal.SIGKILL)


def newest_change(workspace: Workspace) -> dict[str, Any]:
    events = workspace.json("history", "half")["events"]
    found: dict[str, Any] = next(each for each in events if each["kind"] == "revision.serving")
    return found
