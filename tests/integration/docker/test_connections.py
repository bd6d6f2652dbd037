"""Engines behind TLS, contexts and SSH are reached as the `docker` command reaches them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.certificates import make_certificates
from tests.support.model_server import ROOT
from tests.support.workspace import HALF_PLUS_TWO, Workspace, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a certificate for 127.0.0.1 that serves for both sides."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_engine(docker_engine: object, certificates: Path) -> Iterator[str]:
    """The engine behind TLS, as with `dockerd --tlsverify`: who has no certificate is not let in."""
    del docker_engine
    local = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if not local.startswith("unix://"):
        pytest.skip("the engine is not on this machine")
    relay = subprocess.Popen(
        [sys.executable, "-m", "tests.support.tls_relay", str(certificates), local.removeprefix("unix://")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with relay:
        assert relay.stdout is not None
        yield f"tcp://127.0.0.1:{int(relay.stdout.readline())}"
        relay.kill()


def without_docker(workspace: Workspace) -> None:
    """Takes away what leads to the engine of the other tests."""
    for name in ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_CONFIG"):
        workspace.environment[name] = ""


def test_an_engine_behind_tls_is_reached_by_environment_and_by_context(
    docker_workspace: MakeWorkspace, tls_engine: str, certificates: Path
) -> None:
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO)
    direct = dict(workspace.environment)
    without_docker(workspace)
    # What the machine trusts is not what the engine is held to.
    workspace.environment["REQUESTS_CA_BUNDLE"] = str(certificates / "key.pem")
    by_environment = {"DOCKER_HOST": tls_engine, "DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(certificates)}
    keys = ",".join(f"{name}={certificates / name}.pem" for name in ("ca", "cert", "key"))
    for words in (["create", "tls", "--docker", f"host={tls_engine},{keys}"], ["use", "tls"]):
        home = {"HOME": str(workspace.root), "PATH": os.environ["PATH"]}
        subprocess.run(["docker", "context", *words], env=home, check=True, capture_output=True, timeout=60)

    workspace.ok("up", environment=by_environment)
    workspace.ok("promote", "half@1")
    plain = workspace.fails(10, "promote", "half@1", environment={"DOCKER_HOST": tls_engine})
    absent = workspace.fails(10, "up", hint="docker context ls", environment={"DOCKER_CONTEXT": "absent"})

    assert tls_engine in plain
    assert "no context 'absent'" in absent
    assert ask(workspace.rest(), "half") == 3.0
    workspace.environment = direct


def test_an_engine_behind_ssh_serves(docker_workspace: MakeWorkspace, tmp_path: Path) -> None:
    """`ssh` runs the command on this machine: all but the way there is real."""
    local = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\n'
        'if [ "$2" != here ]; then echo "ssh: connect to host $2 port 22: No route to host" >&2; exit 255; fi\n'
        f'shift 2; export DOCKER_HOST={local}; exec sh -c "$*"\n'
    )
    ssh.chmod(0o755)
    workspace = docker_workspace()
    workspace.publish("half", HALF_PLUS_TWO)
    local_environment = dict(workspace.environment)
    workspace.environment |= {"PATH": f"{ssh.parent}:{os.environ['PATH']}", "DOCKER_HOST": "ssh://ada@here:22"}

    workspace.ok("up")
    workspace.ok("promote", "half@1")
    words = workspace.fails(10, "promote", "half@1", environment={"DOCKER_HOST": "ssh://away"})
    assert "No route to host" in words
    assert "ready" in workspace.ok("logs")

    workspace.environment = local_environment
    assert ask(workspace.rest(), "half") == 3.0
