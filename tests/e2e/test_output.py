"""What goes where: results to stdout, progress to stderr, one document in JSON, no colour in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.remote import Client
from tests.support.workspace import COMMAND, HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-output")]


@pytest.fixture(scope="module")
def with_model(served_either_way: Workspace) -> Workspace:
    served_either_way.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    served_either_way.ok("promote", "half@1")
    return served_either_way


def is_elsewhere(workspace: Workspace) -> bool:
    """Whether its commands are run by a daemon, under the daemon's settings."""
    return isinstance(workspace, Client)


@pytest.mark.parametrize(
    "words",
    [
        "publish {export} --model half",
        "promote half@2",
        "rollback half",
        "promote half@2 --dry-run",
        "status",
        "history",
        "versions",
        "versions half",
        "show half@1",
        "diff half@1 half@2",
        "verify half@1",
        "adopt half",
        "inspect {export}",
        "predict half --instances [2.0]",
        "config show",
        "db current",
        "db check",
        "db rebuild",
        "audit verify",
        "up",
        "init",
    ],
)
def test_json_is_one_document_with_its_schema_while_progress_goes_to_stderr(with_model: Workspace, words: str) -> None:
    if words == "init" and is_elsewhere(with_model):
        return  # it makes settings where it is typed, and others than those that the environment names
    done = with_model.run(*words.replace("{export}", str(HALF_PLUS_TWO)).split(), "-o", "json")

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert next(iter(document)) == "schema"
    assert document["schema"].startswith("deployctl.")
    assert document["schema"].endswith("/1")
    assert "\x1b" not in done.stdout + done.stderr


def test_steps_are_on_stderr_and_the_result_is_one_line(with_model: Workspace) -> None:
    done = with_model.run("promote", "half@2" if "@1" in with_model.ok("status", "-o", "name") else "half@1")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["load", "labels"]


def test_a_closed_pipe_ends_a_command_quietly(with_model: Workspace) -> None:
    for words in (("history", "-n", "1000"), ("inspect", str(HALF_PLUS_TWO), "--ops"), ("--help",), ("versions",)):
        child = with_model.start(*words)
        assert child.stdout is not None
        child.stdout.close()
        assert child.stderr is not None
        problems = child.stderr.read()
        child.wait(TIMEOUT_S)
        child.stderr.close()
        assert problems == "", words


def test_closed_standard_streams_are_no_bug(with_model: Workspace) -> None:
    for closing in ("2>&-", ">&-", ">&- 2>&-", "<&-"):
        done = subprocess.run(
            ["sh", "-c", f"exec {' '.join(COMMAND)} versions nothing {closing}"],
            cwd=with_model.root,
            env=with_model.child_environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 9, (closing, done.stderr)
        assert "Traceback" not in done.stderr


def in_terminal(
    workspace: Workspace, *words: str, columns: int = 200, environment: Mapping[str, str] | None = None
) -> str:
    """Returns what a terminal of so many columns would get."""
    leader, follower = pty.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        child = subprocess.Popen(
            [*COMMAND, *words],
            cwd=workspace.place if isinstance(workspace, Client) else workspace.root,
            env={**workspace.child_environment, "TERM": "xterm", **(environment or {})},
            stdin=follower,
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        follower = -1
        shown, deadline = b"", time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            if select.select([leader], [], [], 0.1)[0]:
                try:
                    shown += os.read(leader, 65536)
                except OSError:
                    break
        child.wait(TIMEOUT_S)
        return shown.decode()
    finally:
        os.close(leader)
        if follower >= 0:
            os.close(follower)


def test_a_terminal_gets_colour_unless_no_color_is_set(with_model: Workspace) -> None:
    assert "\x1b[" in in_terminal(with_model, "status")
    assert "\x1b[" in in_terminal(with_model, "versions", "nothing")
    for plain in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b" not in in_terminal(with_model, "status", environment=plain)
    assert "\x1b" not in in_terminal(with_model, "status", "-o", "json")


def test_a_narrow_terminal_shows_every_column_and_ends_lines_as_terminals_do(with_model: Workspace) -> None:
    plain = {"NO_COLOR": "1"}
    wide = in_terminal(with_model, "versions", "half", environment=plain).split("\r\n")
    narrow = in_terminal(with_model, "versions", "half", columns=40, environment=plain).split("\r\n")
    state = in_terminal(with_model, "status", "--model", "half", columns=60, environment=plain).split("\r\n")

    assert len(wide) == len(narrow) == len(with_model.ok("versions", "half").splitlines()) + 1
    assert max(map(len, wide)) > 40 >= max(map(len, narrow))
    assert len(narrow[0].split()) == len(wide[0].split())
    assert (state[0].split()[-1], state[1].split()[-1]) == ("STATE", "healthy")


def test_passwords_are_neither_shown_nor_recorded(with_model: Workspace, tmp_path: Path) -> None:
    url = "postgresql://ada:s3cret@127.0.0.1:9/lineage"
    if is_elsewhere(with_model):
        assert "s3cret" not in with_model.fails(2, "--set", f"lineage.url={url}", "config", "show")
        with_model.ok("publish", str(HALF_PLUS_TWO), "--model", "masked", "--run", "a://ada:s3cret@b/1")
        commands = [event["actor"]["command"] for event in with_model.json("history", "masked")["events"]]
        assert "--run=a://ada:***@b/1" in commands[0]
        return

    shown = with_model.ok("--set", f"lineage.url={url}", "config", "show", "--origin")

    assert "s3cret" not in shown
    assert "ada:***@127.0.0.1" in shown
    # A setting in which no password is looked for, so that the command can run to its end.
    with_model.ok("--set", f"state_dir={tmp_path}/a://ada:s3cret@b", "publish", str(HALF_PLUS_TWO), "--model", "masked")
    assert "s3cret" not in with_model.ok("history", "masked", "-o", "json")


def test_config_show_tells_the_origin_of_each_value(with_model: Workspace) -> None:
    environment = {"DEPLOYCTL_LINEAGE_BUSY_TIMEOUT_S": "7s"}
    flags = () if is_elsewhere(with_model) else ("--set", "state_dir=.deployctl")
    document = with_model.json(*flags, "config", "show", environment=environment)

    origins = {row["key"]: (row["value"], row["origin"]) for row in document["settings"]}
    if is_elsewhere(with_model):  # under the settings of the machine that it runs on
        assert origins["lineage.busy_timeout_s"] == (5.0, "default")
    else:
        assert origins["state_dir"] == (".deployctl", "flag --set")
        assert origins["lineage.busy_timeout_s"] == (7.0, "environment DEPLOYCTL_LINEAGE_BUSY_TIMEOUT_S")
    assert origins["targets.local.rest_port"] == (0, f"file {with_model.root / 'deployctl.toml'}")
    assert origins["targets.local.warm_standby"] == (1, "default")


def test_doctor_finds_everything_well_and_says_what_is_not(with_model: Workspace) -> None:
    healthy = with_model.json("doctor")
    assert healthy["healthy"] is True
    (with_model.root / "models" / "half" / "007").mkdir()

    done = with_model.run("doctor")

    (with_model.root / "models" / "half" / "007").rmdir()
    assert done.returncode == 10
    assert "half/007" in done.stdout
    assert "mend: " in done.stdout
