"""Starts a Docker engine for the tests on a machine where none answers, with the model server's image, and ends it.

    python -m tests.support.engine up      an engine answers; the DOCKER_HOST of one that was started is written
    python -m tests.support.engine down    the engine that `up` started has ended, its data are gone

`up` installs what is missing with apt. It fails with a sentence where this machine cannot have an engine that runs
containers as the tests need them: with published ports, memory limits and room for images.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

from tests.support.model_server import ROOT

CHECKOUT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
DIRECTORY = Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp", f"deployctl-engine-{CHECKOUT}")
PID_FILE = DIRECTORY / "pid"
_SOCKET = DIRECTORY / "sock"
_PACKAGES = {"dockerd": "docker.io", "docker": "docker.io", "iptables": "iptables", "debootstrap": "debootstrap"}
_READY_S = 60.0
_APT_S = 300.0
_CALL_S = 60.0
_ROOM_BYTES = 10_000_000_000


class NoEngineError(Exception):
    """This machine cannot have an engine; the reason is one sentence."""


def answers() -> bool:
    """Whether an engine answers where the `docker` command looks for it."""
    if shutil.which("docker") is None:
        return False
    return _docker("info").returncode == 0


def wait_for(condition: Callable[[], bool], problem: str, hopeless: Callable[[], bool] = lambda: False) -> None:
    """Returns once `condition` holds.

    Raises:
        TimeoutError: it did not in a minute, or what it waits for became `hopeless`.
    """
    deadline = time.monotonic() + _READY_S
    while not condition():
        if hopeless() or time.monotonic() > deadline:
            raise TimeoutError(problem)
        Event().wait(0.2)


def start() -> None:
    """Starts an engine of its own, whose data are in `DIRECTORY`; DOCKER_HOST leads to it from then on.

    Raises:
        NoEngineError: that is not possible here.
    """
    if os.geteuid():
        raise NoEngineError("no engine answers, and only root can start one")
    stop()  # what a run that was killed has left
    if subprocess.run(["pgrep", "-x", "dockerd"], capture_output=True, timeout=_CALL_S).returncode == 0:
        raise NoEngineError("no engine answers, and one runs that is not meant for this")
    _install()
    if shutil.disk_usage(DIRECTORY.parent).free < _ROOM_BYTES:
        raise NoEngineError(f"no engine answers, and {DIRECTORY.parent} has no room for one")
    DIRECTORY.mkdir(exist_ok=True)
    os.environ["DOCKER_HOST"] = f"unix://{_SOCKET}"
    for name in ("DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        os.environ.pop(name, None)
    places = ["--data-root", str(DIRECTORY / "root"), "--exec-root", str(DIRECTORY / "exec")]
    with open(DIRECTORY / "log", "ab") as log:
        engine = subprocess.Popen(
            ["dockerd", "--host", os.environ["DOCKER_HOST"], *places, "--pidfile", str(PID_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_for(answers, "", lambda: engine.poll() is not None)
    except TimeoutError as error:
        raise NoEngineError(f"the engine does not start: {_last_line(DIRECTORY / 'log')}") from error


def stop() -> None:
    """Ends the engine that `start` started, with its containers, and removes what it holds."""
    os.environ["DOCKER_HOST"] = f"unix://{_SOCKET}"
    try:
        number = int(PID_FILE.read_text())
        name = Path("/proc", str(number), "comm").read_text(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError, ValueError):
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        return
    if name == "dockerd":
        left = _docker("ps", "--all", "--quiet").stdout.split()
        if left:
            _docker("rm", "--force", *left)
        os.kill(number, signal.SIGTERM)
        wait_for(lambda: _is_gone(number), f"the engine, process {number}, does not end")
    shutil.rmtree(DIRECTORY, ignore_errors=True)


def check(image: str) -> None:
    """Runs a container as tests do.

    Raises:
        NoEngineError: the engine does not run it, or its port is not reached.
    """
    said = _docker("info", "--format", "{{.Driver}} {{.MemoryLimit}}").stdout.split()
    if said[:1] == ["vfs"] or said[1:] != ["true"]:
        raise NoEngineError(f"the engine has the storage driver {said[:1]} and limits no memory, or copies every layer")
    limits = ["--publish", "127.0.0.1::8501", "--memory", "256m", "--init", "--read-only", "--detach", "--rm"]
    # An engine in another container or on another machine would mount what it has at that path.
    sees = ["--volume", f"{ROOT / 'tests'}:/tests:ro", "--workdir", "/tests"]
    server = ["--entrypoint", "/usr/bin/python3", image, "-m", "http.server", "8501"]
    started = _docker("run", *limits, *sees, *server)
    if started.returncode:
        raise NoEngineError(f"the engine runs no container: {started.stderr.strip()}")
    container = started.stdout.strip()
    try:
        port = int(_docker("port", container, "8501/tcp").stdout.split()[0].rpartition(":")[2])
        wait_for(
            lambda: _serves(port), "a published port is not reached, or a directory of this machine is not mounted"
        )
    except (TimeoutError, ValueError, IndexError) as error:
        raise NoEngineError(f"the engine does not run containers for this machine: {error}") from error
    finally:
        _docker("rm", "--force", container)


def _install() -> None:
    missing = sorted({package for command, package in _PACKAGES.items() if shutil.which(command) is None})
    if not missing:
        return
    if shutil.which("apt-get") is None:
        raise NoEngineError(f"no engine answers, {', '.join(missing)} is not installed, and there is no apt")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    options = ["-qq", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::Retries=1"]
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        try:
            done = subprocess.run(
                ["apt-get", *options, *words], env=environment, capture_output=True, text=True, timeout=_APT_S
            )
        except subprocess.TimeoutExpired as error:
            raise NoEngineError(f"apt-get {words[0]} takes too long") from error
        if done.returncode:
            raise NoEngineError(f"apt-get {words[0]} fails: {(done.stderr.strip() or done.stdout.strip())[-200:]}")


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=_CALL_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"docker {words[0]} does not answer")


def _serves(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/support/engine.py")
        return connection.getresponse().read() == Path(__file__).read_bytes()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_gone(number: int) -> bool:
    try:
        return Path("/proc", str(number), "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][-300:] if lines else "it says nothing"


def main(verb: str) -> None:
    """Does what the module's text says."""
    from tests.support.docker import build_image

    if verb == "down":
        stop()
        return
    try:
        started = not answers()
        if started:
            start()
        check(build_image())
    except NoEngineError as error:
        sys.exit(str(error))
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        sys.exit(f"the model server's image cannot be built: {error}")
    if started:
        sys.stdout.write(f"{os.environ['DOCKER_HOST']}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
