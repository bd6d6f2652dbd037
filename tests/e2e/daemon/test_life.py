"""A daemon leads or stands by, rereads its settings, and ends in good order."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path

from tests.support.daemon import daemon
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, TARGET, Workspace, ask

PROMOTING = (
    TARGET + '[daemon]\nstop_timeout_s = "2s"\n[inboxes.exports]\npath = "exports"\n[rules.all]\npromote = ["local"]\n'
)


def test_ends_with_0_when_it_is_told_to(workspace: Workspace) -> None:
    with daemon(workspace) as running:
        running.await_line("leading")

        assert running.stop() == 0

    assert running.lines()[-1]["message"] == "ended"


def test_keeps_its_settings_when_the_new_ones_cannot_be_used(workspace: Workspace) -> None:
    with daemon(workspace) as running:
        running.await_line("leading")
        settings = workspace.root / "deployctl.toml"
        before = settings.read_text()
        settings.write_text(before + '\n[daemon]\ndrift = "ignore"\n')

        running.signal(signal.SIGHUP)

        kept = running.await_line("the settings are kept as they were")
        assert "daemon.drift = 'ignore'" in kept["message"]
        settings.write_text(before + '\n[daemon]\ndrift = "report"\n')
        running.signal(signal.SIGHUP)
        running.await_line("the settings were read again")
        assert running.stop() == 0


def test_a_second_daemon_takes_over_when_the_first_is_killed(workspace: Workspace) -> None:
    with (workspace.root / "deployctl.toml").open("a") as settings:
        settings.write('\n[daemon]\nlease_s = "3s"\n')
    with daemon(workspace) as first:
        first.await_line("leading")
        with daemon(workspace) as second:
            second.await_line("standing by")

            first.kill()

            second.await_line("leading")


def test_a_second_daemon_takes_over_at_once_when_the_first_ends(workspace: Workspace) -> None:
    with (workspace.root / "deployctl.toml").open("a") as settings:
        settings.write('\n[daemon]\nlease_s = "6s"\n')
    with daemon(workspace) as first:
        first.await_line("leading")
        with daemon(workspace) as second:
            second.await_line("standing by")

            assert first.stop() == 0

            second.await_line("leading")


def test_tells_systemd_that_it_is_ready_alive_and_ending(workspace: Workspace, tmp_path: Path) -> None:
    address = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(address))
        systemd.settimeout(60)
        with daemon(workspace, NOTIFY_SOCKET=str(address), WATCHDOG_USEC="200000") as running:
            heard = {systemd.recv(1000).decode() for _ in range(6)}
            assert running.stop() == 0
            systemd.settimeout(5)
            while "STOPPING=1" not in heard:
                heard.add(systemd.recv(1000).decode())

    assert heard == {"READY=1", "WATCHDOG=1", "STOPPING=1"}


def test_says_what_to_type_where_the_database_is_of_an_older_schema(tmp_path: Path) -> None:
    (tmp_path / "deployctl.toml").write_text("[targets.local]\n")
    with daemon(Workspace(tmp_path)) as running:
        assert running.ended() == 10

    assert "hint:  deployctl db upgrade" in running.errors()


def test_log_lines_are_json_with_the_time_and_the_duty(workspace: Workspace) -> None:
    with daemon(workspace) as running:
        line = running.await_line("leading")
        running.stop()

    assert set(line) == {"time", "level", "duty", "operation", "message"}


def test_a_step_that_takes_too_long_is_parked_and_taken_up_at_the_next_start(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "work", targets=PROMOTING)
    (workspace.root / "exports" / "half").mkdir(parents=True)
    try:
        workspace.publish("half", HALF_PLUS_TWO)
        workspace.ok("up")
        workspace.ok("promote", "half@1")
        server = int(workspace.json("status")["targets"][0]["detail"]["pid"])
        with daemon(workspace) as running:
            running.await_line("watching exports")
            os.kill(server, signal.SIGSTOP)
            try:
                shutil.copytree(HALF_PLUS_THREE, workspace.root / "exports" / "half" / ".made")
                (workspace.root / "exports" / "half" / ".made").rename(workspace.root / "exports" / "half" / "made")
                running.await_line("half@2 waits for local")

                began = time.monotonic()
                assert running.stop() == 0

                assert time.monotonic() - began < 10
            finally:
                os.kill(server, signal.SIGCONT)
        with daemon(workspace) as running:
            running.await_line("half@2 serves stable on local")
            assert running.stop() == 0
        assert ask(workspace.rest(), "half") == 4.0
        kinds = [event["kind"] for event in workspace.json("history", "half")["events"]]
        assert kinds.count("version.published") == 2
    finally:
        workspace.down()
