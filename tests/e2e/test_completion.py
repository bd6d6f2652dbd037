"""What Tab offers: real models, versions, labels and targets; and nothing, quickly, where there is trouble."""

from __future__ import annotations

import os
import pty
import select
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.workspace import COMMAND, HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-completion")]

# A shell waits for this; a busy machine is slower than a user's.
QUICKLY_S = 10.0


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """Models `half` (1, 2; labels stable and canary) and `other`, on two targets of which one is up."""
    text = "".join(f"[targets.{name}]\nrest_port = 0\ngrpc_port = 0\ngates = []\n" for name in ("local", "live"))
    workspace = Workspace.make(tmp_path_factory.mktemp("shelf"), targets=text)
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.publish("other", HALF_PLUS_TWO)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2", "--label", "canary")
    yield workspace
    workspace.down()


def run(workspace: Workspace, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        COMMAND,
        cwd=workspace.root,
        env={**workspace.child_environment, **environment},
        capture_output=True,
        text=True,
        timeout=QUICKLY_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split()


def bash(workspace: Workspace, *parts: str) -> list[str]:
    """What bash's script asks; `parts` are the words as bash parts them."""
    words = ("deployctl", *parts)
    variables = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    return run(workspace, {"_DEPLOYCTL_COMPLETE": "complete_bash", **variables})


def zsh(workspace: Workspace, line: str) -> str:
    return " ".join(run(workspace, {"_DEPLOYCTL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}))


def fish(workspace: Workspace, line: str) -> list[str]:
    variables = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return run(workspace, {"_DEPLOYCTL_COMPLETE": "complete_fish", **variables})


def test_bash_is_offered_models_versions_labels_and_targets(shelf: Workspace) -> None:
    assert bash(shelf, "promote", "") == ["half@", "other@"]
    assert bash(shelf, "versions", "o") == ["other"]
    assert bash(shelf, "promote", "half", "@") == ["@latest", "@canary", "@stable", "@2", "@1"]
    assert bash(shelf, "predict", "half", "@", "st") == ["@stable"]
    assert bash(shelf, "promote", "half@st") == ["half@stable"]
    assert bash(shelf, "promote", "half", "@", "1", "--target", "") == ["local", "live"]
    assert bash(shelf, "status", "li") == ["live"]
    assert {"promote", "predict", "publish"} <= set(bash(shelf, "p"))


def test_one_model_that_fits_is_offered_with_its_versions(shelf: Workspace) -> None:
    assert bash(shelf, "promote", "oth") == ["other@latest", "other@1"]


def test_a_rollback_is_offered_versions_alone_since_it_takes_nothing_else(shelf: Workspace) -> None:
    assert bash(shelf, "rollback", "oth") == ["other@1"]
    assert bash(shelf, "rollback", "half", "@") == ["@2", "@1"]


def test_the_labels_of_the_model_are_offered(shelf: Workspace) -> None:
    assert bash(shelf, "promote", "half", "@", "1", "--label", "") == ["canary", "stable"]
    assert bash(shelf, "promote", "half", "@", "1", "--label", "c") == ["canary"]
    assert bash(shelf, "promote", "other", "@", "1", "--label", "") == []
    assert bash(shelf, "promote", "--label", "") == []


def test_zsh_and_fish_are_offered_the_same(shelf: Workspace) -> None:
    assert '"half@stable"' in zsh(shelf, "deployctl promote half@")
    assert '"live"' in zsh(shelf, "deployctl up l")
    assert fish(shelf, "deployctl promote half@s") == ["half@stable"]
    assert fish(shelf, "deployctl down ") == ["local", "live"]


def test_the_settings_that_the_line_names_are_asked(shelf: Workspace, tmp_path: Path) -> None:
    elsewhere = Workspace(tmp_path)

    assert bash(elsewhere, "--config", str(shelf.root / "deployctl.toml"), "status", "li") == ["live"]


def test_with_trouble_nothing_is_offered_quickly(shelf: Workspace, tmp_path: Path) -> None:
    assert bash(Workspace(tmp_path), "promote", "") == []
    assert bash(Workspace(tmp_path), "up", "") == []
    broken = Workspace(tmp_path / "broken")
    shutil.copytree(shelf.root, broken.root, ignore=shutil.ignore_patterns(".deployctl", "models"))

    assert bash(broken, "promote", "") == []
    assert bash(broken, "promote", "half", "@") == ["@latest", "@canary", "@stable"]
    (broken.root / "deployctl.db").write_bytes(b"no database" * 999)
    assert bash(broken, "promote", "half", "@") == ["@latest"]
    (broken.root / "deployctl.toml").write_text("[")
    assert bash(broken, "promote", "half", "@") == []
    assert bash(broken, "up", "") == []


def test_a_locked_database_does_not_hold_the_shell_up(shelf: Workspace) -> None:
    locker = sqlite3.connect(shelf.root / "deployctl.db", isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    try:
        assert "@2" in bash(shelf, "promote", "half", "@")
    finally:
        locker.close()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes_a_reference(shelf: Workspace, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "deployctl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    script.chmod(0o755)
    path = f"{script.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**shelf.child_environment, "PATH": path, "PS1": "> ", "TERM": "dumb"}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(shelf.root)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)

    def shows(text: str) -> bool:
        seen, deadline = b"", time.monotonic() + 3 * QUICKLY_S
        while time.monotonic() < deadline and text.encode() not in seen:
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 65536)
        return text.encode() in seen

    try:
        os.write(terminal, b'eval "$(_DEPLOYCTL_COMPLETE=source_bash deployctl)"; echo installed-$?\n')
        assert shows("installed-0")
        os.write(terminal, b"deployctl promote half@st\t")
        assert shows("half@stable ")
        os.write(terminal, b"\x15exit\n")
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
