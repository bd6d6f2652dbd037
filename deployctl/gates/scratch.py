"""A scratch server: one of the target's own kind, alone with the versions that gates run, and gone afterwards.

<state>/scratch/<random>/       its configuration, log and models; removed when it is closed
<state>/scratch/<random>.lock   held by whoever uses it, so that one whose user was killed is found and ended
<state>/scratch/logs/           logs of servers that crashed or refused a version
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Protocol

from deployctl.domain.clock import Clock
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.serving import ServedModel, ServingConfig, VersionState
from deployctl.errors import (
    DeployctlError,
    ReloadStuckError,
    ServerError,
    ServerOutOfMemoryError,
    ServerUnavailableError,
)
from deployctl.gates.interface import Version
from deployctl.serving.interface import Prediction, PredictionRequest, ServedSpec, ServingRuntime

logger = logging.getLogger(__name__)

# Makes the runtime of a scratch server from its state directory and the directory of its models.
Launch = Callable[[Path, Path], ServingRuntime]
# Every version has a model of its own, so that old and new may be loaded side by side under any numbers.
_ONLY = VersionNumber(1)
_CALL_TIMEOUT_S = 10.0
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 2.0
_POLL_S = 0.01
_LOG_LINES = 40
_KEPT_LOGS = 20
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Load:
    """How a version was loaded.

    Attributes:
        error: why it is not AVAILABLE, "" where it is.
        load_s: seconds from asking for it to AVAILABLE, or to the error.
        peak_bytes: the most memory that the server held so far, None where that cannot be told; so `before_bytes`, of
            what it held before.
        log: the last lines of the server's log where there is an error.
        log_file: where the whole log is kept, where there is an error.
    """

    error: str
    load_s: float
    peak_bytes: int | None = None
    before_bytes: int | None = None
    log: tuple[str, ...] = ()
    log_file: Path | None = None


def load_evidence(load: Load) -> dict[str, Any]:
    """Returns time and memory of a load as JSON values; `recorded_load` gives them back."""
    return {"load_s": load.load_s, "peak_bytes": load.peak_bytes, "before_bytes": load.before_bytes}


def recorded_load(evidence: Mapping[str, Any]) -> Load:
    """Returns the load of a version that was AVAILABLE, from the evidence of a verdict; what it lacks is not known."""
    return Load("", evidence.get("load_s") or 0.0, evidence.get("peak_bytes"), evidence.get("before_bytes"))


class Answering(Protocol):
    """A server that answers for versions that were loaded in it."""

    def load(self, version: Version, *, timeout_s: float) -> Load:
        """Loads `version`, once, and returns how that went."""

    def remember(self, version: Version, evidence: Mapping[str, Any]) -> None:
        """Takes note of how `version` was loaded in an earlier run, as far as a verdict's evidence tells."""

    def predict(self, version: Version, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        """Returns what `version`, which is loaded, answers, whatever model and version `request` names."""


class LiveServer:
    """The server of a target, asked for versions of one model by their numbers.

    Args:
        version: the number of the version that is asked.
    """

    def __init__(self, runtime: ServingRuntime, model: ModelName, version: VersionNumber) -> None:
        self._runtime = runtime
        self._spec = ServedSpec(model, version=version)

    def load(self, version: Version, *, timeout_s: float) -> Load:
        """Does nothing: the version is loaded."""
        return Load("", 0.0)

    def remember(self, version: Version, evidence: Mapping[str, Any]) -> None:
        """Does nothing: nobody asks how it was loaded."""

    def predict(self, version: Version, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        """Returns what the version answers on the target."""
        asked = PredictionRequest(self._spec, request.signature, request.instances, request.inputs)
        return self._runtime.predict(asked, grpc=grpc, timeout_s=timeout_s)


class ScratchServer:
    """Starts at the first version that is loaded; a context that leaves nothing behind. Not for several threads.

    Args:
        directory: where scratch servers live, `<state>/scratch`.
        launch: makes the runtime.
        clock: for waiting.
        link: puts a version's directory where the server finds it.
    """

    def __init__(
        self, directory: Path, launch: Launch, clock: Clock, link: Callable[[Path, Path], None] = os.symlink
    ) -> None:
        self._directory = directory
        self._launch = launch
        self._clock = clock
        self._link = link
        self._stack = ExitStack()
        self._runtime: ServingRuntime | None = None
        self._models = directory
        self._given_up = Event()
        self._loads: dict[Path, Load] = {}
        self._earlier: dict[Path, Load] = {}
        self._served: dict[Path, ServedModel] = {}

    def __enter__(self) -> ScratchServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def load(self, version: Version, *, timeout_s: float) -> Load:
        """Loads `version` beside what is loaded already, once; a second call gives what the first one gave.

        Raises:
            ServerError: the scratch server cannot be started.
        """
        known = self._loads.get(version.path)
        if known is None:
            known = self._loads[version.path] = self._load(version, timeout_s)
        return known

    def give_up(self) -> None:
        """Makes a `load` that runs in another thread end with an error, soon."""
        self._given_up.set()

    def remember(self, version: Version, evidence: Mapping[str, Any]) -> None:
        """Takes note of how `version` was loaded in an earlier run, as far as a verdict's evidence tells."""
        if isinstance(evidence.get("peak_bytes"), int):
            self._earlier.setdefault(version.path, recorded_load(evidence))

    def loaded(self, version: Version) -> Load | None:
        """Returns how `version` was loaded, by this server or in an earlier run; None where that is not known."""
        return self._loads.get(version.path) or self._earlier.get(version.path)

    def predict(self, version: Version, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        """Returns what `version`, which is loaded, answers, whatever model and version `request` names.

        Raises:
            InvalidRequestError, ServerError: see `ServingRuntime.predict`.
        """
        spec = ServedSpec(self._served[version.path].name, version=_ONLY)
        asked = PredictionRequest(spec, request.signature, request.instances, request.inputs)
        return self._started().predict(asked, grpc=grpc, timeout_s=timeout_s)

    def _load(self, version: Version, timeout_s: float) -> Load:
        runtime = self._started()
        name = ModelName(f"m{len(self._loads)}")
        base = self._models / name
        base.mkdir()
        self._link(version.path.resolve(), base / str(_ONLY))
        self._served[version.path] = ServedModel(name, runtime.served_path(base), (_ONLY,))
        before, started = self._memory("VmRSS"), self._clock.monotonic()
        error = self._await(name, started + timeout_s)
        took = self._clock.monotonic() - started
        peak = self._memory("VmHWM")
        if not error:
            return Load("", took, peak, before)
        del self._served[version.path]
        return Load(error, took, peak, before, self._tail(), self._keep_log(version))

    def _await(self, model: ModelName, deadline: float) -> str:
        """Returns why the model is not AVAILABLE, "" once it is."""
        runtime = self._started()
        try:
            left_s = max(1.0, deadline - self._clock.monotonic())
            runtime.apply(ServingConfig(tuple(self._served.values())), timeout_s=left_s)
            while True:
                statuses = runtime.statuses(model, timeout_s=_CALL_TIMEOUT_S)
                if statuses and statuses[0].state is VersionState.AVAILABLE:
                    return ""
                if statuses and statuses[0].failed:
                    return statuses[0].error
                if self._given_up.is_set():
                    return "the wait for it was given up"
                if self._clock.monotonic() > deadline:
                    return "it was not AVAILABLE in time"
                self._clock.pause(_POLL_S)
        except ReloadStuckError:
            return "it was not AVAILABLE in time"
        except ServerOutOfMemoryError as error:
            return str(error)
        except ServerUnavailableError:
            return "the scratch server ended while it loaded the version"
        except ServerError as error:
            return str(error)

    def _started(self) -> ServingRuntime:
        if self._runtime is None:
            root = self._stack.enter_context(own_directory(self._directory, self._launch))
            self._models = root / "models"
            self._models.mkdir()
            runtime = self._launch(root, self._models)
            self._stack.callback(stop, runtime)
            runtime.up(ServingConfig(()), timeout_s=_START_TIMEOUT_S)
            self._runtime = runtime
        return self._runtime

    def _memory(self, field: str) -> int | None:
        """Returns a line of the server process's /proc/PID/status in bytes, None where it is no process of ours."""
        pid = self._started().state(timeout_s=_CALL_TIMEOUT_S).detail.get("pid", "")
        with suppress(OSError, ValueError):
            for line in Path(f"/proc/{int(pid)}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith(f"{field}:"):
                    return int(line.split()[1]) * 1024
        return None

    def _tail(self) -> tuple[str, ...]:
        return tuple(self._started().logs(lines=_LOG_LINES, since_s=None, follow=False))

    def _keep_log(self, version: Version) -> Path:
        logs = self._directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9@._-]+", "_", version.name)[-80:].lstrip("._")
        file = logs / f"{name}-{self._clock.now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}.log"
        lines = self._started().logs(lines=None, since_s=None, follow=False)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace")
        for old in sorted(logs.glob("*.log"), key=lambda path: path.stat().st_mtime)[:-_KEPT_LOGS]:
            old.unlink(missing_ok=True)
        return file


@contextmanager
def own_directory(directory: Path, launch: Launch) -> Iterator[Path]:
    """Gives a directory below `directory` for one scratch server, and clears away those of users that were killed."""
    directory.mkdir(parents=True, exist_ok=True)
    root = directory / secrets.token_hex(6)
    lock = root.with_suffix(_LOCK)
    descriptor = _locked(lock)
    try:
        _clear_abandoned(directory, lock, launch)
        root.mkdir()
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path) -> int:
    """Returns a descriptor of the file `lock`, made and held; closing it lets go."""
    while True:
        descriptor = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Between the two, another user may have taken it for abandoned and removed it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        os.close(descriptor)


def _clear_abandoned(directory: Path, own: Path, launch: Launch) -> None:
    for lock in directory.glob(f"*{_LOCK}"):
        if lock == own:
            continue
        with suppress(OSError):  # BlockingIOError: somebody uses it; FileNotFoundError: its user has just left
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                root = lock.with_suffix("")
                if root.is_dir():
                    stop(launch(root, root / "models"))
                shutil.rmtree(root, ignore_errors=True)
                lock.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def stop(runtime: ServingRuntime) -> None:
    """Ends a scratch server; one that cannot be ended is left to whoever starts the next."""
    try:
        runtime.down(timeout_s=_STOP_TIMEOUT_S)
    except DeployctlError as error:
        logger.warning("a scratch server could not be stopped: %s", error)
