"""The process runtime: the embedded model server as a child that outlives the command that started it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import deployctl
from deployctl.domain.duration import format_duration
from deployctl.domain.names import TargetName
from deployctl.domain.serving import (
    Endpoints,
    ServerCondition,
    ServerState,
    ServingConfig,
    VersionState,
)
from deployctl.errors import PortTakenError, ServerError, ServerStartError, ServerUnavailableError, StorageError
from deployctl.files import file_lock, sweep, write_durably
from deployctl.serving import child as children
from deployctl.serving import ports
from deployctl.serving.child import Child, Started
from deployctl.serving.config import normal
from deployctl.serving.network import NetworkRuntime
from deployctl.serving.server_log import ServerLog, ago

MODULE = "deployctl.modelserver.main"
_CONFIG_FLAG = "--model_config_file"
_LOG_LINES_IN_ERRORS = 40
_POLL_S = 0.02
_ANSWER_S = 5.0
# After SIGKILL only the kernel's own work is left.
_KILL_S = 10.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
# What a server needs of its starter's environment. Not more: it serves requests, and the starter's environment holds
# a CI job's secrets.
_KEPT_VARIABLES = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    + ("LD_LIBRARY_PATH", "LD_PRELOAD")
)
_KEPT_PREFIXES = ("LC_", "TF_", "OMP_", "KMP_", "MKL_", "CUDA_", "NVIDIA_", "XLA_", "GRPC_", "MALLOC_")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessOptions:
    """How one target's embedded server is started.

    Attributes:
        state_dir: holds `<target>/` with the server's configuration, log and process record.
        host: the address to listen on.
        rest_port: 0 for one that is free at each start; so `grpc_port`.
        drain_timeout_s: how long the server lets requests finish when it is asked to end; `down` has its own limit.
        log_limit_bytes: a larger log is set aside at the next start; one older log is kept.
        environment: variables that the server gets beside the few that it takes from its starter.
        extra_args: further flags of the server; the last of two equal flags counts.
    """

    target: TargetName
    state_dir: Path
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    num_load_threads: int = 2
    num_unload_threads: int = 2
    max_num_load_retries: int = 1
    load_retry_interval_micros: int = 1_000_000
    file_system_poll_wait_seconds: int = 1
    drain_timeout_s: float = 30.0
    log_limit_bytes: int = 16 * 2**20
    environment: Mapping[str, str] = field(default_factory=dict)
    extra_args: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        """The target's own directory, absolute."""
        return self.state_dir.resolve() / self.target


class ProcessRuntime(NetworkRuntime):
    """Serves by `deployctl-model-server` on this machine; needs neither Docker nor root.

    Which process is the server is recorded in `server.json` in the target's directory and found again by its command
    line where that record was lost, e.g. because the starter was killed before it wrote it.
    """

    def __init__(self, options: ProcessOptions) -> None:
        """Makes the runtime's object; nothing is read or started yet."""
        self._options = options
        self._directory = options.directory
        self._models_file = self._directory / "models.config"
        self._monitoring_file = self._directory / "monitoring.config"
        self._record = self._directory / "server.json"
        self._log = ServerLog(self._directory / "server.log")
        super().__init__(options.target, self._models_file)

    def up(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Starts the server with `config`, or finds the running one, and returns once it answers for every model.

        A server that was started and did not become ready is ended again. Several calls at once start one server.
        """
        deadline = time.monotonic() + timeout_s
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self._directory}: {error.strerror}") from error
        with self._lock("up", timeout_s=timeout_s):
            running = self._running()
            if running is None:
                self._check_present(config)
                return self._start(normal(config), deadline)
            sweep(self._record)
            children.write(self._record, running)
            self._await_answer(running, deadline)
            return self._endpoints_of(running.rest_port, running.grpc_port)

    def down(self, *, timeout_s: float) -> bool:
        """Stops the server: it may finish its requests for `timeout_s` seconds, then it is killed."""
        if not self._directory.is_dir():
            return False
        with self._lock("down", timeout_s=timeout_s):
            running = self._running()
            if running is not None:
                self._end(running, drain_s=timeout_s)
            self._record.unlink(missing_ok=True)
            self.close()
            return running is not None

    def state(self, *, timeout_s: float) -> ServerState:
        """Returns what is known of the server: its process, for how long it runs, and the memory that it holds."""
        running = self._running()
        if running is None:
            return self._state_without_process()
        endpoints = self._endpoints_of(running.rest_port, running.grpc_port)
        answers = self._answers(running, timeout_s=timeout_s)
        detail = {
            "pid": str(running.pid),
            "uptime": format_duration(running.uptime_s()),
            "memory": f"{running.resident_bytes() / 1e6:.0f} MB",
            "log": str(self._log.path),
        }
        return ServerState(ServerCondition.READY if answers else ServerCondition.UNREACHABLE, endpoints, detail)

    def served_path(self, base_path: Path) -> str:
        """Returns `base_path` as an absolute path: the server shares this machine's files."""
        return os.path.abspath(base_path)

    def logs(self, *, lines: int | None, since_s: float | None, follow: bool) -> Iterator[str]:
        """Yields the server's log lines, also those of earlier starts."""
        return self._log.read(lines=lines, since=None if since_s is None else ago(since_s), follow=follow)

    def _end(self, running: Child, *, drain_s: float) -> None:
        try:
            ended = running.end(drain_s=drain_s, kill_s=_KILL_S)
        except PermissionError as error:
            raise ServerError(
                f"process {running.pid}, the server of {self._target}, belongs to another user"
            ) from error
        if not ended:
            raise ServerError(f"process {running.pid}, the server of {self._target}, could not be ended")

    def _lock(self, purpose: str, *, timeout_s: float) -> contextlib.AbstractContextManager[None]:
        return file_lock(
            self._directory / "server.lock",
            what=f"the server of {self._options.target}",
            holder=f"process {os.getpid()} (deployctl {purpose})",
            timeout_s=timeout_s,
        )

    def _running(self) -> Child | None:
        recorded = children.read(self._record)
        if recorded is not None and recorded.alive():
            return recorded
        for pid, words in children.find(f"{_CONFIG_FLAG}={self._models_file}"):
            if MODULE in words:
                return children.identify(
                    pid, rest_port=_port(words, "--rest_api_port"), grpc_port=_port(words, "--port")
                )
        return None

    def _write_monitoring_config(self) -> None:
        from deployctl.serving.request_counts import MONITORING_CONFIG

        if not self._monitoring_file.exists():
            write_durably(self._monitoring_file, MONITORING_CONFIG)

    def _start(self, config: ServingConfig, deadline: float) -> Endpoints:
        rest_port, grpc_port = self._free_ports()
        # Both are written only by whoever holds this lock, or an operation, of which there is one at a time.
        sweep(self._record)
        sweep(self._models_file)
        self.persist(config)
        self._log.rotate(limit_bytes=self._options.log_limit_bytes)
        log_start = self._log.size()
        self.close()
        started = self._launch(rest_port=rest_port, grpc_port=grpc_port)
        try:
            running = children.identify(started.pid, rest_port=rest_port, grpc_port=grpc_port)
            if running is not None:
                children.write(self._record, running)
            self._await_ready(started, config, deadline, log_start)
        except BaseException:
            # Also for a Ctrl-C: what was not seen to be ready is not left behind.
            self._abandon(started)
            raise
        return self._endpoints_of(rest_port, grpc_port)

    def _free_ports(self) -> tuple[int, int]:
        """Returns the ports to start with, REST first.

        Raises:
            PortTakenError: another program listens on one of them.
        """
        host = self._options.host
        spare = iter(ports.free_ports(host, 2))
        for port in (self._options.rest_port, self._options.grpc_port):
            try:
                free = port == 0 or ports.is_free(host, port)
            except OSError as error:
                raise ServerStartError(f"{self._target} cannot listen on port {port} of {host}: {error}") from error
            if not free:
                raise self._port_taken(port)
        return self._options.rest_port or next(spare), self._options.grpc_port or next(spare)

    def _port_taken(self, port: int) -> PortTakenError:
        holder = ports.holder(port)
        who = "another program" if holder is None else f"process {holder.pid} ({holder.name})"
        return PortTakenError(
            f"port {port} of {self._options.host}, which {self._target} needs, is in use by {who}",
            hint=f"deployctl config show --origin   (targets.{self._target} says the ports)",
        )

    def _launch(self, *, rest_port: int, grpc_port: int) -> Started:
        options = self._options
        command = [
            sys.executable,
            "-P",
            "-m",
            MODULE,
            f"--host={options.host}",
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            f"{_CONFIG_FLAG}={self._models_file}",
            f"--monitoring_config_file={self._monitoring_file}",
            f"--num_load_threads={options.num_load_threads}",
            f"--num_unload_threads={options.num_unload_threads}",
            f"--max_num_load_retries={options.max_num_load_retries}",
            f"--load_retry_interval_micros={options.load_retry_interval_micros}",
            "--allow_version_labels_for_unavailable_models=true",
            f"--file_system_poll_wait_seconds={options.file_system_poll_wait_seconds}",
            f"--drain_timeout={options.drain_timeout_s}",
            *options.extra_args,
        ]
        environment = server_environment(os.environ) | dict(options.environment)
        try:
            return children.start(command, log=self._log.path, directory=self._directory, environment=environment)
        except OSError as error:
            raise ServerStartError(f"the server of {self._target} cannot be started: {error}") from error

    def _await_ready(self, started: Started, config: ServingConfig, deadline: float, log_start: int) -> None:
        while not self._ready(config, deadline):
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = started.wait(_POLL_S)
                raise self._start_error(f"ended with exit code {code} before it was ready", log_start)
            if time.monotonic() >= deadline:
                raise self._start_error("was not ready in time", log_start)

    def _ready(self, config: ServingConfig, deadline: float) -> bool:
        endpoints = self._endpoints()
        if not self._accepting(endpoints):
            return False
        left = max(0.01, min(_ANSWER_S, deadline - time.monotonic()))
        try:
            if not config.models:
                return self._service().answers(timeout_s=left)
            return all(
                any(status.state is VersionState.AVAILABLE for status in self.statuses(model.name, timeout_s=left))
                for model in config.models
            )
        except ServerUnavailableError:
            return False

    def _accepting(self, endpoints: Endpoints) -> bool:
        """Whether both ports take connections; far cheaper to ask, while the server starts, than a gRPC call."""
        addresses = (endpoints.grpc, endpoints.rest.removeprefix("http://"))
        return all(address and ports.accepts(*_host_and_port(address), timeout_s=_ANSWER_S) for address in addresses)

    def _start_error(self, problem: str, log_start: int) -> ServerStartError:
        return ServerStartError(
            f"the server of {self._target} {problem}",
            log=self._log.tail(_LOG_LINES_IN_ERRORS, start=log_start),
            hint=f"deployctl logs {self._target}",
        )

    def _abandon(self, started: Started) -> None:
        left = children.identify(started.pid, rest_port=0, grpc_port=0) if started.poll() is None else None
        if left is not None:
            left.end(drain_s=1.0, kill_s=_KILL_S)
        self._record.unlink(missing_ok=True)
        self.close()

    def _await_answer(self, running: Child, deadline: float) -> None:
        """Returns once a server that was found running answers; it may have been started a moment ago."""
        while not self._answers(running, timeout_s=max(0.01, min(_ANSWER_S, deadline - time.monotonic()))):
            if running.wait(_POLL_S):
                raise ServerStartError(
                    f"the server of {self._target}, process {running.pid}, ended while it was waited for",
                    log=self._log.tail(_LOG_LINES_IN_ERRORS),
                    hint=f"deployctl up {self._target}",
                )
            if time.monotonic() >= deadline:
                raise ServerStartError(
                    f"the server of {self._target}, process {running.pid}, runs but does not answer",
                    log=self._log.tail(_LOG_LINES_IN_ERRORS),
                    hint=f"deployctl down {self._target}",
                )

    def _answers(self, running: Child, *, timeout_s: float) -> bool:
        endpoints = self._endpoints_of(running.rest_port, running.grpc_port)
        if not self._accepting(endpoints):
            return False
        return self._service_at(endpoints.grpc).answers(timeout_s=timeout_s)

    def _state_without_process(self) -> ServerState:
        recorded = children.read(self._record)
        if recorded is None:
            return ServerState(
                ServerCondition.STOPPED, self._endpoints_of(self._options.rest_port, self._options.grpc_port)
            )
        detail = {"pid": f"{recorded.pid} (ended without `deployctl down`)", "log": str(self._log.path)}
        return ServerState(
            ServerCondition.UNREACHABLE, self._endpoints_of(recorded.rest_port, recorded.grpc_port), detail
        )

    def _endpoints(self) -> Endpoints:
        recorded = children.read(self._record)
        if recorded is None:
            return self._endpoints_of(self._options.rest_port, self._options.grpc_port)
        return self._endpoints_of(recorded.rest_port, recorded.grpc_port)

    def _endpoints_of(self, rest_port: int, grpc_port: int) -> Endpoints:
        host = _WILDCARDS.get(self._options.host, self._options.host)
        name = f"[{host}]" if ":" in host else host
        return Endpoints(f"http://{name}:{rest_port}" if rest_port else "", f"{name}:{grpc_port}" if grpc_port else "")


def server_environment(starter: Mapping[str, str]) -> dict[str, str]:
    """Returns what the server gets of its starter's environment, and what makes it find this very program."""
    kept = {
        name: value for name, value in starter.items() if name in _KEPT_VARIABLES or name.startswith(_KEPT_PREFIXES)
    }
    # The server runs in another directory, where relative entries would mean something else.
    search = [os.path.abspath(entry) for entry in kept.get("PYTHONPATH", "").split(os.pathsep) if entry]
    package_root = str(Path(deployctl.__file__).parent.parent)
    if Path(package_root).name not in {"site-packages", "dist-packages"} and package_root not in search:
        search.insert(0, package_root)
    kept["PYTHONPATH"] = os.pathsep.join(search)
    # Each log line is in the file when it is written, also when the server is killed.
    kept["PYTHONUNBUFFERED"] = "1"
    return kept


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _port(words: tuple[str, ...], flag: str) -> int:
    values = [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]
    return int(values[-1]) if values else 0
