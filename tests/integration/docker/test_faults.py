"""What is broken on purpose around a container: disks, loads and requests while things change."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.closed_loop import ClosedLoop
from tests.support.models import TensorFlowModels
from tests.support.workspace import COMMAND, HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]
CHANGES = int(os.environ.get("DEPLOYCTL_SOAK_CHANGES", "10"))


def config_of(workspace: Workspace) -> str:
    """The file that the server starts from."""
    return (workspace.root / ".deployctl" / "local" / "config" / "models.config").read_text()


@pytest.mark.slow
def test_no_request_fails_during_promotions_and_rollbacks(docker_workspace: MakeWorkspace) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    client = ClosedLoop(workspace.rest(), "/v1/models/half/labels/stable:predict")

    with client.running():
        for _ in range(CHANGES // 2):
            workspace.ok("promote", "half@2")
            workspace.ok("rollback", "half")

    assert client.failures == []
    assert set(client.answers) == {3.0, 4.0}


def test_three_targets_on_one_engine_serve_what_each_was_told(tmp_path: Path, serving_image: str) -> None:
    from tests.support.docker import let_in

    let_in(tmp_path)
    target = f'runtime = "docker"\nimage = "{serving_image}"\nrest_port = 0\ngrpc_port = 0\ngates = []\n'
    names = ("staging", "canary", "production")
    text = "".join(f"[targets.{name}]\n{target}" for name in names)
    workspace = Workspace.make(tmp_path / "work", targets=text)
    try:
        workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
        for name, version in zip(names, (2, 1, 1), strict=True):
            workspace.ok("up", name)
            workspace.ok("promote", f"half@{version}", "--target", name)
        workspace.ok("promote", "half@2", "--target", "canary")
        workspace.ok("down", "staging")
        workspace.ok("rollback", "half", "--target", "canary")
        workspace.ok("restart", "production")

        assert ask(workspace.rest("canary"), "half") == 3.0
        assert ask(workspace.rest("production"), "half") == 3.0
        workspace.ok("up", "staging")
        assert ask(workspace.rest("staging"), "half") == 4.0
    finally:
        for name in names:
            workspace.run("down", name, "--timeout", "2s")


def test_a_model_that_never_finishes_loading_is_taken_back_and_restart_is_offered(
    docker_workspace: MakeWorkspace, tensorflow_models: TensorFlowModels
) -> None:
    workspace = docker_workspace(settings='stop_timeout_s = "1s"\n')
    workspace.publish("half", HALF_PLUS_TWO)
    workspace.publish("never", tensorflow_models.path("never_loaded"))
    workspace.ok("up")
    workspace.ok("promote", "half@1")

    words = workspace.fails(5, "promote", "never@1", "--timeout", "2s", hint="deployctl restart local")

    assert "had not finished a reload after" in words
    assert ask(workspace.rest(), "half") == 3.0
    assert "never" not in config_of(workspace)
    workspace.ok("restart")
    assert ask(workspace.rest(), "half") == 3.0


@pytest.mark.parametrize("place", [".deployctl", "models"])
def test_on_a_read_only_disk_nothing_changes_for_clients(docker_workspace: MakeWorkspace, place: str) -> None:
    if subprocess.run(["sh", "-c", "unshare --mount true"], capture_output=True, timeout=TIMEOUT_S).returncode:
        pytest.skip("only root may make a directory read-only for one program")
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    rest, before = workspace.rest(), config_of(workspace)

    done = {verb: _read_only(workspace, place, *words) for verb, words in VERBS.items()}

    for verb, each in done.items():
        assert "Traceback" not in each.stderr, (verb, each.stderr)
    if place == "models":
        # A promotion writes nothing there.
        assert {verb: each.returncode for verb, each in done.items()} == {"publish": 10, "promote": 0, "status": 0}
        assert ask(rest, "half") == 4.0
    else:
        assert done["promote"].returncode == 10, done["promote"].stderr
        assert "Read-only file system" in done["promote"].stderr
        assert done["status"].returncode == 0, done["status"].stderr
        assert ask(rest, "half") == 3.0
        assert config_of(workspace) == before
    workspace.ok("promote", "half@2")
    assert ask(rest, "half") == 4.0


VERBS = {
    "publish": ("publish", str(HALF_PLUS_TWO), "--model", "other"),
    "promote": ("promote", "half@2"),
    "status": ("status",),
}


def _read_only(workspace: Workspace, place: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command for which a directory of the workspace is on a read-only disk; the engine writes on."""
    bound = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", bound, str(workspace.root / place), *COMMAND, *words],
        cwd=workspace.root,
        env=workspace.child_environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
