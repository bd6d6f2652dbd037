"""Rollbacks as they are typed: of everything at once, only proven, and of more labels than stable."""

from __future__ import annotations

import shutil

import pytest

from deployctl.domain.event import Actor
from deployctl.domain.names import ModelName
from deployctl.serving.lock import FileTargetLock
from deployctl.system import SystemClock
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask, truncate

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
