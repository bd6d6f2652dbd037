"""A directory with settings, a repository and a database, and the command run in it as a user would."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.models import ROOT, UPSTREAM

# y = x/2 + 2, y = x/2 + 2 by TensorFlow 2, and y = x/2 + 3
HALF_PLUS_TWO = UPSTREAM / "saved_model_half_plus_two_cpu" / "00000123"
HALF_PLUS_TWO_TF2 = UPSTREAM / "saved_model_half_plus_two_tf2_cpu" / "00000123"
HALF_PLUS_THREE = UPSTREAM / "saved_model_half_plus_three" / "00000123"
COMMAND = (sys.executable, "-m", "deployctl.cli")
TIMEOUT_S = 120.0
TARGET = "[targets.local]\nrest_port = 0\ngrpc_port = 0\ngates = []\n"
# Root without the right to pass over the permissions of files (util-linux).
_BOUND = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
_DATA = "variables/variables.data-00000-of-00001"


@dataclass
class Workspace:
    """A user's directory; `down` ends every server that was started in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, root: Path, *, targets: str = TARGET) -> Workspace:
        """Returns an initialised workspace; its targets take free ports and, since models differ, no gates."""
        root.mkdir(parents=True, exist_ok=True)
        (root / "deployctl.toml").write_text(targets)
        workspace = cls(root)
        workspace.ok("init")
        return workspace

    @property
    def child_environment(self) -> dict[str, str]:
        """What the command gets: nothing of the settings of whoever runs the tests."""
        kept = {name: value for name, value in os.environ.items() if "DEPLOYCTL" not in name}
        home = {"HOME": str(self.root), "PYTHONPATH": str(ROOT), "COLUMNS": "100", "CUDA_VISIBLE_DEVICES": ""}
        return {**kept, **home, **self.environment}

    def start(
        self,
        *words: str,
        stdout: int = subprocess.PIPE,
        directory: Path | None = None,
        program: Sequence[str] = COMMAND,
    ) -> subprocess.Popen[str]:
        """Starts a command and does not wait for it; `program` is what runs its words."""
        return subprocess.Popen(
            [*program, *words],
            cwd=directory or self.root,
            env=self.child_environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *words: str,
        text: str | None = None,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        bound: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end; `bound`, by the permissions of files even where root runs the tests."""
        return subprocess.run(
            [*(_BOUND if bound and os.geteuid() == 0 else ()), *COMMAND, *words],
            cwd=directory or self.root,
            env={**self.child_environment, **(environment or {})},
            input=text or "",
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def ok(self, *words: str, **options: Any) -> str:
        """Runs a command that succeeds, and returns what it writes."""
        done = self.run(*words, **options)
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *words: str, **options: Any) -> dict[str, Any]:
        """Runs a command that succeeds with `-o json`, and returns its one document."""
        document: dict[str, Any] = json.loads(self.ok(*words, "-o", "json", **options))
        return document

    def fails(self, code: int, *words: str, hint: str = "", **options: Any) -> str:
        """Runs a command that must fail with `code`, an error in one sentence and a hint; returns stderr."""
        done = self.run(*words, **options)
        assert done.returncode == code, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout == "", done.stdout
        lines = done.stderr.splitlines()
        if lines[0].startswith("Usage:"):
            return done.stderr
        errors = [line for line in lines if line.startswith("error: ")]
        assert len(errors) == 1, done.stderr
        hints = [line for line in lines if line.startswith("hint:  ")]
        assert len(hints) == 1, done.stderr
        assert hint in hints[0], done.stderr
        return done.stderr

    def publish(self, model: str, *exports: Path) -> None:
        """Publishes exports in this order."""
        for export in exports:
            self.ok("publish", str(export), "--model", model)

    def rest(self, target: str = "local") -> str:
        """Returns the URL of a target's REST side."""
        targets = self.json("status", target)["targets"]
        url: str = targets[0]["endpoints"]["rest"]
        return url

    def down(self) -> None:
        """Ends the servers of all targets, by force if the command cannot."""
        for record in self.root.glob(".deployctl/*/server.json"):
            self.run("down", record.parent.name, "--timeout", "5")
        for record in self.root.glob(".deployctl/*/server.json"):
            with suppress(OSError, ValueError, KeyError):
                os.kill(int(json.loads(record.read_text())["pid"]), signal.SIGKILL)


def ask(url: str, model: str, x: float = 2.0, *, label: str | None = "stable") -> float:
    """Returns what a client gets for `x`."""
    path = f"/v1/models/{model}" + (f"/labels/{label}" if label else "") + ":predict"
    request = urllib.request.Request(url + path, json.dumps({"instances": [x]}).encode())
    with urllib.request.urlopen(request, timeout=30) as response:
        answer: float = json.load(response)["predictions"][0]
    return answer


def with_unknown_op(destination: Path) -> Path:
    """Makes half_plus_two with an op that TensorFlow does not know; to the eye it is a good export."""
    shutil.copytree(HALF_PLUS_TWO, destination)
    graph = destination / "saved_model.pb"
    graph.write_bytes(re.sub(rb"\bMul\b", b"Mvl", graph.read_bytes()))
    return destination


def truncate(version: Path) -> None:
    """Cuts the end of a version's variables off."""
    data = version / _DATA
    data.write_bytes(data.read_bytes()[:-4])
