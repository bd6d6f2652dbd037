"""The unit, the image's files and the compose file are what the programs that read them accept."""

from __future__ import annotations

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from deployctl.config.load import load
from tests.support.models import ROOT

UNIT = ROOT / "deploy" / "systemd" / "deployctl.service"
IMAGE = ROOT / "deploy" / "daemon"
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_knows_everything_in_the_unit(tmp_path: Path) -> None:
    # It asks for programs that are installed; ours is not where the unit says.
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/deployctl/bin/deployctl", "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", str(unit)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_lets_the_daemon_tell_that_it_is_ready_and_leaves_servers_alone() -> None:
    lines = UNIT.read_text().splitlines()

    assert {"Type=notify", "WatchdogSec=60", "KillMode=process", "OOMPolicy=continue", "NoNewPrivileges=yes"} <= {
        *lines
    }
    # With it, whether the holder of a lock lives could not be seen of other users' processes.
    assert not any(line.startswith("ProtectProc=") for line in lines)


def test_the_settings_of_the_container_load_and_agree_with_the_compose_file(tmp_path: Path) -> None:
    shutil.copy(IMAGE / "deployctl.toml", tmp_path)

    settings = load(environment={}, directory=tmp_path).settings

    (target,) = settings.targets.values()
    assert f"  {target.host}:\n" in COMPOSE
    assert f"--model_config_file={target.external.config_file}" in COMPOSE
    assert f":{settings.daemon.listen.partition(':')[2]}\n" in COMPOSE
    mounted = set(re.findall(r"- \S+:(/[\w/]+)(?::ro)?\n", COMPOSE))
    assert {target.external.models_path, str(Path(target.external.config_file).parent), "/exports"} <= mounted


def test_the_files_that_the_compose_file_names_are_beside_it() -> None:
    named = re.findall(r"- \./([\w.-]+):|:-([\w.-]+\.env)\}", COMPOSE)

    assert {"".join(each) for each in named} == {"monitoring.config", "no-secrets.env"}
    assert all((ROOT / "deploy" / "".join(each)).is_file() for each in named)


@pytest.mark.parametrize("script", ["build.sh", "entrypoint.sh", "deployctl"])
def test_scripts_parse_and_may_be_run(script: str) -> None:
    path = IMAGE / script
    shell = path.read_text().splitlines()[0].removeprefix("#!").split()

    assert os.access(path, os.X_OK)
    subprocess.run([*shell, "-n", str(path)], timeout=60, check=True)


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_container_is_healthy_where_the_daemon_says_so(status: int, code: int) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/healthz"
        assert health(url) == code
        server.shutdown()
        thread.join(60)
    assert health(url) == 1


def health(url: str) -> int:
    environment = {**os.environ, "HEALTH_URL": url}
    command = [sys.executable, str(IMAGE / "healthcheck.py")]
    return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode
