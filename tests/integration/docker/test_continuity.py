"""However a container comes to be started again, it serves what was live."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from deployctl.domain.serving import ServerCondition, ServingConfig
from deployctl.errors import ServerExitedError, ServerUnavailableError, ServerUnhealthyError
from deployctl.serving.docker import Engine
from deployctl.serving.docker_labels import PROJECT_LABEL, ROLE_LABEL
from deployctl.serving.docker_process import memory_held
from deployctl.serving.docker_runtime import DockerRuntime
from deployctl.serving.ports import free_ports
from tests.support.docker import DockerPlace
from tests.support.model_server import wait_until
from tests.support.serving import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, answer, await_available, spec

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]


@pytest.fixture
def live(docker_place: DockerPlace) -> ServingConfig:
    """Two versions and a label, on a server that is up."""
    docker_place.add(HALF_PLUS_TWO, "m", 1)
    docker_place.add(HALF_PLUS_THREE, "m", 2)
    config = docker_place.config("m", 1, 2, stable=1)
    docker_place.runtime.up(ServingConfig(), timeout_s=TIMEOUT_S)
    docker_place.runtime.apply(docker_place.config("m", 1, 2), timeout_s=TIMEOUT_S)
    for version in (1, 2):
        await_available(docker_place.runtime, "m", version)
    docker_place.runtime.apply(config, timeout_s=TIMEOUT_S)
    return config


def containers(place: DockerPlace, engine: Any) -> list[Any]:
    """All containers of the place, newest first."""
    wanted = {"label": f"{PROJECT_LABEL}={place.options.project}"}
    return list(engine.containers.list(all=True, filters=wanted))


def serves_what_was_live(place: DockerPlace) -> None:
    runtime = place.again()

    def answers() -> bool:
        # gRPC may answer a moment before REST does.
        try:
            return bool(answer(runtime, spec("m", label="stable"), grpc=False) == 3.0)
        except ServerUnavailableError:
            return False

    wait_until(answers, timeout_s=TIMEOUT_S, what="the server")
    assert runtime.state(timeout_s=5).condition is ServerCondition.READY
    assert answer(runtime, spec("m"), grpc=True) == 4.0


def test_docker_restart_returns_to_the_same_versions_and_labels(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    containers(docker_place, docker_engine)[0].restart(timeout=5)

    serves_what_was_live(docker_place)


def test_a_server_that_is_killed_comes_back_by_itself(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    container = containers(docker_place, docker_engine)[0]

    os.kill(_pid(container), signal.SIGKILL)

    wait_until(lambda: _restarts(container) == 1, timeout_s=TIMEOUT_S, what="the restart")
    serves_what_was_live(docker_place)
    assert docker_place.again().state(timeout_s=5).detail["restarts"] == "1"


def test_up_after_docker_kill_serves_what_was_live(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    containers(docker_place, docker_engine)[0].kill()
    assert docker_place.again().state(timeout_s=5).condition is ServerCondition.UNREACHABLE

    docker_place.again().up(live, timeout_s=TIMEOUT_S)

    serves_what_was_live(docker_place)
    assert len(containers(docker_place, docker_engine)) == 1


def test_restart_keeps_the_container_and_its_log(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    before = containers(docker_place, docker_engine)[0].id

    docker_place.again().restart(live, timeout_s=TIMEOUT_S)

    serves_what_was_live(docker_place)
    assert [each.id for each in containers(docker_place, docker_engine)] == [before]
    assert sum("ready" in line for line in docker_place.again().logs(lines=None, since_s=None, follow=False)) == 2


def test_a_running_container_is_adopted_by_its_labels(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    before = containers(docker_place, docker_engine)[0].id

    docker_place.again().up(live, timeout_s=TIMEOUT_S)

    assert [each.id for each in containers(docker_place, docker_engine)] == [before]


def test_a_changed_setting_with_free_ports_starts_the_new_container_beside_the_old_one(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    before = containers(docker_place, docker_engine)[0].id
    heard: list[str] = []
    changed = DockerRuntime(docker_place.changed_options(memory="2g"), heard.append)

    changed.up(live, timeout_s=TIMEOUT_S)

    (now,) = containers(docker_place, docker_engine)
    assert now.id != before
    assert now.name == docker_place.options.container_name
    assert now.attrs["HostConfig"]["Memory"] == 2 * 2**30
    assert heard == ["local: its settings have changed; a new container starts beside the old one"]
    assert changed.state(timeout_s=5).detail["memory"].endswith("of 2.0 GiB")
    assert answer(changed, spec("m", label="stable"), grpc=False) == 3.0
    changed.close()


def test_a_changed_setting_on_the_same_ports_tells_how_long_nobody_was_answered(
    docker_place: DockerPlace, docker_engine: Any
) -> None:
    docker_place.add(HALF_PLUS_TWO, "m", 1)
    live = docker_place.config("m", 1, stable=1)
    rest_port, grpc_port = free_ports("127.0.0.1", 2)
    heard: list[str] = []
    first = docker_place.changed(rest_port=rest_port, grpc_port=grpc_port)
    first.up(live, timeout_s=TIMEOUT_S)

    changed = DockerRuntime(
        docker_place.changed_options(rest_port=rest_port, grpc_port=grpc_port, memory="2g"), heard.append
    )
    endpoints = changed.up(live, timeout_s=TIMEOUT_S)

    assert endpoints.rest == f"http://127.0.0.1:{rest_port}"
    assert "tried on other ports first" in heard[0]
    assert heard[1].endswith("passed without a server")
    assert answer(changed, spec("m", label="stable"), grpc=False) == 3.0
    assert len(containers(docker_place, docker_engine)) == 1
    first.close()
    changed.close()


def test_a_setting_that_cannot_work_leaves_the_old_container_serving(
    docker_place: DockerPlace, docker_engine: Any
) -> None:
    docker_place.add(HALF_PLUS_TWO, "m", 1)
    live = docker_place.config("m", 1, stable=1)
    rest_port, grpc_port = free_ports("127.0.0.1", 2)
    first = docker_place.changed(rest_port=rest_port, grpc_port=grpc_port)
    first.up(live, timeout_s=TIMEOUT_S)
    wrong = docker_place.changed(rest_port=rest_port, grpc_port=grpc_port, extra_args=("--no_such_flag=1",))

    with pytest.raises(ServerExitedError, match="no_such_flag"):
        wrong.up(live, timeout_s=TIMEOUT_S)

    assert answer(first, spec("m", label="stable"), grpc=False) == 3.0
    roles = sorted(each.labels[ROLE_LABEL] for each in containers(docker_place, docker_engine))
    assert roles == ["serving", "trial"]
    first.up(live, timeout_s=TIMEOUT_S)
    assert len(containers(docker_place, docker_engine)) == 1
    first.close()
    wrong.close()


def test_a_container_that_does_not_answer_is_told_as_unhealthy_and_mended_by_restart(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    containers(docker_place, docker_engine)[0].pause()
    assert docker_place.again().state(timeout_s=1).condition is ServerCondition.UNREACHABLE

    with pytest.raises(ServerUnhealthyError, match="paused") as raised:
        docker_place.again().up(live, timeout_s=TIMEOUT_S)

    assert raised.value.hint == "deployctl restart local"
    docker_place.again().restart(live, timeout_s=TIMEOUT_S)
    serves_what_was_live(docker_place)


def test_the_server_runs_without_rights_and_cannot_write(
    docker_place: DockerPlace, live: ServingConfig, docker_engine: Any
) -> None:
    found = containers(docker_place, docker_engine)[0].attrs

    assert found["Config"]["User"].partition(":")[0] not in {"", "0", "root"}
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["CapDrop"] == ["ALL"]
    assert found["HostConfig"]["SecurityOpt"] == ["no-new-privileges"]
    assert found["HostConfig"]["Init"]
    assert found["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"
    assert not any(mount["RW"] for mount in found["Mounts"])


def test_its_memory_is_what_the_engine_says(docker_place: DockerPlace, live: ServingConfig) -> None:
    engine = Engine()
    (found,) = engine.containers(docker_place.options.labels)

    assert memory_held(found) == pytest.approx(engine.memory_bytes(found), rel=0.1)

    engine.close()


def _pid(container: Any) -> int:
    container.reload()
    return int(container.attrs["State"]["Pid"])


def _restarts(container: Any) -> int:
    container.reload()
    return int(container.attrs["RestartCount"])
