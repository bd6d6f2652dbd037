"""Operations that are cut off, waited for, begun again and undone; locks; several operations at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.support.models import ROOT
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-operations")]

SECONDS = float(os.environ.get("DEPLOYCTL_SOAK_S", "8"))
WORKERS = 8
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


@pytest.fixture
def half(workspace: Workspace) -> Workspace:
    """Two versions of `half`, the first of which serves."""
    workspace.ok("up")
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("promote", "half@1")
    return workspace


def newest(workspace: Workspace) -> dict[str, Any]:
    operation: dict[str, Any] = workspace.json("op", "list", "-n", "1")["operations"][0]
    return operation


def cut_off(workspace: Workspace, *words: str) -> dict[str, Any]:
    """Kills a command once it is at work with the server, and returns its operation."""
    child = workspace.start(*words)
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and child.poll() is None:
        for path in (workspace.root / ".deployctl" / "operations").glob("*.json"):
            found = json.loads(path.read_text())
            if "exit_code" not in found and found["phases"][-1][0] in ("load", "switch"):
                child.send_signal(signal.SIGKILL)
                child.communicate(timeout=TIMEOUT_S)
                return newest(workspace)
    pytest.fail(f"{words} could not be caught at work: {child.communicate(timeout=TIMEOUT_S)}")


def test_an_operation_that_was_cut_off_is_named_and_resumed(half: Workspace) -> None:
    left = cut_off(half, "promote", "half@2", "-m", "hotter")
    assert (left["state"], left["subject"]) == ("interrupted", "half@2")
    assert half.run("status").returncode == 6

    done = half.run("op", "resume", left["id"])

    assert done.returncode == 0, done.stderr
    assert f"(operation {left['id']}) was interrupted; restoring what served before it" in done.stderr
    assert ask(half.rest(), "half") == 4.0
    assert half.json("op", "show", left["id"])["state"] == "settled"
    events = half.json("history", "half", "-n", "2")["events"]
    assert {event["reason"] for event in events} == {"hotter"}


def test_an_operation_that_was_cut_off_is_aborted(half: Workspace) -> None:
    left = cut_off(half, "promote", "half@2")

    half.ok("op", "abort", left["id"])

    assert ask(half.rest(), "half") == 3.0
    assert half.run("status").returncode == 0
    assert half.json("op", "show", left["id"])["settled_by"] != ""
    assert "is already" not in half.fails(8, "op", "abort", newest(half)["id"])


def test_the_next_command_names_what_was_cut_off(half: Workspace) -> None:
    left = cut_off(half, "promote", "half@2")

    done = half.run("promote", "half@1")

    assert done.returncode == 0
    assert f"operation {left['id']}" in done.stderr
    assert f"deployctl op resume {left['id']} would begin it again" in done.stderr


def test_what_is_done_is_neither_resumed_nor_aborted(half: Workspace) -> None:
    done = newest(half)["id"]

    assert "is done: serving" in half.fails(8, "op", "resume", done, hint="deployctl op show")
    assert "is done: serving" in half.fails(8, "op", "abort", done)
    assert "no operation 'nothing'" in half.fails(9, "op", "show", "nothing", hint="deployctl op list")


def test_an_operation_goes_on_without_its_command_and_can_be_waited_for(half: Workspace) -> None:
    operation = half.ok("promote", "half@2", "--no-wait", "-o", "name").strip()

    shown = half.json("op", "wait", operation)

    assert (shown["exit_code"], shown["outcome"], shown["verb"]) == (0, "serving", "promote")
    assert ask(half.rest(), "half") == 4.0


def test_waiting_ends_as_the_operation_did(half: Workspace) -> None:
    failed = half.run("rollback", "half", "--no-wait", "-o", "name")
    operation = failed.stdout.strip()

    assert half.run("op", "wait", operation).returncode == 9
    assert "half has no version 9" in half.fails(9, "promote", "half@9", "--no-wait")


def test_a_lock_is_shown_and_taken_from_who_does_not_let_go(half: Workspace) -> None:
    child = half.start("promote", "half@2")
    held: list[dict[str, Any]] = []
    deadline = time.monotonic() + TIMEOUT_S
    leases = half.root / ".deployctl" / "local" / "leases"
    while not held and time.monotonic() < deadline and child.poll() is None:
        if (leases / "half.model.json").exists():
            child.send_signal(signal.SIGSTOP)
            held = half.json("lock", "list")["locks"]
            if not held:
                child.send_signal(signal.SIGCONT)
    assert [(lock["model"], lock["purpose"], lock["pid"]) for lock in held] == [("half", "promote half@2", child.pid)]
    half.fails(7, "promote", "half@1", "--lock-timeout", "0s", hint="deployctl op wait")

    half.ok("lock", "release", "--model", "half", "-m", "stuck")

    assert half.json("lock", "list")["locks"] == []
    half.ok("promote", "half@1")
    child.send_signal(signal.SIGCONT)
    _, words = child.communicate(timeout=TIMEOUT_S)
    assert child.returncode in (7, 8, 10), words
    assert "Traceback" not in words
    assert half.run("status").returncode == 0
    assert ask(half.rest(), "half") == 3.0
    assert half.json("history", "-n", "20")["events"][0]["kind"] != "revision.pending"
    half.fails(9, "lock", "release", "--model", "half", "-m", "again")


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
