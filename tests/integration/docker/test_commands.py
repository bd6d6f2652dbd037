"""The commands of a user whose target is a container."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.s3 import CREDENTIALS, Bucket
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask, with_unknown_op

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]


def test_publish_promote_predict_and_roll_back_across_a_container(
    docker_workspace: MakeWorkspace, docker_engine: Any, serving_image: str
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")

    workspace.ok("promote", "half@2", "--soak", "0.5s")

    assert ask(workspace.rest(), "half") == 4.0
    (target,) = workspace.json("status")["targets"]
    assert re.fullmatch(r"[0-9a-f]{12} \(running\)", target["detail"]["container"])
    started = [each for each in workspace.json("history")["events"] if each["kind"] == "target.started"]
    assert [each["data"]["digest"] for each in started] == [target["detail"]["digest"]]
    assert docker_engine.images.get(serving_image).id == started[0]["data"]["image"]
    # An image that came from no registry has no digest but its id.
    known = docker_engine.images.get(serving_image).attrs["RepoDigests"] or [started[0]["data"]["image"]]
    assert target["detail"]["digest"] == known[0]
    assert workspace.json("rollback", "half")["version"] == 1
    assert ask(workspace.rest(), "half") == 3.0
    workspace.ok("restart")
    assert ask(workspace.rest(), "half") == 3.0
    assert "ready" in workspace.ok("logs")
    workspace.ok("down")
    assert "stopped" in workspace.run("status").stdout


def test_a_hot_rollback_does_not_wait_for_the_engines_sdk_to_load(docker_workspace: MakeWorkspace) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")
    code = (
        "import sys; sys.argv = ['deployctl', 'rollback', 'half']\n"
        "from deployctl.cli.app import main\n"
        "try: main()\n"
        "finally: print(*sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace.root,
        env=workspace.child_environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )

    loaded = set(done.stdout.split())
    assert ask(workspace.rest(), "half") == 3.0
    assert "deployctl.serving.docker_runtime" in loaded
    assert loaded.isdisjoint(("docker", "requests", "urllib3"))


def test_gates_load_a_version_in_a_container_that_reaches_nothing(
    docker_workspace: MakeWorkspace, docker_engine: Any, tmp_path: Path
) -> None:
    workspace = docker_workspace(gates='["load"]', docker='memory = "1g"\n')
    workspace.publish("half", HALF_PLUS_TWO)
    odd = with_unknown_op(tmp_path / "odd")
    networks = {each.id for each in docker_engine.networks.list()}

    report = workspace.json("validate", "half@1")
    refused = workspace.run("validate", str(odd), "-o", "json")

    assert report["gates"][0]["outcome"] == "passed"
    assert report["gates"][0]["evidence"]["peak_bytes"] > 10_000_000
    assert refused.returncode == 3
    assert "Mvl" in json.loads(refused.stdout)["gates"][0]["summary"]
    assert list((workspace.root / ".deployctl" / "scratch").glob("*.lock")) == []
    assert {each.id for each in docker_engine.networks.list()} == networks


def test_a_repository_in_an_object_store_is_served_from_a_container(
    docker_workspace: MakeWorkspace, bucket: Bucket, tmp_path: Path
) -> None:
    del tmp_path
    repository = (
        f'[repository]\nmodel_base_path = "s3://{bucket.name}/team"\n'
        f'[repository.s3]\nendpoint_url = "{bucket.endpoint}"\nregion = "us-east-1"\n'
    )
    workspace = docker_workspace(repository=repository)
    workspace.environment |= {**CREDENTIALS, "AWS_EC2_METADATA_DISABLED": "true"}
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")

    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")

    assert ask(workspace.rest(), "half") == 4.0
    workspace.ok("rollback", "half")
    assert ask(workspace.rest(), "half") == 3.0
    workspace.ok("down")
    shutil.rmtree(workspace.root / ".deployctl" / "cache")
    workspace.ok("up")
    assert ask(workspace.rest(), "half") == 3.0
