"""A command's runner when an interrupt comes before anything of it is ready."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deployctl.daemon.api.command_files import Command
from deployctl.errors import LockedError
from tests.support.workspace import TIMEOUT_S, Workspace

# After the runner is known: its command may not be, may be loading, and may be at work.
_LATER_S = (0.0, 0.05, 1.0)


def _request(directory: Path, *words: str) -> None:
    directory.mkdir()
    request = {"words": words, "terminal": {}, "environment": {}, "inputs": [], "outputs": []}
    (directory / "request.json").write_text(json.dumps(request))


@pytest.mark.parametrize("later_s", _LATER_S)
def test_an_interrupt_ends_a_command_however_early_it_comes(workspace: Workspace, later_s: float) -> None:
    directory = workspace.root / "command"
    _request(directory, "status", "--watch")
    starting = [sys.executable, "-m", "deployctl.cli.remote_runner", str(directory)]
    with (directory / "runner.log").open("wb") as log:
        subprocess.run(
            starting,
            cwd=workspace.root,
            env=workspace.child_environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            timeout=TIMEOUT_S,
            check=True,
        )
    runner = int(json.loads((directory / "process.json").read_text())["pid"])
    threading.Event().wait(later_s)

    os.kill(runner, signal.SIGINT)

    deadline = time.monotonic() + TIMEOUT_S
    while Path(f"/proc/{runner}").exists():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    frames = [json.loads(line) for line in (directory / "frames").read_text().splitlines()]
    assert frames[-1] == {"exit": 130}
    assert "Traceback" not in "".join(map(str, frames)) + (directory / "runner.log").read_text()


def test_a_command_that_is_being_started_cannot_be_told_yet(workspace: Workspace) -> None:
    directory = workspace.root / "command"
    _request(directory, "status")

    with pytest.raises(LockedError, match="is being started"):
        Command(directory).interrupt()
