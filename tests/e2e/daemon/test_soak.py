"""A daemon at work for minutes: exports, promotions and faults, and nothing that grows."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import RunningDaemon, daemon
from tests.support.workspace import HALF_PLUS_TWO, Workspace

SOAK_S = float(os.environ.get("DEPLOYCTL_DAEMON_SOAK_S", "120"))
EVERY_S = 1.0
# What a fault is of every so many exports.
SERVER_KILLED, ROLLED_BACK, BROKEN = 20, 7, 11
SETTINGS = """
[targets.local]
rest_port = 0
grpc_port = 0
gates = ["integrity", "signature"]
[targets.local.health]
probe_interval_s = "2s"
[daemon]
reconcile_interval_s = "1s"
[inboxes.exports]
path = "exports"
[rules.half]
models = ["half"]
promote = ["local"]
keep = 5
"""


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S * 3 + 300)
def test_nothing_grows_while_exports_arrive_and_servers_die(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "work", targets=SETTINGS)
    (workspace.root / "exports" / "half").mkdir(parents=True)
    try:
        workspace.publish("half", HALF_PLUS_TWO)
        workspace.ok("up")
        workspace.ok("promote", "half@1")
        with daemon(workspace) as running:
            running.await_line("leading")
            soak(workspace, running)
            assert running.stop() == 0
        assert workspace.json("audit", "verify")["intact"]
    finally:
        workspace.down()


def soak(workspace: Workspace, running: RunningDaemon) -> None:
    pause, began, dropped, early = threading.Event(), time.monotonic(), 0, None
    while time.monotonic() - began < SOAK_S:
        dropped += 1
        drop(workspace, dropped, broken=dropped % BROKEN == 0)
        if dropped % SERVER_KILLED == 0:
            kill_server(workspace)
        if dropped % ROLLED_BACK == 0:
            # It may meet a server that was just killed, or an operation of the daemon.
            workspace.run("rollback", "half", "--reason", "soak", "--lock-timeout", "20s")
        pause.wait(max(0.0, began + dropped * EVERY_S - time.monotonic()))
        if early is None and time.monotonic() - began > SOAK_S / 3:
            early = usage(running.pid)
    assert early is not None
    broken = dropped // BROKEN
    until(lambda: len(handled(workspace)) == dropped, f"{dropped} exports to be handled")
    until(lambda: workspace.run("status").returncode == 0, "the target to be healthy")
    published = [event for event in events(workspace) if event["kind"] == "version.published"]
    assert len(published) == dropped - broken + 1
    late = usage(running.pid)
    assert late["threads"] <= early["threads"] + 2, (early, late)
    assert late["files"] <= early["files"] + 10, (early, late)
    assert late["memory"] <= early["memory"] * 1.25 + 8_000_000, (early, late)


def drop(workspace: Workspace, number: int, *, broken: bool) -> None:
    """Renames an export with bytes of its own into the inbox."""
    made = workspace.root / "made" / str(number)
    shutil.copytree(HALF_PLUS_TWO, made)
    (made / "assets.extra").mkdir()
    (made / "assets.extra" / "number").write_text(str(number))
    if broken:
        (made / "saved_model.pb").write_bytes(b"no model")
    made.rename(workspace.root / "exports" / "half" / f"{number:06}")


def events(workspace: Workspace) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workspace.json("history", "half", "--limit", "100000")["events"]
    return found


def handled(workspace: Workspace) -> set[str]:
    """The operations that published or refused an export; the first event is from before the daemon."""
    kinds = {"version.published", "version.refused"}
    return {event["operation"] for event in events(workspace) if event["kind"] in kinds and event["sequence"] > 1}


def kill_server(workspace: Workspace) -> None:
    """Kills the server that answers; one that was killed before may not be back yet."""
    (target,) = json.loads(workspace.run("status", "-o", "json").stdout)["targets"]
    if target["state"] == "ready":
        with suppress(ProcessLookupError):
            os.kill(int(target["detail"]["pid"]), signal.SIGKILL)


def usage(pid: int) -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "memory": int(lines["VmRSS"].split()[0]) * 1024,
        "threads": int(lines["Threads"]),
        "files": len(os.listdir(f"/proc/{pid}/fd")),
    }


def until(true: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        pause.wait(0.5)
