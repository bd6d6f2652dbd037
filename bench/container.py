"""A hot rollback in a container, beside `docker restart` of the same container, which is what people do without it."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from threading import Event

from bench.measurement import Measurement, UnavailableError, seconds
from bench.project import CHECKOUT, HALF_PLUS_THREE, HALF_PLUS_TWO, Project, scratch_directory
from bench.rollback import Client

_ROLLBACKS = 10
# A client that calls without pause would share the two processors that the engine's proxy and the command need.
_PAUSE_S = 0.01
_RESTARTS = 3
_IMAGE = "deployctl/model-server:latest"
_BUILD_S = 900
_RETURN_S = 120.0


def run() -> list[Measurement]:
    """Measures both with two loaded versions; the promotion that leads back is not timed."""
    image = _image()
    with scratch_directory() as directory, _serving(directory, image) as project:
        url = json.loads(project.output("status", "-o", "json"))["targets"][0]["endpoints"]["rest"]
        client = Client(url, pause_s=_PAUSE_S)
        client.start()
        try:
            took = []
            for _ in range(_ROLLBACKS):
                project.run("promote", "half@2")
                took.append(project.run("rollback", "half"))
        finally:
            client.end()
        restarted = median(seconds(lambda: _restart(url)) for _ in range(_RESTARTS))
    note = f"{len(client.failures)} of {client.requests} requests failed"
    if client.failures:
        note += f", the first with {client.failures[0]}"
    return [
        Measurement(
            "hot rollback of a container, start to exit",
            median(took),
            0.6,
            other="docker restart, to its first answer",
            other_s=restarted,
            failures=len(client.failures),
            note=note,
        )
    ]


def _image() -> str:
    """Returns the image that serves, which is built where the engine lacks it.

    Raises:
        UnavailableError: no engine answers.
    """
    if shutil.which("docker") is None:
        raise UnavailableError("there is no docker command")
    if _docker("info").returncode:
        raise UnavailableError("no Docker engine answers")
    chosen = os.environ.get("BENCH_IMAGE", _IMAGE)
    if _docker("image", "inspect", chosen).returncode:
        build = [str(CHECKOUT / "deploy" / "model-server" / "build.sh"), chosen]
        subprocess.run(
            build,
            env={**os.environ, "PYTHON": sys.executable},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=_BUILD_S,
        )
    return chosen


@contextmanager
def _serving(directory: Path, image: str) -> Iterator[Project]:
    # The container's user, who is not root, passes through it.
    directory.chmod(0o755)
    rest_port, grpc_port = _free_ports()
    settings = (
        f'[targets.local]\nruntime = "docker"\nimage = "{image}"\ngates = []\n'
        f"rest_port = {rest_port}\ngrpc_port = {grpc_port}\n"
    )
    (directory / "deployctl.toml").write_text(settings)
    project = Project(directory)
    project.run("init")
    try:
        for export in (HALF_PLUS_TWO, HALF_PLUS_THREE):
            project.run("publish", str(export), "--model", "half")
        project.run("up")
        project.run("promote", "half@1")
        yield project
    finally:
        project.stop()


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return int(one.getsockname()[1]), int(other.getsockname()[1])


def _restart(url: str) -> None:
    """Restarts the container at `url`, and returns once it answers a client."""
    port = url.rpartition(":")[2]
    container = _docker("ps", "--quiet", "--filter", f"publish={port}").stdout.split()[0]
    restarted = _docker("restart", container)
    if restarted.returncode:
        raise RuntimeError(restarted.stderr)
    deadline = time.monotonic() + _RETURN_S
    while not _answers(int(port)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"the container did not answer {_RETURN_S:.0f} s after its restart")
        Event().wait(0.02)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/models/half/labels/stable:predict", '{"instances": [2.0]}')
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=False, timeout=120)
