"""Operations that are cut off, waited for, begun again and undone; locks; several operations at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.models import ROOT
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-operations")]

SECONDS = float(os.environ.get("DEPLOYCTL_SOAK_S", "8"))
WORKERS = 8
# Where a daemon runs, it settles by itself what was cut off.
only_here = pytest.mark.parametrize("served_either_way", ["here"], indirect=True)
only_elsewhere = pytest.mark.parametrize("served_either_way", ["elsewhere"], indirect=True)
MODELS = ("half", "third", "ranker", "digits")
# What a command does, without its start; several of them in one process after each other.
CHANGE = """
import random, sys, time
from deployctl.bootstrap import opened
from deployctl.config.load import load
from deployctl.domain.clock import Observer
from deployctl.domain.names import ModelName
from deployctl.domain.reference import parse_reference
from deployctl.errors import LockedError, RevisionNotFoundError
from deployctl.operations.promote import Promote, PromoteRequest
from deployctl.operations.rollback import Rollback, RollbackRequest

seed, seconds, models = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
choice = random.Random(seed)
ends, done = time.monotonic() + seconds, 0
while time.monotonic() < ends:
    model = choice.choice(models)
    with opened(load().settings, Observer()) as deployment:
        place = deployment.target(None)
        try:
            if choice.random() < 0.3:
                Rollback(place, deployment.context)(RollbackRequest(ModelName(model)))
            else:
                reference = parse_reference(f"{model}@{choice.choice((1, 2))}")
                Promote(place, deployment.context)(PromoteRequest(reference))
            done += 1
        except RevisionNotFoundError:
            pass
print(done)
"""


@dataclass(frozen=True, slots=True)
class Promoted:
    """A model of its own for a test, on a server that others share: two versions, the first of which serves."""

    workspace: Workspace
    model: str

    def at(self, version: int) -> str:
        return f"{self.model}@{version}"

    def answer(self) -> float:
        return ask(self.workspace.rest(), self.model)


@pytest.fixture
def half(served_either_way: Workspace) -> Promoted:
    models = served_either_way.root / "models"
    model = f"half{len(list(models.iterdir()))}"
    served_either_way.publish(model, HALF_PLUS_TWO, HALF_PLUS_THREE)
    served_either_way.ok("promote", f"{model}@1")
    return Promoted(served_either_way, model)


def newest(workspace: Workspace) -> dict[str, Any]:
    operation: dict[str, Any] = workspace.json("op", "list", "-n", "1")["operations"][0]
    return operation


def cut_off(workspace: Workspace, *words: str) -> dict[str, Any]:
    """Kills the process of a command once it is at work with the server, and returns its operation."""
    child = workspace.start(*words)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        for path in (workspace.root / ".deployctl" / "operations").glob("*.json"):
            found = json.loads(path.read_text())
            if "exit_code" not in found and "settled_by" not in found and found["phases"][-1][0] in ("load", "switch"):
                with suppress(ProcessLookupError):  # it was cut off earlier
                    os.kill(found["process"]["pid"], signal.SIGKILL)
                    child.communicate(timeout=TIMEOUT_S)
                    assert child.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
                    return workspace.json("op", "show", path.stem)
    pytest.fail(f"{words} could not be caught at work: {child.communicate(timeout=TIMEOUT_S)}")


@only_here
def test_an_operation_that_was_cut_off_is_named_and_resumed(half: Promoted) -> None:
    workspace = half.workspace
    left = cut_off(workspace, "promote", half.at(2), "-m", "hotter")
    assert (left["state"], left["subject"]) == ("interrupted", half.at(2))
    assert workspace.run("status").returncode == 6

    done = workspace.run("op", "resume", left["id"])

    assert done.returncode == 0, done.stderr
    assert f"(operation {left['id']}) was interrupted; restoring what served before it" in done.stderr
    assert half.answer() == 4.0
    assert workspace.json("op", "show", left["id"])["state"] == "settled"
    events = workspace.json("history", half.model, "-n", "2")["events"]
    assert {event["reason"] for event in events} == {"hotter"}


@only_here
def test_an_operation_that_was_cut_off_is_aborted(half: Promoted) -> None:
    workspace = half.workspace
    left = cut_off(workspace, "promote", half.at(2))

    workspace.ok("op", "abort", left["id"])

    assert half.answer() == 3.0
    assert workspace.run("status").returncode == 0
    assert workspace.json("op", "show", left["id"])["settled_by"] != ""
    assert "is already" not in workspace.fails(8, "op", "abort", newest(workspace)["id"])


@only_elsewhere
def test_an_operation_that_was_cut_off_is_settled_by_the_daemon(half: Promoted) -> None:
    left = cut_off(half.workspace, "promote", half.at(2))

    deadline = time.monotonic() + TIMEOUT_S
    while half.workspace.json("op", "show", left["id"])["state"] != "settled":
        assert time.monotonic() < deadline
    assert half.answer() in (3.0, 4.0)
    assert half.workspace.run("status").returncode == 0


@only_here
def test_the_next_command_names_what_was_cut_off(half: Promoted) -> None:
    left = cut_off(half.workspace, "promote", half.at(2))

    done = half.workspace.run("promote", half.at(1))

    assert done.returncode == 0
    assert f"operation {left['id']}" in done.stderr
    assert f"deployctl op resume {left['id']} would begin it again" in done.stderr


def test_what_is_done_is_neither_resumed_nor_aborted(half: Promoted) -> None:
    workspace = half.workspace
    done = newest(workspace)["id"]

    assert "is done: serving" in workspace.fails(8, "op", "resume", done, hint="deployctl op show")
    assert "is done: serving" in workspace.fails(8, "op", "abort", done)
    assert "no operation 'nothing'" in workspace.fails(9, "op", "show", "nothing", hint="deployctl op list")


@only_here
def test_what_killed_writers_left_is_cleared_away_by_a_later_promotion(half: Promoted) -> None:
    state = half.workspace.root / ".deployctl"
    places = (state / "operations", state / "local" / "leases", state / "local" / "revisions")
    left = [place / ".half.json.x1y2z3" for place in places]
    for path in left:
        path.write_text("{")
        os.utime(path, (time.time() - 7200.0,) * 2)

    half.workspace.ok("promote", half.at(2))

    assert not [path for path in left if path.exists()]


def test_an_operation_goes_on_without_its_command_and_can_be_waited_for(half: Promoted) -> None:
    operation = half.workspace.ok("promote", half.at(2), "--no-wait", "-o", "name").strip()

    shown = half.workspace.json("op", "wait", operation)

    assert (shown["exit_code"], shown["outcome"], shown["verb"]) == (0, "serving", "promote")
    assert half.answer() == 4.0


def test_waiting_ends_as_the_operation_did(half: Promoted) -> None:
    workspace = half.workspace
    failed = workspace.run("rollback", half.model, "--no-wait", "-o", "name")
    operation = failed.stdout.strip()

    assert workspace.run("op", "wait", operation).returncode == 9
    assert f"{half.model} has no version 9" in workspace.fails(9, "promote", half.at(9), "--no-wait")


def test_a_lock_is_shown_and_taken_from_who_does_not_let_go(half: Promoted) -> None:
    workspace = half.workspace
    child = workspace.start("promote", half.at(2))
    held: list[dict[str, Any]] = []
    deadline = time.monotonic() + TIMEOUT_S
    lease = workspace.root / ".deployctl" / "local" / "leases" / f"{half.model}.model.json"
    halted = 0
    while not held and time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError, ValueError):
            halted = json.loads(lease.read_text())["process"]["pid"]
            os.kill(halted, signal.SIGSTOP)
            held = workspace.json("lock", "list")["locks"]
            if not held:
                os.kill(halted, signal.SIGCONT)
    assert [(lock["model"], lock["purpose"], lock["pid"]) for lock in held] == [
        (half.model, f"promote {half.at(2)}", halted)
    ]
    workspace.fails(7, "promote", half.at(1), "--lock-timeout", "0s", hint="deployctl op wait")

    workspace.ok("lock", "release", "--model", half.model, "-m", "stuck")

    assert workspace.json("lock", "list")["locks"] == []
    workspace.ok("promote", half.at(1))
    os.kill(halted, signal.SIGCONT)
    _, words = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode in (7, 8, 10), words
    assert "Traceback" not in words
    assert workspace.run("status").returncode == 0
    assert half.answer() == 3.0
    assert workspace.json("history", "-n", "20")["events"][0]["kind"] != "revision.pending"
    workspace.fails(9, "lock", "release", "--model", half.model, "-m", "again")


def test_many_operations_at_once_lose_no_change(workspace: Workspace) -> None:
    workspace.ok("up")
    for model in MODELS:
        workspace.publish(model, HALF_PLUS_TWO, HALF_PLUS_THREE)
        workspace.ok("promote", f"{model}@1")
    seed = random.SystemRandom().randrange(1000)

    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHANGE, str(seed + number), str(SECONDS), *MODELS],
            cwd=workspace.root,
            env={**workspace.child_environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(WORKERS)
    ]
    ended = [child.communicate(timeout=SECONDS + TIMEOUT_S) for child in children]

    assert [words for _, words in ended] == [""] * WORKERS, f"seed {seed}"
    assert sum(int(count) for count, _ in ended) > WORKERS
    assert workspace.run("status").returncode == 0, workspace.run("status").stdout
    shown = workspace.json("status")["targets"][0]["models"]
    for model in shown:
        assert ask(workspace.rest(), model["name"]) == model["labels"]["stable"] + 2.0
    assert workspace.json("audit", "verify")["intact"] is True
    assert {each["state"] for each in workspace.json("op", "list", "-n", "100")["operations"]} <= {"done", "failed"}
