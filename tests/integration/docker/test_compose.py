"""The compose file brings up a server and the daemon that drives it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pytest

from tests.support.docker import build_image, let_in
from tests.support.model_server import ROOT
from tests.support.models import skip_or_fail
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO, ask

pytestmark = [pytest.mark.docker, pytest.mark.tensorflow, pytest.mark.xdist_group("docker")]

# Whom the images run as.
USER = 10500
DEADLINE_S = 120.0
CALL_S = 120.0


def compose_command() -> Sequence[str]:
    """Returns the words that compose is started with."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(words[0])
            and subprocess.run([*words, "version"], capture_output=True, timeout=CALL_S).returncode == 0
        ):
            return words
    return skip_or_fail("compose", "there is no compose")


@dataclass
class Project:
    """What the page on the daemon says to make, and the compose file run on it, with free ports."""

    root: Path
    compose: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        owner = os.geteuid() or USER
        config = self.root / "config"
        for path in (self.root / "models", config, self.root / "exports", self.inbox):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "deploy" / "daemon" / "deployctl.toml", config)
        (config / "models.config").touch()
        self.environment |= {
            "COMPOSE_PROJECT_NAME": f"test{time.monotonic_ns()}",
            "MODELS": str(self.root / "models"),
            "CONFIG": str(config),
            "EXPORTS": str(self.root / "exports"),
            "DAEMON_USER": f"{owner}:{owner}",
            **dict.fromkeys(("GRPC_PORT", "REST_PORT", "API_PORT"), "0"),
        }
        self.own(self.root)

    @property
    def inbox(self) -> Path:
        return self.root / "exports" / "incoming" / "half"

    def own(self, path: Path) -> None:
        """Gives a file or a directory to the daemon."""
        if os.geteuid() == 0:
            for each in (path, *path.rglob("*")):
                os.chown(each, USER, USER)

    def run(self, *words: str) -> str:
        """Runs compose; returns what it writes."""
        done = subprocess.run(
            [*self.compose, "--file", str(ROOT / "deploy" / "compose.yaml"), *words],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CALL_S,
            check=False,
        )
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def deployctl(self, *words: str) -> str:
        """Runs a command in the daemon's container."""
        return self.run("exec", "-T", "daemon", "deployctl", *words)

    def address(self, service: str, port: int) -> str:
        return f"http://{self.run('port', service, str(port)).strip()}"

    def export(self, source: Path, name: str) -> Path:
        """Returns an export beside the inbox."""
        made = Path(shutil.copytree(source, self.root / "exports" / name))
        self.own(made)
        return made


@pytest.fixture
def project(tmp_path: Path, daemon_image: str) -> Iterator[Project]:
    let_in(tmp_path)
    place = Project(tmp_path / "place", compose_command())
    place.environment |= {"MODEL_SERVER_IMAGE": build_image(), "DEPLOYCTL_IMAGE": daemon_image}
    yield place
    place.run("down", "--volumes", "--timeout", "5")


def comes_true(condition: Callable[[], bool], problem: Callable[[], str]) -> None:
    """Fails unless `condition` holds before long; what is not reached yet may still be."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            if condition():
                return
        except (OSError, AssertionError, json.JSONDecodeError, KeyError):
            pass
        assert time.monotonic() < deadline, problem()
        Event().wait(0.3)


def is_alive(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/healthz", timeout=10) as answer:
        return bool(answer.status == 200)


def test_the_compose_file_serves_what_its_daemon_publishes_and_goes_on_after_a_restart(project: Project) -> None:
    project.run("up", "-d")
    comes_true(lambda: is_alive(project.address("daemon", 8510)), lambda: project.run("logs"))
    first = project.export(HALF_PLUS_TWO, "first")
    project.deployctl("publish", f"/exports/{first.name}", "--model", "half")
    project.deployctl("promote", "half@1")
    assert ask(project.address("serving", 8501), "half") == 3.0

    project.export(HALF_PLUS_THREE, "second").rename(project.inbox / "run7")
    comes_true(lambda: "@2" in project.deployctl("versions", "half"), lambda: project.run("logs", "daemon"))
    project.deployctl("promote", "half@2")
    assert ask(project.address("serving", 8501), "half") == 4.0
    # It tells of its requests, which the daemon judges a version by.
    with urllib.request.urlopen(
        f"{project.address('serving', 8501)}/monitoring/prometheus/metrics", timeout=CALL_S
    ) as page:
        assert b"request_count" in page.read()

    project.run("restart", "--timeout", "5")
    comes_true(lambda: ask(project.address("serving", 8501), "half") == 4.0, lambda: project.run("logs", "serving"))
    comes_true(lambda: "@2" in project.deployctl("status"), lambda: project.run("logs", "daemon"))
    daemon = project.run("ps", "-q", "daemon").strip()
    comes_true(lambda: health(daemon) == "healthy", lambda: project.run("logs", "daemon"))

    # The record outlives the containers.
    project.run("down", "--timeout", "5")
    project.run("up", "-d")
    comes_true(lambda: ask(project.address("serving", 8501), "half") == 4.0, lambda: project.run("logs", "serving"))
    comes_true(lambda: "hot to @1" in project.deployctl("status"), lambda: project.run("logs", "daemon"))


def health(container: str) -> str:
    words = ["docker", "inspect", "--format", "{{.State.Health.Status}}", container]
    return subprocess.run(words, capture_output=True, text=True, timeout=CALL_S, check=True).stdout.strip()
