"""An engine behind a real SSH server is driven as one of this machine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.models import skip_or_fail
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]
CALL_S = 60.0
# Debian's users have no /usr/sbin in their PATH.
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"


@pytest.fixture
def ssh(docker_engine: object, tmp_path: Path) -> Path:
    """A directory whose `ssh` reaches this machine by a server that each connection starts; `known` is its key.

    Both take their settings from the directory: what this user has in `~/.ssh` and the machine in `/etc/ssh` stays out.
    """
    del docker_engine
    server = shutil.which("sshd", path=PROGRAMS)
    client = shutil.which("ssh")
    if server is None or client is None:
        skip_or_fail("ssh", "there is no SSH server")
    place = tmp_path / "ssh"
    (place / "bin").mkdir(parents=True)
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / name)]
        subprocess.run(words, check=True, timeout=CALL_S)
    algorithm, key, *_ = (place / "host.pub").read_text().split()
    (place / "known").write_text(f"engine {algorithm} {key}\n")
    local = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    (place / "server").write_text(
        f"HostKey {place}/host\nAuthorizedKeysFile {place}/user.pub\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nSetEnv DOCKER_HOST={local} PATH={os.environ['PATH']}\n"
    )
    (place / "client").write_text(
        f"Host localhost\nProxyCommand {server} -i -e -f {place}/server 2>>{place}/log\nHostKeyAlias engine\n"
        f"IdentityFile {place}/user\nIdentitiesOnly yes\nUserKnownHostsFile {place}/known\n"
        "StrictHostKeyChecking yes\n"
    )
    (place / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {client} -F {place}/client "$@"\n')
    (place / "bin" / "ssh").chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    tried = subprocess.run(
        [place / "bin" / "ssh", "-l", user(), "localhost", "docker", "version"],
        capture_output=True,
        text=True,
        timeout=CALL_S,
    )
    if tried.returncode:
        skip_or_fail("ssh", f"the SSH server lets nobody in here: {tried.stderr.strip()}")
    return place


def user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def test_an_engine_behind_an_ssh_server_does_all_that_one_of_this_machine_does(
    docker_workspace: MakeWorkspace, ssh: Path
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO, HALF_PLUS_THREE)
    direct = dict(workspace.environment)
    url = f"ssh://{user()}@localhost:22"
    workspace.environment |= {"PATH": f"{ssh / 'bin'}:{os.environ['PATH']}", "DOCKER_HOST": url}
    try:
        checks = workspace.ok("doctor")
        endpoint = next(word for word in workspace.ok("up").split() if word.startswith("http://"))
        workspace.ok("promote", "half@1")
        workspace.ok("promote", "half@2")
        assert ask(endpoint, "half") == 4.0
        followed = follow(workspace)
        workspace.ok("rollback", "half")
        assert ask(endpoint, "half") == 3.0
        status = workspace.ok("status", "--verify")
        known = (ssh / "known").read_text()
        (ssh / "known").write_text(known.replace("engine", "another"))
        unknown = workspace.fails(10, "promote", "half@2")
        (ssh / "known").write_text(known)
        workspace.ok("down")
    finally:
        workspace.environment = direct

    assert url in next(line for line in checks.splitlines() if "local: image" in line)
    assert "/models in a container" in checks
    assert "ready" in followed
    assert "(running)" in status
    assert "Host key verification failed" in unknown
    assert url in unknown


def follow(workspace: Workspace) -> str:
    """Returns what `logs -f` writes until the server is ready, and interrupts it as a user does."""
    process = workspace.start("logs", "-f")
    with process:
        assert process.stdout is not None
        text = ""
        try:
            for line in process.stdout:
                text += line
                if "ready" in line:
                    break
        finally:
            process.send_signal(signal.SIGINT)
        process.stdout.read()
    return text
