"""Kill -9 in every phase of an operation, and any sequence of operations, on a real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from deployctl.bootstrap import Deployment, opened
from deployctl.config.load import load
from deployctl.domain.clock import Observer
from deployctl.domain.names import CANARY, STABLE, ModelName, VersionNumber
from deployctl.domain.reference import parse_reference
from deployctl.domain.revision import Desired
from deployctl.domain.serving import VersionState
from deployctl.errors import FrozenError, NotFoundError, QuarantinedError
from deployctl.lineage.audit import verify
from deployctl.operations.bring_up import BringUp, Restart
from deployctl.operations.holds import Holds, manifest_of
from deployctl.operations.promote import Promote, PromoteRequest
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.operations.rollback import Rollback, RollbackRequest
from deployctl.operations.target import Target
from deployctl.serving.interface import ServedSpec
from tests.support.models import ROOT
from tests.support.remote import client_of
from tests.support.workspace import (
    HALF_PLUS_THREE,
    HALF_PLUS_TWO,
    HALF_PLUS_TWO_TF2,
    TIMEOUT_S,
    Workspace,
    ask,
)

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-phases")]

HALF = ModelName("half")
STEPS = int(os.environ.get("DEPLOYCTL_SOAK_STEPS", "12"))
EXAMPLES = int(os.environ.get("DEPLOYCTL_SOAK_EXAMPLES", "3"))
# A command whose process ends itself, as by kill -9, right after it has written that it enters a phase.
KILLED_IN = """
import os, signal, sys
from contextlib import contextmanager
from deployctl.cli.app import main
from deployctl.lineage import journal

phase, sys.argv = sys.argv[1], ["deployctl", *sys.argv[2:]]
enter = journal._FileOperation.enter

def enter_and_end(self, entered):
    enter(self, entered)
    if entered.value == phase:
        os.kill(os.getpid(), signal.SIGKILL)

journal._FileOperation.enter = enter_and_end
main()
"""


@pytest.fixture(scope="module")
def half(served: Workspace) -> Workspace:
    """Three versions of `half`, of which 1 and then 2 were promoted."""
    served.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served.ok("promote", "half@1")
    served.ok("promote", "half@2")
    return served


# What every process that runs a command for a client does first: as above, in the phase that a file names.
KILLED_THERE = """
import os, signal
from pathlib import Path

named = Path(__file__).with_name("phase")
if named.exists():
    from deployctl.lineage import journal

    phase, enter = named.read_text(), journal._FileOperation.enter

    def enter_and_end(self, entered):
        enter(self, entered)
        if entered.value == phase:
            os.kill(os.getpid(), signal.SIGKILL)

    journal._FileOperation.enter = enter_and_end
"""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A client elsewhere, and what kills its commands."""

    client: Workspace
    phase: Path

    def killed_in(self, phase: str, *words: str) -> None:
        """Runs a command that ends in `phase`."""
        self.phase.write_text(phase)
        try:
            done = self.client.run(*words)
        finally:
            self.phase.unlink()
        assert done.returncode == 128 + signal.SIGKILL, (done.returncode, done.stderr)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    """As `half`, for a client elsewhere."""
    workspace = Workspace.make(tmp_path_factory.mktemp("served"))
    code = tmp_path_factory.mktemp("code")
    (code / "sitecustomize.py").write_text(KILLED_THERE)
    try:
        with client_of(workspace, PYTHONPATH=f"{code}{os.pathsep}{ROOT}") as client:
            client.ok("up")
            client.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
            yield Elsewhere(client, code / "phase")
    finally:
        workspace.down()


def killed_in(workspace: Workspace, phase: str, *words: str) -> None:
    """Runs a command that ends in `phase`."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED_IN, phase, *words],
        cwd=workspace.root,
        env={**workspace.child_environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, (done.returncode, done.stderr)


@pytest.mark.parametrize("phase", ["lock", "check", "fetch", "record", "load", "switch", "finish"])
@pytest.mark.parametrize("verb", ["promote", "rollback"])
def test_whatever_phase_it_is_killed_in_the_old_version_answers_and_the_next_command_works(
    half: Workspace, verb: str, phase: str
) -> None:
    half.ok("promote", "half@1")
    half.ok("promote", "half@2")
    url = half.rest()

    killed_in(half, phase, *(("promote", "half@1") if verb == "promote" else ("rollback", "half")))

    assert ask(url, "half") in (3.0, 4.0)
    newest = half.json("op", "list", "-n", "1")["operations"][0]
    assert (newest["state"], newest["phases"][-1]["phase"]) == ("interrupted", phase)
    done = half.run("promote", "half@2")
    assert done.returncode == 0, done.stderr
    assert ask(url, "half") == 4.0
    assert half.run("status").returncode == 0
    assert half.json("op", "show", newest["id"])["state"] == "settled"
    assert half.json("lock", "list")["locks"] == []


@pytest.mark.parametrize("phase", ["record", "load", "switch"])
def test_for_a_client_elsewhere_too_whatever_is_killed_leaves_an_answer_and_the_next_command_works(
    elsewhere: Elsewhere, phase: str
) -> None:
    client = elsewhere.client
    client.ok("promote", "half@2")
    url = client.rest()

    elsewhere.killed_in(phase, "promote", "half@1")

    assert ask(url, "half") in (3.0, 4.0)
    (left,) = (each for each in client.json("op", "list")["operations"] if _ended_in(each, phase))
    done = client.run("promote", "half@2")
    assert done.returncode == 0, done.stderr
    assert ask(url, "half") == 4.0
    assert client.run("status").returncode == 0
    assert client.json("op", "show", left["id"])["state"] == "settled"


def test_for_a_client_elsewhere_too_a_publishing_that_is_killed_shows_no_part(elsewhere: Elsewhere) -> None:
    client = elsewhere.client
    words = ("publish", str(HALF_PLUS_TWO_TF2), "--model", "torn")

    elsewhere.killed_in("commit", *words)

    assert client.json(*words)["version"] == 1
    assert [each["version"] for each in client.json("versions", "torn")["versions"]] == [1]
    client.ok("verify", "torn@1")


def _ended_in(operation: dict[str, Any], phase: str) -> bool:
    """Whether a promotion was cut off in a phase."""
    cut_off = operation["state"] in {"interrupted", "settled"}
    return bool(cut_off and operation["verb"] == "promote" and operation["phases"][-1]["phase"] == phase)


@pytest.mark.parametrize("phase", ["stage", "commit", "record"])
def test_a_publishing_that_is_killed_is_named_by_the_next_one_and_shows_no_part(half: Workspace, phase: str) -> None:
    before = half.json("versions", "half")["versions"]

    killed_in(half, phase, "publish", str(HALF_PLUS_TWO_TF2), "--model", "half", "--new-version")

    left = half.json("op", "list", "-n", "1")["operations"][0]
    assert (left["verb"], left["state"], left["target"]) == ("publish", "interrupted", None)
    half.fails(2, "op", "resume", left["id"], hint=f"deployctl publish {HALF_PLUS_TWO_TF2} --model half")
    done = half.run("publish", str(HALF_PLUS_TWO_TF2), "--model", "half", "-o", "name")
    assert done.returncode == 0, done.stderr
    assert f"operation {left['id']}) was interrupted; if it is still wanted, publish it again" in done.stderr
    assert half.json("op", "show", left["id"])["state"] == "settled"
    shown = half.json("versions", "half")["versions"]
    assert len(shown) - len(before) in (0, 1)
    for version in shown:
        half.ok("verify", f"half@{version['version']}")
    assert half.run("doctor").returncode == 0


@pytest.mark.parametrize("words", [("up",), ("restart",)])
def test_a_start_that_is_killed_is_begun_again(half: Workspace, words: tuple[str, ...]) -> None:
    for phase in ("lock", "check", "load"):
        killed_in(half, phase, *words)

        half.ok("up")
        assert ask(half.rest(), "half") in (3.0, 4.0)
        assert half.run("status").returncode == 0


class Operations(RuleBasedStateMachine):
    """After each operation the server serves the fold of the events."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="operations-"))
        self.workspace = Workspace.make(self.directory / "work")
        self.settings = load(file=self.workspace.root / "deployctl.toml", environment={}).settings
        self.published: list[int] = []
        self.frozen = False
        self.quarantined: set[int] = set()

    def teardown(self) -> None:
        self.workspace.down()
        shutil.rmtree(self.directory)

    @contextmanager
    def command(self) -> Iterator[tuple[Target, Deployment]]:
        """What one command would work with."""
        with opened(self.settings, Observer()) as deployment:
            yield deployment.target(None), deployment

    @initialize()
    def start(self) -> None:
        with self.command() as (target, deployment):
            BringUp(target, deployment.context)(timeout_s=60.0)
        self.publish(HALF_PLUS_TWO)
        self.publish(HALF_PLUS_THREE)

    @rule(export=st.sampled_from([HALF_PLUS_TWO, HALF_PLUS_THREE, HALF_PLUS_TWO_TF2]))
    def publish(self, export: Path) -> None:
        with self.command() as (_, deployment):
            operation = Publish(deployment.repository, deployment.reader, deployment.lineage, deployment.context)
            with suppress(QuarantinedError):
                done = operation(PublishRequest(export, HALF))
                assert done.version is not None
                assert done.created == (done.version not in self.published)
                self.published = sorted({*self.published, done.version})

    @rule(choice=st.integers(0, 9), canary=st.booleans())
    def promote(self, choice: int, canary: bool) -> None:
        version = self.published[choice % len(self.published)]
        label = CANARY if canary else STABLE
        with self.command() as (target, deployment):
            before = self.recorded(target)
            request = PromoteRequest(parse_reference(f"half@{version}"), label=label)
            try:
                Promote(target, deployment.context)(request)
            except FrozenError:
                assert self.frozen
            except QuarantinedError:
                assert version in self.quarantined
            else:
                unchanged = before.labels.get(label) == version
                assert unchanged or not (self.frozen or version in self.quarantined)

    @rule()
    def roll_back(self) -> None:
        with self.command() as (target, deployment):
            try:
                result = Rollback(target, deployment.context)(RollbackRequest(HALF))
            except NotFoundError:
                return
            assert result.version not in self.quarantined or result.undone_canary is not None
            assert self.recorded(target).labels[STABLE] == result.version

    @rule()
    def freeze_or_unfreeze(self) -> None:
        with self.command() as (target, deployment):
            holds = Holds(deployment.lineage, deployment.context)
            if self.frozen:
                holds.unfreeze(target.name, None, reason="")
            else:
                holds.freeze(target.name, None, reason="test", expires_at=None)
        self.frozen = not self.frozen

    @precondition(lambda self: not self.quarantined)
    @rule()
    def quarantine(self) -> None:
        version = VersionNumber(self.published[-1])
        with self.command() as (target, deployment):
            if version not in self.recorded(target).versions:
                manifest = manifest_of(deployment.repository, HALF, version)
                Holds(deployment.lineage, deployment.context).quarantine(manifest, reason="test")
                self.quarantined.add(version)

    @rule(phase=st.sampled_from(["check", "record", "load", "switch", "finish"]), choice=st.integers(0, 9))
    def be_killed(self, phase: str, choice: int) -> None:
        version = self.published[choice % len(self.published)]
        run_killed_in(self.workspace, phase, "promote", f"half@{version}")
        with self.command() as (target, deployment):
            BringUp(target, deployment.context)(timeout_s=60.0)

    @rule()
    def kill_the_server(self) -> None:
        pid = int(self.workspace.json("status")["targets"][0]["detail"]["pid"])
        os.kill(pid, signal.SIGKILL)
        with self.command() as (target, deployment):
            BringUp(target, deployment.context)(timeout_s=60.0)

    @rule()
    def restart(self) -> None:
        with self.command() as (target, deployment):
            Restart(target, deployment.context)(timeout_s=60.0)

    def recorded(self, target: Target) -> Desired:
        current = target.current(HALF)
        return current.desired if current else Desired()

    @invariant()
    def the_server_serves_the_fold_of_the_events(self) -> None:
        with self.command() as (target, deployment):
            recorded = self.recorded(target)
            assert deployment.lineage.pending(target.name) == ()
            statuses = target.runtime.statuses(HALF, timeout_s=10.0) if recorded.versions else ()
            # The old version is let go after the change is recorded.
            deployment.context.deadline(10.0).poll(
                lambda: True if self.available(target) == set(recorded.versions) else None
            )
            assert self.available(target) == set(recorded.versions), statuses
            for label, version in recorded.labels.items():
                answering, _ = target.runtime.answering_version(ServedSpec(HALF, label=label), timeout_s=10.0)
                assert answering == version

    def available(self, target: Target) -> set[VersionNumber]:
        statuses = target.runtime.statuses(HALF, timeout_s=10.0)
        return {each.version for each in statuses if each.state is VersionState.AVAILABLE}

    @invariant()
    def the_chain_of_events_is_whole(self) -> None:
        with self.command() as (_, deployment):
            assert verify(deployment.lineage).is_intact


def run_killed_in(workspace: Workspace, phase: str, *words: str) -> None:
    """Runs a command that may end in `phase`, or before it where it has nothing to do or is refused."""
    subprocess.run(
        [sys.executable, "-c", KILLED_IN, phase, *words],
        cwd=workspace.root,
        env={**workspace.child_environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )


TestOperations = Operations.TestCase
TestOperations.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=list(HealthCheck)
)
