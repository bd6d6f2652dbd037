"""A daemon leads or stands by, rereads its settings, and ends in good order."""

from __future__ import annotations

import fcntl
import shutil
import signal
import socket
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from tests.support.api import api_of, new_token
from tests.support.daemon import daemon
from tests.support.halting import halted
from tests.support.inbox import until
from tests.support.remote import address_of, as_client
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


def test_keeps_its_settings_when_the_new_ones_parse_and_lead_nowhere(workspace: Workspace) -> None:
    with daemon(workspace) as running:
        running.await_line("leading")
        settings = workspace.root / "deployctl.toml"
        settings.write_text(f'{settings.read_text()}\n[lineage]\nurl = "sqlite:///other.db"\n')

        running.signal(signal.SIGHUP)

        assert "has no schema yet" in running.await_line("the settings are kept as they were")["message"]
        assert running.stop() == 0


def test_new_settings_wait_for_the_step_in_progress_which_is_done_once(tmp_path: Path) -> None:
    settings = '[daemon]\nstop_timeout_s = "100ms"\nlisten = ""\n[inboxes.exports]\npath = "exports"\n'
    workspace = Workspace.make(tmp_path / "work", targets=settings)
    (workspace.root / "exports" / "half").mkdir(parents=True)
    own = workspace.root / "models" / "half" / ".deployctl"
    own.mkdir(parents=True)
    with daemon(workspace, DEPLOYCTL_DAEMON_LISTEN="", DEPLOYCTL_DAEMON_LEASE_S="1s") as running:
        running.await_line("watching exports")
        with (own / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            drop(workspace, HALF_PLUS_TWO)
            until(lambda: bool(list(own.glob("staging/*/version/saved_model.pb"))), "the copy")

            running.signal(signal.SIGHUP)

            running.await_line("the new settings wait for the end of a step of inbox exports")
            assert not any("leading" in line["message"] for line in running.lines()[2:])
        running.await_line("half/made is published as half@1")
        began = [line["message"] for line in running.lines()].index("the settings were read again")
        running.await_line("watching exports", after=began)
        assert running.stop() == 0
    assert [each["version"] for each in workspace.json("versions", "half")["versions"]] == [1]


def test_ends_in_time_whatever_its_clients_have_begun(workspace: Workspace) -> None:
    settings = workspace.root / "deployctl.toml"
    settings.write_text(f'{settings.read_text()}\n[daemon]\nstop_timeout_s = "2s"\n')
    workspace.publish("half", HALF_PLUS_THREE)
    server = promoted(workspace)
    with daemon(workspace) as running, ExitStack() as stack:
        url = address_of(running)
        admin = replace(api_of(running), token=new_token(workspace, "root", "admin"))
        client = as_client(workspace, url)
        with halted(server):
            words = {"reference": "half@1", "target": "local"}
            begun = admin.ask("POST", "/v1/promote", words, headers={"Prefer": "respond-async"})
            listening = threading.Thread(target=admin.ask, args=("GET", f"{begun.headers['location']}/events"))
            listening.start()
            promoting = client.start("promote", "half@1")
            stack.callback(promoting.communicate)
            stack.callback(promoting.kill)
            until(lambda: bool(list(workspace.root.rglob("commands/*/*/process.json"))), "the command")
            host, _, port = url.partition("//")[2].partition(":")
            half_sent = stack.enter_context(socket.create_connection((host, int(port))))
            half_sent.sendall(b"POST /v1/promote HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")

            assert running.stop() == 0

            listening.join(60)
            assert not listening.is_alive()
        # The command goes on without the daemon.
        until(lambda: ask(workspace.rest(), "half") == 4.0, "the promotion")


def test_a_step_that_takes_too_long_is_parked_and_taken_up_at_the_next_start(tmp_path: Path) -> None:
    workspace = Workspace.make(tmp_path / "work", targets=PROMOTING)
    (workspace.root / "exports" / "half").mkdir(parents=True)
    try:
        server = promoted(workspace)
        with daemon(workspace) as running:
            running.await_line("watching exports")
            with halted(server):
                drop(workspace, HALF_PLUS_THREE)
                running.await_line("half@2 waits for local")

                assert running.stop() == 0

        with daemon(workspace) as running:
            running.await_line("half@2 serves stable on local")
            assert running.stop() == 0
        assert ask(workspace.rest(), "half") == 4.0
        kinds = [event["kind"] for event in workspace.json("history", "half")["events"]]
        assert kinds.count("version.published") == 2
    finally:
        workspace.down()


def promoted(workspace: Workspace) -> int:
    """Serves half_plus_two, the newest version of half; returns the server's process."""
    workspace.publish("half", HALF_PLUS_TWO)
    workspace.ok("up")
    workspace.ok("promote", "half@latest")
    return int(workspace.json("status")["targets"][0]["detail"]["pid"])


def drop(workspace: Workspace, export: Path) -> None:
    """Renames a copy of an export into the inbox."""
    inbox = workspace.root / "exports" / "half"
    shutil.copytree(export, inbox / ".made")
    (inbox / ".made").rename(inbox / "made")
