"""What goes wrong around a container is said in words, and nothing that serves is taken away."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployctl.domain.serving import PullPolicy, ServingConfig
from deployctl.errors import (
    ImageMissingError,
    PortTakenError,
    ServerExitedError,
    ServerOutOfMemoryError,
    SettingsError,
)
from deployctl.serving.docker import Engine
from deployctl.serving.docker_labels import PROJECT_LABEL
from deployctl.serving.ports import free_ports
from tests.support.docker import DockerPlace
from tests.support.models import TensorFlowModels
from tests.support.serving import HALF_PLUS_TWO, TIMEOUT_S, answer, spec
from tests.support.workspace import HALF_PLUS_THREE, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]


def test_an_engine_that_does_not_answer_is_told_with_its_address(
    docker_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    rest = workspace.rest()
    away = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}

    words = workspace.fails(10, "promote", "half@1", environment=away, hint="docker info")

    assert f"{tmp_path}/no.sock does not answer" in words
    assert ask(rest, "half") == 3.0


def test_an_image_that_is_not_there_changes_nothing(docker_place: DockerPlace) -> None:
    absent = docker_place.changed(image="deployctl/no-such-image:1", pull=PullPolicy.NEVER)

    with pytest.raises(ImageMissingError, match=re.escape("deployctl/no-such-image:1")) as raised:
        absent.up(ServingConfig(), timeout_s=TIMEOUT_S)

    assert raised.value.exit_code == 9
    assert raised.value.hint == "docker pull deployctl/no-such-image:1"
    absent.close()


def test_a_port_that_another_program_holds_is_named(docker_place: DockerPlace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        wanted = docker_place.changed(rest_port=port)

        with pytest.raises(PortTakenError, match=str(port)):
            wanted.up(ServingConfig(), timeout_s=TIMEOUT_S)

    wanted.up(ServingConfig(), timeout_s=TIMEOUT_S)
    wanted.close()


def test_a_container_that_ends_at_its_start_is_kept_with_its_words(docker_place: DockerPlace) -> None:
    wrong = docker_place.changed(extra_args=("--no_such_flag=1",))

    with pytest.raises(ServerExitedError, match="no_such_flag") as raised:
        wrong.up(ServingConfig(), timeout_s=TIMEOUT_S)

    assert raised.value.status != 0
    assert "no_such_flag" in "".join(list(wrong.logs(lines=None, since_s=None, follow=False)))
    docker_place.runtime.up(ServingConfig(), timeout_s=TIMEOUT_S)
    wrong.close()


def test_a_limit_that_is_too_small_is_told_as_such(docker_place: DockerPlace) -> None:
    small = docker_place.changed(memory="24m")

    with pytest.raises(ServerOutOfMemoryError, match="24 MiB") as raised:
        small.up(ServingConfig(), timeout_s=TIMEOUT_S)

    assert "targets.local.docker.memory" in str(raised.value.hint)
    small.close()


def test_a_version_that_does_not_fit_beside_the_old_one_is_taken_back(
    docker_workspace: Callable[..., Workspace], tensorflow_models: TensorFlowModels
) -> None:
    workspace = docker_workspace(docker='memory = "256m"\n')
    workspace.publish("half", HALF_PLUS_TWO, tensorflow_models.path("hungry"))
    workspace.ok("up")
    workspace.ok("promote", "half@1")

    words = workspace.fails(5, "promote", "half@2", hint="targets.local.docker.memory=SIZE up local")

    assert "(OOMKilled): the limit of its container is 256 MiB; @1 was restored and verified" in words
    assert ask(workspace.rest(), "half") == 3.0
    assert "versions: 2" not in (workspace.root / ".deployctl" / "local" / "config" / "models.config").read_text()


@pytest.mark.parametrize(
    ("setting", "value"), [("cpus", "many"), ("gpus", "some"), ("environment", ("A",)), ("memory", "4 gigs")]
)
def test_a_setting_that_is_not_understood_is_named(docker_place: DockerPlace, setting: str, value: object) -> None:
    odd = docker_place.changed(**{setting: value})

    with pytest.raises(SettingsError):
        odd.up(ServingConfig(), timeout_s=TIMEOUT_S)

    odd.close()


def test_an_isolated_server_reaches_nothing_and_leaves_no_network(
    docker_place: DockerPlace, docker_engine: Any
) -> None:
    docker_place.add(HALF_PLUS_TWO, "m", 1)
    apart = docker_place.changed(isolated=True)
    apart.up(docker_place.config("m", 1, stable=1), timeout_s=TIMEOUT_S)
    engine = Engine()
    (found,) = engine.containers(docker_place.options.labels)

    assert answer(apart, spec("m", label="stable"), grpc=False) == 3.0
    assert answer(apart, spec("m", label="stable"), grpc=True) == 3.0
    wanted = {"label": f"{PROJECT_LABEL}={docker_place.options.project}"}
    (network,) = docker_engine.networks.list(filters=wanted)
    # The engine drops what comes from such a network and is not for this machine.
    assert network.attrs["Internal"]
    inside = docker_engine.containers.get(found.id).attrs
    assert list(inside["NetworkSettings"]["Networks"]) == [network.name]
    assert not any(inside["NetworkSettings"]["Ports"].values())
    apart.down(timeout_s=5)
    assert docker_engine.networks.list(filters=wanted) == []
    engine.close()
    apart.close()


def test_a_rollback_and_a_promotion_reach_a_server_whose_engine_is_away(
    docker_workspace: Callable[..., Workspace], tmp_path: Path
) -> None:
    rest, grpc = free_ports("127.0.0.1", 2)
    workspace = docker_workspace(ports=(rest, grpc))
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")
    away = {"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}
    assert ask(f"http://127.0.0.1:{rest}", "half") == 4.0

    result = workspace.json("rollback", "half", environment=away)

    assert (result["outcome"], result["version"]) == ("serving", 1)
    assert ask(f"http://127.0.0.1:{rest}", "half") == 3.0
    shown = workspace.run("status", environment=away)
    assert (shown.returncode, "no.sock does not answer" in shown.stdout) == (0, True)
    assert workspace.json("status")["targets"][0]["models"][0]["live"] == 1

    assert workspace.json("promote", "half@2", environment=away)["outcome"] == "serving"

    assert ask(f"http://127.0.0.1:{rest}", "half") == 4.0


def test_a_network_that_the_engine_lacks_is_named(docker_workspace: Callable[..., Workspace]) -> None:
    workspace = docker_workspace(docker='network = "no-such-network"\n')

    words = workspace.fails(10, "up", hint="docker network create no-such-network")

    assert "has no network no-such-network" in words
