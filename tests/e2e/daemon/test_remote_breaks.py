"""Commands of clients elsewhere when something breaks, and what their connections are made of."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import daemon
from tests.support.halting import halted
from tests.support.remote import address_of, as_client, client_of, commands_directory
from tests.support.tls import self_signed
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TARGET, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.xdist_group("e2e-remote")]

_IDLE = {"DEPLOYCTL_DAEMON_DRIFT": "report", "DEPLOYCTL_TARGETS_LOCAL_HEALTH_START": "false"}


def _await(reached: Callable[[], Any]) -> Any:
    """Returns what `reached` does once that is true of anything; fails after two minutes."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (found := reached()):
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    return found


def _given(host: Workspace) -> list[Path]:
    """Returns the directories of the commands that clients have given."""
    return [path.parent for path in commands_directory(host).glob("commands/*/*/request.json")]


def test_a_promotion_outlives_a_daemon_that_is_killed(workspace: Workspace) -> None:
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    with daemon(workspace, **_IDLE) as running:
        url = address_of(running)
        client = as_client(workspace, url)
        promoting = client.start("promote", "half@2")
        (given,) = _await(lambda: [each for each in _given(workspace) if (each / "process.json").exists()])
        operation = json.loads((given / "frames").read_text().splitlines()[0])["began"]["operation"]
        runner = int(json.loads((given / "process.json").read_text())["pid"])
        with halted(runner):
            running.kill()
    with daemon(workspace, **_IDLE, DEPLOYCTL_DAEMON_LISTEN=url.partition("//")[2]) as running:
        address_of(running)
        _, words = promoting.communicate(timeout=TIMEOUT_S)
        assert promoting.returncode == 0, words
        assert client.json("op", "wait", operation)["exit_code"] == 0
        assert running.stop() == 0
    assert ask(workspace.rest(), "half") == 4.0
    kinds = [event["kind"] for event in workspace.json("history", "half")["events"]]
    assert kinds.count("revision.pending") == 2


def test_a_certificate_is_accepted_only_from_an_authority_that_is_named(workspace: Workspace, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    files = {"DEPLOYCTL_DAEMON_TLS_CERT_FILE": str(certificate), "DEPLOYCTL_DAEMON_TLS_KEY_FILE": str(key)}
    with client_of(workspace, **files) as client:
        assert client.environment["DEPLOYCTL_SERVER"].startswith("https://")
        assert client.ok("--ca-file", str(certificate), "versions", "-o", "name") == ""
        named = {"SSL_CERT_FILE": str(certificate)}
        assert client.json("publish", str(HALF_PLUS_TWO), "--model", "half", environment=named)["version"] == 1

        assert "cannot be trusted" in client.fails(10, "versions", hint="--ca-file")
        client.fails(2, "--ca-file", str(tmp_path / "absent"), "versions")


def test_what_is_read_there_is_what_is_read_here(workspace: Workspace) -> None:
    with (workspace.root / "deployctl.toml").open("a") as settings:
        settings.write(TARGET.replace("local", "other"))
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    with client_of(workspace) as client:
        for words in (
            ("versions", "half"),
            ("show", "half@1"),
            ("diff", "half@1", "half@2"),
            ("history", "half"),
            ("promote", "half@2", "--dry-run"),
            ("status", "local"),
        ):
            here, there = workspace.json(*words), client.json(*words)
            assert _timeless(here) == _timeless(there), words
        limited = as_client(workspace, client.environment["DEPLOYCTL_SERVER"], words=("--target", "other"))
        for words in (("promote", "half@2"), ("status", "local"), ("rollback", "half")):
            limited.fails(1, *words)


def test_an_interrupt_ends_the_command_there_too(workspace: Workspace) -> None:
    with client_of(workspace) as client:
        watching = client.start("status", "--watch")
        (given,) = _await(lambda: [each for each in _given(workspace) if (each / "process.json").exists()])
        _await(lambda: "stdout" in (given / "frames").read_text())

        watching.send_signal(signal.SIGINT)

        _, words = watching.communicate(timeout=TIMEOUT_S)
        assert (watching.returncode, "Traceback" in words) == (130, False), words
        process = int(json.loads((given / "process.json").read_text())["pid"])
        _await(lambda: not Path(f"/proc/{process}").exists())
        assert client.ok("versions", "-o", "name") == ""


def _timeless(document: Any) -> Any:
    """Returns a document without what differs from one moment to the next."""
    if isinstance(document, dict):
        return {
            name: _timeless(value)
            for name, value in document.items()
            if not name.endswith(("_s", "_at", "_ms")) and name not in {"operation", "age", "uptime"}
        }
    return [_timeless(each) for each in document] if isinstance(document, list) else document


def test_a_reader_that_leaves_ends_what_it_read(workspace: Workspace) -> None:
    workspace.publish("half", HALF_PLUS_TWO)
    with client_of(workspace) as client:
        reading, writing = os.pipe()
        os.close(reading)
        done = client.start("history", "half", stdout=writing)
        os.close(writing)
        _, words = done.communicate(timeout=TIMEOUT_S)

        assert (done.returncode, "Traceback" in words) == (0, False), words
        (given,) = _given(workspace)
        process = int(json.loads((given / "process.json").read_text())["pid"])
        _await(lambda: not Path(f"/proc/{process}").exists())


# A client that gives a connection up sooner than after a minute, and says what comes.
_HASTY = """
import sys
from deployctl.cli import app, remote

remote._RECONNECT_S = 1.0
take = remote._Listener._take

def take_and_tell(self, frame):
    take(self, frame)
    print("came:", *frame, file=sys.stderr, flush=True)

remote._Listener._take = take_and_tell
app.main()
"""


def _runner_of(given: Path) -> int:
    return int(json.loads((given / "process.json").read_text())["pid"])


def _begun(host: Workspace) -> Path:
    """Returns the directory of the only command that was given, once it is run."""
    (given,) = _await(lambda: [each for each in _given(host) if (each / "process.json").exists()])
    return Path(given)


def test_who_loses_a_daemon_for_good_is_told_what_may_go_on_there(workspace: Workspace) -> None:
    workspace.publish("half", HALF_PLUS_TWO)
    lock = workspace.root / "models" / "half" / ".deployctl" / "lock"
    with daemon(workspace, **_IDLE) as running, lock.open("r+b") as held:
        client = as_client(workspace, address_of(running))
        # The publishing waits for this lock before it shows the version.
        fcntl.flock(held, fcntl.LOCK_EX)
        hasty = [sys.executable, "-c", _HASTY]
        publishing = client.start("publish", str(HALF_PLUS_THREE), "--model", "half", program=hasty)
        assert publishing.stderr is not None
        assert publishing.stderr.readline() == "came: began\n"
        given = _begun(workspace)
        running.kill()
        _, words = publishing.communicate(timeout=TIMEOUT_S)

    operation = json.loads((given / "frames").read_text().splitlines()[0])["began"]["operation"]
    assert publishing.returncode == 4, words
    assert "what became of the publish there is not known" in words
    assert f"hint:  deployctl --server {client.environment['DEPLOYCTL_SERVER']} op wait {operation}" in words
    # What was begun is brought to its end, without client and daemon.
    _await(lambda: not Path(f"/proc/{_runner_of(given)}").exists())
    assert workspace.json("op", "wait", operation)["outcome"] == "published"
    assert workspace.ok("versions", "half", "-o", "name") == "half@1\nhalf@2\n"


def test_what_is_shown_to_nobody_ends_though_client_and_daemon_are_gone(workspace: Workspace) -> None:
    with daemon(workspace, **_IDLE) as running:
        watching = as_client(workspace, address_of(running)).start("status", "--watch")
        given = _begun(workspace)
        _await(lambda: "stdout" in (given / "frames").read_text())
        running.kill()
        watching.kill()
        watching.communicate(timeout=TIMEOUT_S)
    runner = _runner_of(given)
    assert Path(f"/proc/{runner}").exists()

    long_ago = time.time() - 120.0
    os.utime(given / "request.json", (long_ago, long_ago))

    _await(lambda: not Path(f"/proc/{runner}").exists())
    assert json.loads((given / "frames").read_text().splitlines()[-1]) == {"exit": 130}


def test_an_interrupt_of_one_client_leaves_the_others_alone(workspace: Workspace) -> None:
    workspace.ok("up")
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.publish("other", HALF_PLUS_TWO)
    workspace.ok("promote", "half@1")
    place = workspace.root / ".deployctl" / "local"
    server = int(json.loads((place / "server.json").read_text())["pid"])
    with client_of(workspace) as client:
        # With a server that does not answer, it is not done before it is interrupted.
        with halted(server):
            interrupted = client.start("promote", "half@2")
            command = _await(lambda: _process_in(place / "leases" / "half.model.json"))
            with halted(command):
                other = client.start("promote", "other@1")
                interrupted.send_signal(signal.SIGINT)
                # The interrupt has come to the command's process, which is halted.
                _await(lambda: _pending_signals(command) & 1 << signal.SIGINT - 1)
        _, words = interrupted.communicate(timeout=TIMEOUT_S)
        _, others = other.communicate(timeout=TIMEOUT_S)

        assert (interrupted.returncode, "Traceback" in words) == (130, False), words
        assert other.returncode == 0, others
        assert (ask(workspace.rest(), "half"), ask(workspace.rest(), "other")) == (3.0, 3.0)
        assert client.run("status").returncode == 0


def _process_in(lease: Path) -> int | None:
    with suppress(OSError, ValueError):
        return int(json.loads(lease.read_text())["process"]["pid"])
    return None


def _pending_signals(pid: int) -> int:
    """Returns the signals that a process has not taken yet, one bit each (proc_pid_status(5), ShdPnd)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("ShdPnd:")), 16)
