"""`promote --soak` as it is typed: it goes back where requests fail, without the database, and without the server."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.error
from contextlib import suppress
from typing import Any

import pytest

from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-promote-soak")]


@pytest.fixture
def half(workspace: Workspace) -> Workspace:
    """Version 1 of `half` serves, 2 is published."""
    workspace.ok("up")
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("promote", "half@1")
    return workspace


def await_soak(workspace: Workspace) -> dict[str, Any]:
    """Returns the journal of the promotion once it watches."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for path in (workspace.root / ".deployctl" / "operations").glob("*.json"):
            with suppress(ValueError):
                found: dict[str, Any] = json.loads(path.read_text())
                if found["phases"][-1][0] == "soak":
                    return found
    pytest.fail("the promotion never came to watch")


def fail_requests(workspace: Workspace, operation: str, url: str) -> dict[str, Any]:
    """Calls the model wrongly until the operation has ended, and returns its journal."""
    record = workspace.root / ".deployctl" / "operations" / f"{operation}.json"
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(urllib.error.HTTPError):
            ask(url, "half", x="no number")  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(record.read_text())
        if "exit_code" in found:
            return found
    pytest.fail("the promotion never ended")


def test_waiting_for_it_ends_as_the_watching_does_and_going_back_is_an_operation_of_its_own(half: Workspace) -> None:
    operation = half.ok("promote", "half@2", "--soak", "100s", "--no-wait", "-o", "name").strip()
    fail_requests(half, operation, half.rest())

    assert half.run("op", "wait", operation).returncode == 5

    shown = half.json("op", "show", operation)
    assert (shown["verb"], shown["state"], shown["exit_code"]) == ("promote", "failed", 5)
    assert "half@2 failed 100.0% of" in shown["outcome"]
    listed = half.json("op", "list", "-n", "2")["operations"]
    assert {(each["verb"], each["state"]) for each in listed} == {("promote", "failed"), ("rollback", "done")}
    assert ask(half.rest(), "half") == 3.0


def test_it_goes_back_although_the_database_is_away_by_then(half: Workspace) -> None:
    operation = half.ok("promote", "half@2", "--soak", "100s", "--no-wait", "-o", "name").strip()
    await_soak(half)
    url, database = half.rest(), half.root / "deployctl.db"
    away = {path: path.with_name(f"away-{path.name}") for path in half.root.glob("deployctl.db*")}
    for path, place in away.items():
        path.rename(place)
    database.mkdir()

    ended = fail_requests(half, operation, url)

    database.rmdir()
    for path, place in away.items():
        place.rename(path)

    assert ended["exit_code"] == 5, ended
    assert ask(url, "half") == 3.0
    assert half.json("status")["targets"][0]["models"][0]["labels"] == {"stable": 1}
    assert half.json("audit", "verify")["intact"] is True


def test_a_version_under_which_the_server_ends_is_not_started_again(half: Workspace) -> None:
    child = half.start("promote", "half@2", "--soak", "100s")
    await_soak(half)
    os.kill(int(half.json("status")["targets"][0]["detail"]["pid"]), signal.SIGKILL)

    _, words = child.communicate(timeout=TIMEOUT_S)

    assert child.returncode == 5, words
    assert "half@2 lost its server" in words
    assert "@1 serves once the server is up" in words
    half.ok("up")
    assert ask(half.rest(), "half") == 3.0
