"""The engine ends and comes back: the same versions and labels serve."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.support.docker import StoppableEngine
from tests.support.model_server import wait_until
from tests.support.models import TensorFlowModels
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]


def answers(workspace: Workspace, label: str) -> float | None:
    """What clients get, None while nobody answers."""
    try:
        return ask(workspace.rest(), "half", label=label)
    except (OSError, AssertionError, ValueError):
        return None


def test_after_an_engine_restart_the_same_versions_and_labels_serve(
    docker_workspace: MakeWorkspace, stoppable_engine: StoppableEngine
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2", "--canary")

    stoppable_engine.stop()
    words = workspace.fails(10, "promote", "half@2", hint="docker info")
    assert "does not answer" in words
    assert "does not answer" in workspace.run("status").stdout
    stoppable_engine.start()

    wait_until(lambda: answers(workspace, "stable") == 3.0, timeout_s=TIMEOUT_S, what="the label stable")
    assert answers(workspace, "canary") == 4.0
    assert workspace.json("status")["targets"][0]["models"][0]["drift"] == []


def test_an_engine_that_stops_in_the_middle_of_a_promotion_comes_back_with_what_was_live(
    docker_workspace: MakeWorkspace, stoppable_engine: StoppableEngine, tensorflow_models: TensorFlowModels
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, tensorflow_models.path("never_loaded"))
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    config = workspace.root / ".deployctl" / "local" / "config" / "models.config"
    promotion = workspace.start("promote", "half@2", stdout=subprocess.PIPE)
    wait_until(lambda: "versions: 2" in config.read_text(), timeout_s=TIMEOUT_S, what="the load")

    stoppable_engine.stop()
    _, words = promotion.communicate(timeout=TIMEOUT_S)

    assert promotion.returncode == 6, words
    assert "Traceback" not in words
    assert "hint:  " in words
    stoppable_engine.start()
    workspace.ok("up")
    assert ask(workspace.rest(), "half") == 3.0
    assert "versions: 2" not in config.read_text()
    assert workspace.json("status")["targets"][0]["models"][0]["drift"] == []
