"""Loads the versions that should be served and unloads those that should not, without a gap.

Follows tensorflow_serving/core: aspired_versions_manager.cc (what is wanted, what is done next),
availability_preserving_policy.cc (in which order) and basic_manager.cc (states, retries, what answers a request).
"""

from __future__ import annotations

import abc
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from deployctl.domain.serving import VersionState
from deployctl.modelserver.interface import Code, Servable, StatusError, VersionReport
from deployctl.modelserver.states import StateMonitor

logger = logging.getLogger(__name__)


class LoadedServable(Servable):
    """A servable that can be unloaded."""

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back all that loading took; nobody holds it any more."""


class Loader(abc.ABC):
    """Loads one version from its directory."""

    @abc.abstractmethod
    def load(self, name: str, version: int, path: str, *, background: bool) -> LoadedServable:
        """Returns the loaded version, ready to serve; with `background` requests to others come first.

        Raises:
            StatusError: it cannot be loaded.
        """


@dataclass(frozen=True, slots=True)
class LifecycleOptions:
    """How loading goes about.

    Attributes:
        load_threads: versions loaded at the same time; 0 counts as 1.
        unload_threads: versions unloaded at the same time; 0 counts as 1.
        max_load_retries: attempts after the first.
        retry_interval_s: between attempts.
    """

    load_threads: int = 0
    unload_threads: int = 0
    max_load_retries: int = 5
    retry_interval_s: float = 60.0


class Stage(Enum):
    """LoaderHarness::State, as far as it matters here."""

    NEW = "new"
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    DISABLED = "disabled"
    ERROR = "error"


@dataclass(slots=True, eq=False)
class Harness:
    """One version under management; `users` counts requests that hold it."""

    name: str
    version: int
    path: str
    aspired: bool = True
    stage: Stage = Stage.NEW
    loaded: LoadedServable | None = None
    users: int = 0
    cancelled: threading.Event = field(default_factory=threading.Event)


class Action(Enum):
    """What the policy asks for next."""

    LOAD = "load"
    UNLOAD = "unload"


def next_action(versions: Iterable[Harness]) -> tuple[Action, Harness] | None:
    """Returns what to do next for one model: availability first.

    A version that is no longer wanted goes only when a wanted one is ready, none is wanted, or another unwanted one
    still serves; and it goes before the next is loaded.
    """
    versions = list(versions)
    wanted = [harness for harness in versions if harness.aspired]
    wanted_ready = any(harness.stage is Stage.READY for harness in wanted)
    unwanted_ready = [harness for harness in versions if not harness.aspired and harness.stage is Stage.READY]
    if unwanted_ready and (not wanted or wanted_ready or len(unwanted_ready) > 1):
        return Action.UNLOAD, min(unwanted_ready, key=lambda harness: harness.version)
    new = [harness for harness in wanted if harness.stage is Stage.NEW]
    if new:
        return Action.LOAD, max(new, key=lambda harness: harness.version)
    return None


class Lifecycle:
    """Manages all versions of all models in threads of its own. Safe to call from any thread."""

    def __init__(self, loader: Loader, options: LifecycleOptions) -> None:
        self.states = StateMonitor()
        self._loader = loader
        self._options = options
        self._load_threads = max(1, options.load_threads)
        self._condition = threading.Condition()
        self._harnesses: dict[str, dict[int, Harness]] = {}
        self._serving: dict[str, dict[int, Harness]] = {}
        self._latest: dict[str, Harness] = {}
        self._pending: dict[str, dict[int, str]] = {}
        self._busy = {Action.LOAD: 0, Action.UNLOAD: 0}
        self._stopping = False
        self._dirty = False
        self._workers: set[threading.Thread] = set()
        self._manager = threading.Thread(target=self._manage, name="lifecycle", daemon=True)
        self._manager.start()

    def set_aspired(self, name: str, versions: Mapping[int, str]) -> None:
        """Says which versions of `name` should be served, with their directories; replaces what was said before."""
        with self._condition:
            self._pending[name] = dict(versions)
            # At once, not when the manager's thread next runs: a model that is dropped and named again in between
            # must be unloaded and loaded again, or a caller would wait in vain for news of it.
            self._flush()
            self._accept_pending()
            self._wake()

    def set_load_threads(self, count: int | None) -> None:
        """Changes how many versions load at the same time; None returns to the options."""
        with self._condition:
            self._load_threads = max(1, self._options.load_threads if count is None else count)
            self._wake()

    @contextlib.contextmanager
    def hold(self, name: str, version: int | None) -> Iterator[LoadedServable]:
        """Holds the loaded `version`, or the highest, so that it is not unloaded while the block runs.

        Raises:
            StatusError: NOT_FOUND.
        """
        with self._condition:
            found = self._latest.get(name) if version is None else self._serving.get(name, {}).get(version)
            if found is None or found.loaded is None:
                wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise StatusError(Code.NOT_FOUND, f"Servable not found for request: {wanted}")
            found.users += 1
            loaded = found.loaded
        try:
            yield loaded
        finally:
            with self._condition:
                found.users -= 1
                if found.users == 0 and found.stage is Stage.UNLOADING:
                    self._condition.notify_all()

    def stop(self, *, timeout_s: float) -> None:
        """Stops managing, then closes every loaded version; gives up waiting after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._condition:
            self._stopping = True
            for harness in self._all():
                harness.cancelled.set()
            self._wake()
            workers = [self._manager, *self._workers]
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        with self._condition:
            left = [harness for harness in self._all() if harness.loaded is not None and harness.users == 0]
            self._serving.clear()
            self._latest.clear()
        for harness in left:
            self._close(harness)

    # ---- what is wanted ----

    def _wake(self) -> None:
        self._dirty = True
        self._condition.notify_all()

    def _all(self) -> list[Harness]:
        return [harness for versions in self._harnesses.values() for harness in versions.values()]

    def _manage(self) -> None:
        with self._condition:
            while not self._stopping:
                self._dirty = False
                self._flush()
                self._accept_pending()
                while self._act():
                    pass
                self._condition.wait_for(lambda: self._dirty or self._stopping)

    def _flush(self) -> None:
        """Forgets versions that are neither wanted nor doing anything."""
        idle = (Stage.NEW, Stage.DISABLED, Stage.ERROR)
        for name, versions in list(self._harnesses.items()):
            for harness in list(versions.values()):
                if not harness.aspired and harness.stage in idle:
                    del versions[harness.version]
            if not versions:
                del self._harnesses[name]

    def _accept_pending(self) -> None:
        for name in list(self._pending):
            wanted = self._pending[name]
            managed = self._harnesses.setdefault(name, {})
            # A version that is wanted again must first be gone. When that cannot happen (it still serves because
            # nothing wanted is ready), the request waits, as it does in TensorFlow Serving.
            if any(not harness.aspired and harness.version in wanted for harness in managed.values()):
                continue
            del self._pending[name]
            self._accept(name, managed, wanted)
        self._flush()

    def _accept(self, name: str, managed: dict[int, Harness], wanted: Mapping[int, str]) -> None:
        for harness in managed.values():
            if harness.version not in wanted:
                harness.aspired = False
                harness.cancelled.set()
        for version, path in sorted(wanted.items()):
            if version not in managed:
                managed[version] = Harness(name, version, path)
                self._report(managed[version], VersionState.START)

    # ---- what is done ----

    def _act(self) -> bool:
        """Starts one unload or load, unloads first; returns whether there was one to start."""
        actions = [action for versions in self._harnesses.values() if (action := next_action(versions.values()))]
        limits: dict[Action, tuple[int, Stage, Callable[[Harness], None]]] = {
            Action.UNLOAD: (max(1, self._options.unload_threads), Stage.UNLOADING, self._unload),
            Action.LOAD: (self._load_threads, Stage.LOADING, self._load),
        }
        for kind, (limit, stage, work) in limits.items():
            if self._busy[kind] >= limit:
                continue
            harness = next((harness for action, harness in actions if action is kind), None)
            if harness is not None:
                harness.stage = stage
                if kind is Action.UNLOAD:
                    self._withdraw(harness)
                self._report(harness, VersionState.UNLOADING if kind is Action.UNLOAD else VersionState.LOADING)
                self._start(kind, work, harness)
                return True
        return False

    def _start(self, kind: Action, work: Callable[[Harness], None], harness: Harness) -> None:
        def run() -> None:
            try:
                work(harness)
            finally:
                with self._condition:
                    self._busy[kind] -= 1
                    self._workers.discard(threading.current_thread())
                    self._wake()

        self._busy[kind] += 1
        worker = threading.Thread(target=run, name=f"{kind.value} {harness.name} {harness.version}", daemon=True)
        self._workers.add(worker)
        worker.start()

    def _load(self, harness: Harness) -> None:
        try:
            loaded = self._load_with_retries(harness)
        except StatusError as error:
            logger.error("{name: %s version: %d} failed to load: %s", harness.name, harness.version, error)
            self._fail(harness, error)
            return
        except Exception as error:
            logger.exception("{name: %s version: %d} failed to load by a fault", harness.name, harness.version)
            self._fail(harness, StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}"))
            return
        with self._condition:
            harness.loaded = loaded
            harness.stage = Stage.READY
            self._serving.setdefault(harness.name, {})[harness.version] = harness
            self._choose_latest(harness.name)
            self._report(harness, VersionState.AVAILABLE)
        logger.info("Successfully loaded servable version {name: %s version: %d}", harness.name, harness.version)

    def _fail(self, harness: Harness, error: StatusError) -> None:
        with self._condition:
            harness.stage = Stage.ERROR
            self._report(harness, VersionState.END, error)

    def _load_with_retries(self, harness: Harness) -> LoadedServable:
        attempt = 0
        while True:
            try:
                # While nothing is served, nothing needs the processors more.
                background = bool(self._serving)
                return self._loader.load(harness.name, harness.version, harness.path, background=background)
            except StatusError as error:
                if attempt >= self._options.max_load_retries or harness.cancelled.is_set():
                    raise
                attempt += 1
                logger.warning(
                    "Loading servable: {name: %s version: %d} failed, retry %d of %d in %g s: %s",
                    harness.name,
                    harness.version,
                    attempt,
                    self._options.max_load_retries,
                    self._options.retry_interval_s,
                    error,
                )
                if harness.cancelled.wait(max(0.0, self._options.retry_interval_s)):
                    raise

    def _withdraw(self, harness: Harness) -> None:
        """Lets no further request have the version."""
        versions = self._serving.get(harness.name, {})
        versions.pop(harness.version, None)
        if not versions:
            self._serving.pop(harness.name, None)
        self._choose_latest(harness.name)

    def _choose_latest(self, name: str) -> None:
        versions = self._serving.get(name)
        if versions:
            self._latest[name] = versions[max(versions)]
        else:
            self._latest.pop(name, None)

    def _unload(self, harness: Harness) -> None:
        with self._condition:
            self._condition.wait_for(lambda: harness.users == 0)
        self._close(harness)
        with self._condition:
            harness.stage = Stage.DISABLED
            self._report(harness, VersionState.END)
        logger.info("Done unloading servable version {name: %s version: %d}", harness.name, harness.version)

    def _close(self, harness: Harness) -> None:
        loaded, harness.loaded = harness.loaded, None
        if loaded is not None:
            loaded.close()

    def _report(self, harness: Harness, state: VersionState, error: StatusError | None = None) -> None:
        """Publishes a state, under the lock under which the stage changed: else a later one could be overwritten."""
        if error is None:
            self.states.report(harness.name, VersionReport(harness.version, state))
        else:
            self.states.report(harness.name, VersionReport(harness.version, state, error.code, error.message))
