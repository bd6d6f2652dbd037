"""`validate --images`: a version is tried in several images before one of them becomes the server."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.workspace import HALF_PLUS_TWO, Workspace, with_unknown_op

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture
def second_image(docker_engine: Any, serving_image: str) -> Iterator[str]:
    """Another image that serves."""
    yield from committed(docker_engine, serving_image, 'LABEL "another"="1"')


@pytest.fixture
def broken_image(docker_engine: Any, serving_image: str) -> Iterator[str]:
    """An image whose server ends at once."""
    yield from committed(docker_engine, serving_image, 'ENTRYPOINT ["/bin/false"]')


def committed(engine: Any, base: str, change: str) -> Iterator[str]:
    name = f"deployctl-test-image:{secrets.token_hex(4)}"
    container = engine.containers.create(base)
    container.commit(*name.split(":"), changes=[change])
    container.remove()
    yield name
    engine.images.remove(name, force=True)


def test_every_image_has_its_row_and_one_that_does_not_serve_refuses(
    docker_workspace: MakeWorkspace, serving_image: str, second_image: str, broken_image: str, docker_engine: Any
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO)
    before = {each.id for each in docker_engine.containers.list(all=True)}

    good = workspace.json("validate", "half@1", "--gate", "signature", "--images", f"{serving_image},{second_image}")
    mixed = workspace.run("validate", "half@1", "--images", f"{broken_image}, {second_image}", "-o", "json")

    assert [each["gate"] for each in good["gates"]] == [
        "signature",
        f"load[{serving_image}]",
        f"load[{second_image}]",
    ]
    assert good["passed"]
    images = [each["evidence"] for each in good["gates"][1:]]
    assert [each["image"] for each in images] == [serving_image, second_image]
    assert images[0]["server"] != images[1]["server"]
    assert mixed.returncode == 3
    rows = {each["gate"]: each for each in json.loads(mixed.stdout)["gates"]}
    assert rows[f"load[{broken_image}]"]["outcome"] == "failed"
    # The verdict of the first run holds.
    assert rows[f"load[{second_image}]"]["reused"]
    assert {each.id for each in docker_engine.containers.list(all=True)} == before


def test_an_export_that_no_image_loads_is_refused_by_each(
    docker_workspace: MakeWorkspace, serving_image: str, second_image: str, tmp_path: Path
) -> None:
    workspace = docker_workspace()
    odd = with_unknown_op(tmp_path / "odd")

    done = workspace.run("validate", str(odd), "--images", f"{serving_image},{second_image}", "-o", "json")

    gates = json.loads(done.stdout)["gates"]
    assert [each["outcome"] for each in gates] == ["failed", "failed"]
    assert all("Mvl" in each["summary"] for each in gates)


def test_an_image_that_is_not_there_is_told_by_its_name(docker_workspace: MakeWorkspace, serving_image: str) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO)
    missing = "deployctl-test-image:missing"

    done = workspace.run(
        "--set", "targets.local.docker.pull=never", "validate", "half@1", "--images", f"{serving_image},{missing}"
    )

    assert done.returncode == 3
    assert f"load[{missing}]" in done.stderr
    assert "could not judge" in done.stderr
