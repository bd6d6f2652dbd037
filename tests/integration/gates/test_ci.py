"""The CI templates: their steps are run as CI would, in order, against a real target."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.models import ROOT, TensorFlowModels
from tests.support.workspace import COMMAND, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("ci_templates")]

ACTION = ROOT / "deploy" / "ci" / "github" / "action.yml"
TEMPLATE = ROOT / "deploy" / "ci" / "gitlab" / "release.gitlab-ci.yml"
SETTINGS = '[targets.live]\nrest_port = 0\ngrpc_port = 0\ngates = ["integrity", "signature", "compatibility", "ops"]\n'


def blocks(file: Path, name: str, script: str) -> dict[str, str]:
    """Returns the shell script of each step, in order: `name` matches what begins one, `script` what precedes one."""
    found: dict[str, str] = {}
    step, indent, inside = "", 0, False
    for line in file.read_text().splitlines():
        if inside and (not line.strip() or len(line) - len(line.lstrip()) >= indent):
            found[step] += line[indent:] + "\n"
            continue
        inside = False
        if begins := re.match(name, line):
            step = begins[1]
        elif line.strip() == script:
            # GitHub indents the script below `run:`, GitLab below the dash of its list.
            indent, inside, found[step] = len(line) - len(line.lstrip()) + 2, True, ""
    return found


GITHUB = blocks(ACTION, r"    - id: (\w+)", "run: |")
GITLAB = blocks(TEMPLATE, r"(\w+)-model:", "- |")


@pytest.fixture
def live(tmp_path: Path, tensorflow_models: TensorFlowModels) -> Iterator[Workspace]:
    """Model `m`, @1 (x/2 + 1) live on a target with gates, and a command `deployctl` on the path."""
    workspace = Workspace.make(tmp_path / "work", targets=SETTINGS)
    workspace.publish("m", tensorflow_models.half_plus(1))
    workspace.ok("up")
    workspace.ok("promote", "m@1")
    program = workspace.root / "bin" / "deployctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    program.chmod(0o755)
    yield workspace
    workspace.down()


def run(workspace: Workspace, script: str, variables: Mapping[str, str]) -> int:
    """Runs the script of a step as a CI does: by bash, with the step's variables.

    The command is GitHub's for `shell: bash`; GitLab's runner sets the same options before a script.
    """
    file = workspace.root / "step.sh"
    file.write_text(script)
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(file)]
    environment = {**workspace.child_environment, **variables}
    environment["PATH"] = f"{workspace.root / 'bin'}:{environment['PATH']}"
    done = subprocess.run(command, cwd=workspace.root, env=environment, timeout=120, check=False)
    return done.returncode


def values(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines())


def github(workspace: Workspace, export: Path, check: str) -> dict[str, int]:
    """Runs the action and returns the exit code of each step that ran."""
    files = {name: workspace.root / name for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV")}
    variables = {name: str(file) for name, file in files.items()}
    variables |= {"EXPORT": str(export), "MODEL": "m", "TARGET": "live", "COMMIT": "4d1f0c2", "CHECK": check}
    variables["JOB_URL"] = "https://ci.example/jobs/81"
    codes: dict[str, int] = {}
    for step in ("publish", "validate", "promote", "check"):
        codes[step] = run(workspace, GITHUB[step], variables)
        if codes[step]:
            break
        variables |= {name.upper(): value for name, value in values(files["GITHUB_OUTPUT"]).items()}
    if codes.get("check"):
        codes["rollback"] = run(workspace, GITHUB["rollback"], variables)
    return codes


def test_the_action_releases_what_passes_and_rolls_back_what_fails_its_check(
    live: Workspace, tensorflow_models: TensorFlowModels
) -> None:
    good = github(live, tensorflow_models.half_plus(2), "deployctl status live")
    assert good == {"publish": 0, "validate": 0, "promote": 0, "check": 0}
    assert ask(live.rest("live"), "m") == 3.0

    bad = github(live, tensorflow_models.half_plus(3), "exit 7")
    assert bad == {"publish": 0, "validate": 0, "promote": 0, "check": 7, "rollback": 0}
    assert ask(live.rest("live"), "m") == 3.0
    summary = (live.root / "GITHUB_STEP_SUMMARY").read_text()
    assert "m@3 on live   passed" in summary
    assert "m@2 serves stable on live" in summary


def test_the_action_stops_at_a_gate_with_the_report_as_summary(
    live: Workspace, tensorflow_models: TensorFlowModels
) -> None:
    codes = github(live, tensorflow_models.path("keras_two_outputs"), "true")
    assert codes == {"publish": 0, "validate": 3}
    assert ask(live.rest("live"), "m") == 2.0
    assert "refused by compatibility" in (live.root / "GITHUB_STEP_SUMMARY").read_text()
    assert (live.root / "gates.xml").exists()


def test_the_gitlab_stages_do_the_same(live: Workspace, tensorflow_models: TensorFlowModels) -> None:
    assert list(GITLAB) == list(GITHUB)
    variables = {"EXPORT": str(tensorflow_models.half_plus(2)), "MODEL": "m", "TARGET": "live", "CHECK": "exit 7"}
    variables |= {"CI_COMMIT_SHA": "4d1f0c2", "CI_JOB_URL": "https://ci.example/jobs/82"}
    assert run(live, GITLAB["publish"], variables) == 0
    variables |= values(live.root / "release.env")
    assert [run(live, GITLAB[step], variables) for step in ("validate", "promote", "check", "rollback")] == [0, 0, 7, 0]
    assert ask(live.rest("live"), "m") == 2.0
    (done, *_) = live.json("history", "m", "-n", "1")["events"]
    assert done["reason"] == "check failed: https://ci.example/jobs/82"
    assert done["actor"]["ci"] == "https://ci.example/jobs/82"
    shutil.copytree(tensorflow_models.path("keras_two_outputs"), live.root / "other")
    live.publish("m", live.root / "other")
    assert run(live, GITLAB["validate"], {**variables, "VERSION": "m@3"}) == 3
    assert "refused by compatibility" in (live.root / "gates.txt").read_text()
    odd = {**variables, "VERSION": "m@9"}
    assert run(live, GITLAB["validate"], odd) == 9


def test_scripts_have_no_expressions_of_the_ci_in_them() -> None:
    for script in (*GITHUB.values(), *GITLAB.values()):
        assert script.startswith("set -")
        assert "${{" not in script
