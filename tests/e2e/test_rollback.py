"""Rollbacks as they are typed: of everything at once, only proven, and of more labels than stable."""

from __future__ import annotations

import shutil

import pytest

from deployctl.domain.event import Actor
from deployctl.domain.names import ModelName
from deployctl.serving.lock import FileTargetLock
from deployctl.system import SystemClock
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, HALF_PLUS_TWO_TF2, Workspace, ask, truncate

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-rollback")]


@pytest.fixture
def pair(workspace: Workspace) -> Workspace:
    """Models `half` and `third`: version 1 was promoted, and then version 2."""
    workspace.ok("up")
    for model in ("half", "third"):
        workspace.publish(model, HALF_PLUS_TWO, HALF_PLUS_THREE)
        workspace.ok("promote", f"{model}@1")
    return workspace


def first_moment(workspace: Workspace) -> str:
    """Returns a moment at which version 1 of both models served."""
    moment: str = workspace.json("history", "third", "-n", "1")["events"][0]["at"]
    for model in ("half", "third"):
        workspace.ok("promote", f"{model}@2")
    return moment


def events(workspace: Workspace) -> int:
    sequence: int = workspace.json("history", "-n", "1")["events"][0]["sequence"]
    return sequence


class TestAll:
    def test_a_check_proves_it_for_every_model_and_changes_nothing(self, pair: Workspace) -> None:
        moment = first_moment(pair)
        before = events(pair)

        found = pair.json("rollback", "--all", "--before", moment, "--check")

        assert {each["plan"]["model"]: each["plan"]["version"] for each in found["models"]} == {"half": 1, "third": 1}
        assert all(each["report"]["passed"] for each in found["models"])
        assert events(pair) == before
        assert [ask(pair.rest(), model) for model in ("half", "third")] == [4.0, 4.0]

    def test_a_check_that_one_model_fails_fails_and_tells_of_the_other(self, pair: Workspace) -> None:
        moment = first_moment(pair)
        truncate(pair.root / "models" / "half" / "1")
        before = events(pair)

        done = pair.run("rollback", "--all", "--before", moment, "--check")

        assert done.returncode == 3
        assert "half@1 is refused on local by the gate integrity" in done.stderr
        assert "a rollback of third on local would go to @1" in done.stdout
        assert "a rollback of half" not in done.stdout
        assert events(pair) == before

    def test_a_model_that_could_not_return_fails_the_check(self, pair: Workspace) -> None:
        moment = first_moment(pair)
        shutil.rmtree(pair.root / "models" / "half" / "1")

        done = pair.run("rollback", "--all", "--before", moment, "--check", "-o", "json")

        assert done.returncode == 9
        assert '"model": "half"' in done.stdout
        assert '"model": "third"' in done.stdout

    def test_not_to_wait_is_refused(self, pair: Workspace) -> None:
        moment = first_moment(pair)

        assert "--no-wait is for one model" in pair.fails(2, "rollback", "--all", "--before", moment, "--no-wait")

        assert ask(pair.rest(), "half") == 4.0

    def test_it_waits_for_other_operations_as_long_as_is_said(self, pair: Workspace) -> None:
        moment = first_moment(pair)
        # Whoever does not hear the word waits until the test is over.
        pair.environment["DEPLOYCTL_TARGETS_LOCAL_LOCK_TIMEOUT_S"] = "10m"
        lock = FileTargetLock(pair.root / ".deployctl" / "local", Actor("bob", "build-2"), "op-1", SystemClock())

        with lock.hold(model=ModelName("half"), purpose="promote half@2", timeout_s=0):
            done = pair.run("rollback", "--all", "--before", moment, "--lock-timeout", "0s")

        assert done.returncode == 7
        assert [ask(pair.rest(), model) for model in ("half", "third")] == [4.0, 3.0]


@pytest.fixture
def labelled(served: Workspace) -> Workspace:
    """On a server that tests share, version 1 and then 2 of a new model serve; 3 is published."""
    served.environment["MODEL"] = model = f"half{len(served.json('status')['targets'][0]['models'])}"
    served.publish(model, HALF_PLUS_TWO, HALF_PLUS_THREE, HALF_PLUS_TWO_TF2)
    served.ok("promote", f"{model}@1")
    served.ok("promote", f"{model}@2")
    return served


class TestLabels:
    def test_the_plan_and_the_outcome_name_each_label_that_moves_or_goes(self, labelled: Workspace) -> None:
        model = labelled.environment["MODEL"]
        labelled.ok("promote", f"{model}@2", "--label", "blue")
        labelled.ok("promote", f"{model}@1")
        labelled.ok("promote", f"{model}@1", "--label", "blue")
        labelled.ok("promote", f"{model}@1", "--canary")

        planned = labelled.run("rollback", model, "--to", "3", "--dry-run")
        told = labelled.json("rollback", model, "--to", "3")

        assert "blue @1 -> @2   canary @1 undone" in planned.stdout
        assert "blue @1 -> @2, canary @1 undone" in planned.stderr
        assert [(each["label"], each["before"], each["after"]) for each in told["labels"]] == [
            ("blue", 1, 2),
            ("canary", 1, None),
        ]
        assert ask(labelled.rest(), model, label="blue") == 4.0

    def test_undoing_a_canary_is_told_as_that_alone(self, labelled: Workspace) -> None:
        model = labelled.environment["MODEL"]
        labelled.ok("promote", f"{model}@3", "--label", "shadow")
        labelled.ok("promote", f"{model}@3", "--canary")

        planned = labelled.ok("rollback", model, "--dry-run")
        done = labelled.ok("rollback", model)

        assert planned == f"{model}@2 would go on serving stable on local   canary @3 undone\n"
        assert f"{model}@2 serves stable on local   canary @3 undone   revision " in done
        assert ask(labelled.rest(), model, label="shadow") == 3.0

    def test_quarantined_bytes_come_back_under_no_label(self, labelled: Workspace) -> None:
        model = labelled.environment["MODEL"]
        labelled.ok("promote", f"{model}@1")
        labelled.ok("promote", f"{model}@2", "--label", "blue")
        labelled.ok("promote", f"{model}@3", "--label", "blue")
        labelled.ok("promote", f"{model}@3")
        labelled.ok("quarantine", f"{model}@2", "-m", "wrong answers")

        done = labelled.run("rollback", model, "--to", "4")
        labelled.ok("quarantine", f"{model}@2", "--release", "-m", "other tests have the same bytes")

        assert done.returncode == 0, done.stderr
        assert f"label blue stays @3, since {model}@2: sha256:" in done.stderr
        assert ask(labelled.rest(), model, label="blue") == 3.0
        assert labelled.json("status", "--model", model)["targets"][0]["models"][0]["labels"] == {
            "blue": 3,
            "stable": 1,
        }

    def test_a_label_of_a_retired_version_keeps_no_rollback_from_working(self, labelled: Workspace) -> None:
        model = labelled.environment["MODEL"]
        labelled.ok("promote", f"{model}@3", "--canary")
        labelled.ok("rollback", model)
        labelled.ok("promote", f"{model}@1")
        labelled.ok("retire", f"{model}@3")

        done = labelled.run("rollback", model, "--to", "3")

        assert done.returncode == 0, done.stderr
        assert f"{model}@3: its directory is gone" in done.stderr
        assert "canary not restored" in done.stdout
        assert ask(labelled.rest(), model) == 4.0
