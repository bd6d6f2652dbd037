"""A model server as a process of its own, for tests that want the real thing.

    def test_it(model_servers: ModelServers) -> None:
        server = model_servers.start("--model_name=m", "--model_base_path=/models/m")
        channel = grpc.insecure_channel(server.grpc_address)

Every server ends with its test, and its log is in the failure report.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
_READY_S = 60.0
_STOP_S = 20.0
_POLL_S = 0.01
# Quick retries and polls, where a test does not say otherwise.
TEST_FLAGS = ("--max_num_load_retries=0", "--load_retry_interval_micros=10000")


class ServerEndedError(AssertionError):
    """The server's process ended, or was not ready in time; with its log."""


@dataclass(slots=True)
class ModelServerProcess:
    """One running server; `log` holds its standard output and error."""

    process: subprocess.Popen[bytes]
    grpc_port: int
    rest_port: int
    log: Path

    @property
    def grpc_address(self) -> str:
        """host:port for a gRPC channel."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        """The URL before /v1."""
        return f"http://127.0.0.1:{self.rest_port}"

    def log_text(self) -> str:
        """Everything that the server has written."""
        return self.log.read_text(errors="replace")

    def wait_ready(self, timeout_s: float = _READY_S) -> None:
        """Returns once both ports accept, which they do when every configured model is decided."""
        deadline = time.monotonic() + timeout_s
        while not (_accepts(self.grpc_port) and _accepts(self.rest_port)):
            if self.process.poll() is not None:
                raise ServerEndedError(f"the server ended with {self.process.returncode}:\n{self.log_text()}")
            if time.monotonic() > deadline:
                raise ServerEndedError(f"the server was not ready after {timeout_s} s:\n{self.log_text()}")
            time.sleep(_POLL_S)

    def wait_ended(self, timeout_s: float = _STOP_S) -> int:
        """Returns the exit status."""
        return self.process.wait(timeout_s)

    def terminate(self) -> None:
        """Asks the server to drain and end."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ends the server, by force if it must be, and returns the exit status."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(_STOP_S)
        return self.process.returncode

    def __enter__(self) -> ModelServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(slots=True)
class ModelServers:
    """Starts servers and ends those that are left."""

    directory: Path
    running: list[ModelServerProcess] = field(default_factory=list)

    def launch(
        self, *flags: str, grpc_port: int | None = None, environment: dict[str, str] | None = None
    ) -> ModelServerProcess:
        """Starts a server on free ports, and does not wait for it."""
        grpc = free_port() if grpc_port is None else grpc_port
        rest = free_port()
        log = self.directory / f"model-server-{len(self.running)}.log"
        command = [sys.executable, "-m", "deployctl.modelserver.main", f"--port={grpc}", f"--rest_api_port={rest}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *TEST_FLAGS, *flags],
                cwd=self.directory,
                env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        server = ModelServerProcess(process, grpc, rest, log)
        self.running.append(server)
        return server

    def start(self, *flags: str, environment: dict[str, str] | None = None) -> ModelServerProcess:
        """Starts a server on free ports, and returns once it is ready."""
        server = self.launch(*flags, environment=environment)
        server.wait_ready()
        return server

    def stop_all(self) -> None:
        """Ends every server that was started."""
        for server in self.running:
            server.stop()


def free_port() -> int:
    """A TCP port that nothing listens on now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0, what: str = "the condition") -> None:
    """Polls until `condition` holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not hold within {timeout_s} s"
        time.sleep(_POLL_S)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False


@pytest.fixture
def model_servers(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ModelServers]:
    """Servers that end with the test."""
    directory = tmp_path / "servers"
    directory.mkdir()
    servers = ModelServers(directory)
    yield servers
    servers.stop_all()
    for server in servers.running:
        request.node.add_report_section("call", f"model server {server.grpc_port}", server.log_text()[-8000:])
