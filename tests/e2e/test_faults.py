"""Clients while versions change, and commands that are killed or interrupted at any moment."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TIMEOUT_S, Workspace, ask

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

KILLS = 50
CHANGES = int(os.environ.get("DEPLOYCTL_SOAK_CHANGES", "20"))


class Client:
    """Asks one model in a closed loop, over one connection."""

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._path = path
        self._stop = threading.Event()
        self.answers: dict[float, int] = {}
        self.failures: list[str] = []

    def loop(self) -> None:
        body = json.dumps({"instances": [2.0]})
        # A little thinking time leaves the machine's processors to what is tested.
        while not self._stop.wait(0.002):
            try:
                self._connection.request("POST", self._path, body)
                response = self._connection.getresponse()
                text = response.read().decode()
            except OSError as error:
                self.failures.append(repr(error))
                self._connection.close()
                continue
            if response.status != 200:
                self.failures.append(text)
                continue
            answer = json.loads(text)["predictions"][0]
            self.answers[answer] = self.answers.get(answer, 0) + 1

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.loop)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(TIMEOUT_S)
            self._connection.close()


@pytest.mark.xdist_group("e2e-clients")
@pytest.mark.parametrize("routing", ["label", "latest"])
def test_no_request_fails_during_promotions_and_rollbacks(tmp_path: Path, routing: str) -> None:
    text = f"[targets.local]\nrest_port = 0\ngrpc_port = 0\ngates = []\nrouting = '{routing}'\n"
    workspace = Workspace.make(tmp_path / "work", targets=text)
    try:
        workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
        workspace.ok("up")
        workspace.ok("promote", "half@1")
        path = "/v1/models/half" + ("/labels/stable" if routing == "label" else "") + ":predict"
        client = Client(workspace.rest(), path)
        with client.running():
            for number in range(CHANGES // 2):
                workspace.ok(*(("rollback", "half") if number % 2 else ("promote", "half@2")))
                if number == CHANGES // 8:
                    early = memory(workspace)
        assert client.failures == []
        assert set(client.answers) == {3.0, 4.0}
        assert memory(workspace) < 1.3 * early
    finally:
        workspace.down()


def memory(workspace: Workspace) -> int:
    """Returns what the server holds, in kB."""
    pid = workspace.json("status")["targets"][0]["detail"]["pid"]
    (line,) = (each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1])


def timed(workspace: Workspace, *words: str) -> float:
    """Runs a command and returns the seconds that it took."""
    started = time.monotonic()
    workspace.ok(*words)
    return time.monotonic() - started


def interruptions(workspace: Workspace) -> list[Any]:
    """Returns the evidence of each promotion that failed."""
    events = workspace.json("history", "half", "-n", "1000")["events"]
    return [event["data"]["evidence"] for event in events if event["kind"] == "revision.failed"]


def journals(workspace: Workspace) -> set[Path]:
    """Returns the journals of the operations that were begun."""
    return set((workspace.root / ".deployctl" / "operations").glob("*.json"))


def await_phase(workspace: Workspace, child: subprocess.Popen[str], known: set[Path], count: int) -> None:
    """Returns when an operation that is not `known` has entered `count` phases, or `child` has ended."""
    deadline = time.monotonic() + TIMEOUT_S
    while child.poll() is None:
        assert time.monotonic() < deadline
        for path in journals(workspace) - known:
            with suppress(FileNotFoundError):
                if len(json.loads(path.read_text())["phases"]) >= count:
                    return
        threading.Event().wait(0.002)


@pytest.mark.xdist_group("e2e-kills")
def test_a_promotion_that_is_killed_at_any_moment_leaves_old_or_new_and_the_next_command_works(
    workspace: Workspace,
) -> None:
    workspace.ok("up")
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("promote", "half@1")
    url = workspace.rest()
    took_s = min(timed(workspace, "promote", f"half@{version}") for version in (2, 1, 2))

    for number in range(KILLS):
        known = journals(workspace)
        child = workspace.start("promote", f"half@{2 if ask(url, 'half') == 3.0 else 1}", stdout=subprocess.DEVNULL)
        if number % 2:
            # In the middle of its work, however fast the machine is just now.
            await_phase(workspace, child, known, number % 12 // 2 + 1)
        else:
            threading.Event().wait(took_s * (0.5 + number / KILLS))
        child.kill()
        _, words = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode in (0, -signal.SIGKILL), words
        assert ask(url, "half") in (3.0, 4.0)
        if number % 10 == 9:
            wanted = number // 10 % 2 + 1
            assert workspace.json("promote", f"half@{wanted}")["version"] == wanted
            assert ask(url, "half") == wanted + 2.0

    workspace.ok("up")
    assert workspace.run("status").returncode == 0
    assert workspace.json("audit", "verify")["intact"] is True
    ended = interruptions(workspace)
    assert ended, "no promotion was killed half-way"
    assert all(evidence == {"error": "interrupted", "restored": True} for evidence in ended)


# Done, restored, or ended with 130. A signal that comes before Python can take it, while it makes a class for an
# import, or when the command is done, ends it by the signal, for which a shell shows 130 too.
INTERRUPTED = (0, 5, 130, -signal.SIGINT)


@pytest.mark.xdist_group("e2e-interrupts")
def test_an_interrupted_promotion_ends_in_words_and_keeps_something_serving(workspace: Workspace) -> None:
    workspace.ok("up")
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("promote", "half@1")
    url = workspace.rest()
    codes = set()

    for number in range(12):
        before = ask(url, "half")
        wanted = 2 if before == 3.0 else 1
        child = workspace.start("promote", f"half@{wanted}")
        # The first steps are told at once, so that Ctrl-C comes in the middle of the work, or right after it.
        if number % 2:
            assert child.stderr is not None
            child.stderr.readline()
        else:
            threading.Event().wait(0.15 + 0.03 * number)
        child.send_signal(signal.SIGINT)
        _, words = child.communicate(timeout=TIMEOUT_S)
        codes.add(child.returncode)
        assert child.returncode in INTERRUPTED, (child.returncode, words)
        assert "Traceback" not in words
        if child.returncode == 5:
            assert "interrupted; " in words
            assert ask(url, "half") == before
    workspace.ok("promote", "half@1")

    assert ask(url, "half") == 3.0
    assert workspace.run("status").returncode == 0
    assert codes & {5, 130}


@pytest.mark.xdist_group("e2e-interrupts")
def test_an_interrupted_publish_leaves_no_version_in_part(workspace: Workspace, tmp_path: Path) -> None:
    export = tmp_path / "large"
    (export / "assets.extra").mkdir(parents=True)
    for file in (
        "saved_model.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets/foo.txt",
    ):
        (export / file).parent.mkdir(exist_ok=True)
        (export / file).write_bytes((HALF_PLUS_TWO / file).read_bytes())
    for number in range(8):
        (export / "assets.extra" / str(number)).write_bytes(bytes([number]) * 2**23)

    for number in range(6):
        child = workspace.start("publish", str(export), "--model", "large", "--new-version")
        threading.Event().wait(0.15 + 0.05 * number)
        child.send_signal(signal.SIGINT)
        written, words = child.communicate(timeout=TIMEOUT_S)
        assert child.returncode in INTERRUPTED, (child.returncode, words)
        assert "Traceback" not in words
        assert child.returncode != 0 or "published" in written

    last = workspace.json("publish", str(export), "--model", "large", "--new-version")["version"]
    for version in range(1, last + 1):
        workspace.ok("verify", f"large@{version}")
    assert workspace.run("versions", "large").returncode == 0


def test_a_database_that_is_lost_takes_nothing_out_of_service(workspace: Workspace) -> None:
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1", "-m", "the first")
    workspace.ok("promote", "half@2", "-m", "the second")
    for file in workspace.root.glob("deployctl.db*"):
        file.unlink()
    workspace.fails(10, "promote", "half@1", hint="deployctl db upgrade")
    workspace.ok("db", "upgrade")

    workspace.ok("up")
    assert ask(workspace.rest(), "half") == 4.0
    workspace.fails(10, "promote", "half@1", hint="deployctl db rebuild")
    assert "deployctl db rebuild" in workspace.run("doctor").stdout
    workspace.ok("rollback", "half", "-m", "INC-1")
    assert ask(workspace.rest(), "half") == 3.0

    assert workspace.json("db", "rebuild")["recovered"] == ["half on local"]

    reasons = [event["reason"] for event in workspace.json("history", "half")["events"] if event["target"] == "local"]
    assert reasons == ["INC-1", "INC-1", "the second", "the second", "the first", "the first"]
    workspace.ok("promote", "half@2")
    assert workspace.json("audit", "verify")["intact"]
    assert workspace.run("doctor").returncode == 0


def test_a_database_that_breaks_in_the_middle_of_a_rollback_does_not_keep_it(workspace: Workspace) -> None:
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    workspace.ok("up")
    workspace.ok("promote", "half@1")
    workspace.ok("promote", "half@2")
    with closing(sqlite3.connect(workspace.root / "deployctl.db")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with (workspace.root / "deployctl.db").open("r+b") as pages:
        pages.seek((page - 1) * size)
        pages.write(b"\xde\xad" * (size // 2))

    workspace.ok("rollback", "half")

    assert ask(workspace.rest(), "half") == 3.0
    assert "is damaged" in workspace.run("doctor").stdout
    workspace.fails(10, "db", "check", hint="deployctl doctor")
