"""The Docker runtime: TensorFlow Serving, or the embedded server, in a container that deployctl makes."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from deployctl.domain.names import ModelName
from deployctl.domain.serving import (
    Endpoints,
    ServerCondition,
    ServerState,
    ServingConfig,
    VersionStatus,
)
from deployctl.errors import (
    BasePathNotVisibleError,
    DeployctlError,
    EngineError,
    ReloadStuckError,
    ServerUnavailableError,
    StorageError,
)
from deployctl.files import file_lock, sweep, write_durably
from deployctl.serving.config import normal
from deployctl.serving.docker import Engine
from deployctl.serving.docker_address import engine_address
from deployctl.serving.docker_detail import detail, identity
from deployctl.serving.docker_facts import ContainerFacts
from deployctl.serving.docker_labels import SERVING_ROLE
from deployctl.serving.docker_launch import Launcher, serving_container
from deployctl.serving.docker_options import CONFIG_NAME, MONITORING_NAME, ContainerSpec, DockerOptions, container_spec
from deployctl.serving.docker_recovery import Recovery
from deployctl.serving.interface import Image, ImageRuntime
from deployctl.serving.network import NetworkRuntime
from deployctl.serving.server_log import ago

# For so long an engine that did not answer is not asked again where the server is.
_AWAY_S = 30.0


class DockerRuntime(NetworkRuntime, ImageRuntime):
    """Serves from a container on the engine that the `docker` command would use.

    The container is found by its labels, so nothing else records which one it is. It starts from the configuration
    file in a directory that it has mounted, so that however it comes to be started it serves what was live.
    """

    def __init__(self, options: DockerOptions, announce: Callable[[str], None] = lambda text: None) -> None:
        """Makes the runtime's object; the engine is first asked when something must be known.

        Args:
            options: how the container is made.
            announce: hears of what takes the server away from its clients for a moment.
        """
        self._options = options
        self._announce = announce
        self._directory = options.directory
        self._models_file = self._directory / "config" / CONFIG_NAME
        self._connected: Engine | None = None
        self._known: ContainerFacts | None = None
        self._watched_since = datetime.now(UTC)
        self._blamed = False
        self._away_until = 0.0
        super().__init__(options.target, self._models_file)

    def close(self) -> None:
        """Closes the connections to the server and to the engine."""
        super().close()
        engine, self._connected = self._connected, None
        if engine is not None:
            engine.close()

    def up(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Starts a container with `config`, or finds the running one, and returns once it answers for every model.

        A running container that was made from other settings is replaced: by a new one that runs beside it, where
        their ports differ; else by one that was tried on other ports before the old one is stopped. It keeps its
        image: for another one there is `exchange`.

        Raises:
            EngineUnavailableError, ImageMissingError: nothing was changed.
        """
        deadline = time.monotonic() + timeout_s
        self._make_directory()
        with self._lock("up", timeout_s=timeout_s):
            spec = self._spec()
            found = self._engine().containers(self._options.labels)
            serving = serving_container(found, spec)
            for other in found:
                if serving is None or other.id != serving.id:
                    self._engine().remove(other)
            if serving is None:
                self._check_present(config)
                self.persist(normal(config))
                sweep(self._models_file)
                return self._remember(self._launcher().start_new(spec, normal(config), deadline))
            spec = self._with_image_of(serving, spec)
            if serving.spec == spec.digest:
                return self._remember(self._launcher().await_answer(serving, deadline))
            made, _ = self._launcher().replace(serving, spec, normal(config), deadline)
            return self._remember(made)

    def down(self, *, timeout_s: float) -> bool:
        """Stops and removes the container: it may finish its requests for `timeout_s` seconds, then it is killed."""
        found = self._engine().containers(self._options.labels)
        if not found:
            self._remove_networks()
            return False
        self._make_directory()
        with self._lock("down", timeout_s=timeout_s):
            found = self._engine().containers(self._options.labels)
            for container in found:
                if container.running:
                    self._engine().stop(container, timeout_s=timeout_s)
                self._engine().remove(container)
            self._remove_networks()
            self._known = None
            self._disconnect()
            return any(container.running for container in found)

    def restart(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Restarts the container with `config`; where there is none, or of other settings, a new one is started."""
        deadline = time.monotonic() + timeout_s
        self._make_directory()
        with self._lock("restart", timeout_s=timeout_s):
            spec = self._spec()
            serving = serving_container(self._engine().containers(self._options.labels), spec)
            spec = spec if serving is None else self._with_image_of(serving, spec)
            if serving is not None and serving.spec == spec.digest:
                self._check_present(config)
                self.persist(normal(config))
                self._engine().restart(serving, timeout_s=self._options.stop_timeout_s)
                self._disconnect()
                return self._remember(self._launcher().await_ready(serving, normal(config), deadline))
        if serving is not None:
            self.down(timeout_s=self._options.stop_timeout_s)
        return self.up(config, timeout_s=max(1.0, deadline - time.monotonic()))

    def running_image(self) -> Image | None:
        """Returns what the serving container is made from, None where none runs."""
        container = self._find()
        if container is None or not container.running:
            return None
        found = self._engine().image_name(container.image_id)
        return Image(container.image_name, container.image_id, found.digest if found else container.image_id)

    def wanted_image(self) -> Image:
        """Returns the image that the settings name, pulled as they say."""
        found = self._engine().image(self._options.image, self._options.pull)
        return Image(self._options.image, found.id, found.digest)

    def exchange(self, config: ServingConfig, *, timeout_s: float) -> float:
        """Puts a container of the settings' image in the place of the running one; returns the seconds without any."""
        deadline = time.monotonic() + timeout_s
        self._make_directory()
        with self._lock("upgrade", timeout_s=timeout_s):
            spec = self._spec()
            serving = serving_container(self._engine().containers(self._options.labels), spec)
            if serving is None:
                raise ServerUnavailableError(
                    f"the server of {self._target} is not running", hint=f"deployctl up {self._target}"
                )
            self._known = None
            made, gap_s = self._launcher().replace(
                serving, spec, normal(config), deadline, why="its image changes", tried=True
            )
            self._remember(made)
            return gap_s

    def state(self, *, timeout_s: float) -> ServerState:
        """Returns what is known of the container, and where the engine does not answer, whether the server does."""
        try:
            container = self._find()
        except EngineError as error:
            return ServerState(self._unseen_condition(timeout_s), self._published(), {"engine": str(error)})
        if container is None:
            return ServerState(ServerCondition.STOPPED, self._launcher().endpoints(None))
        image = self._engine().image_name(container.image_id)
        return ServerState(
            self._condition_of(container, timeout_s),
            self._launcher().endpoints(container),
            detail(container, image, self._options, self._engine()),
            identity(container, image),
        )

    def condition(self, *, timeout_s: float) -> ServerCondition:
        """Returns how the server is, without asking the engine for its image and its memory."""
        try:
            container = self._find()
        except EngineError:
            return self._unseen_condition(timeout_s)
        self._known = container
        return ServerCondition.STOPPED if container is None else self._condition_of(container, timeout_s)

    def _unseen_condition(self, timeout_s: float) -> ServerCondition:
        """Returns how a server is whose engine does not answer: it serves on where its settings say its ports.

        An engine that is restarted lets containers go on, with `live-restore`, and one that hangs does too.
        """
        endpoint = self._published().grpc
        answers = bool(endpoint) and self._service_at(endpoint).answers(timeout_s=timeout_s)
        return ServerCondition.READY if answers else ServerCondition.UNREACHABLE

    def _published(self) -> Endpoints:
        """Returns where the server is whatever the engine says; nowhere where the engine chooses its ports."""
        try:
            return self._launcher().endpoints(None)
        except EngineError:
            return Endpoints("", "")

    def _condition_of(self, container: ContainerFacts, timeout_s: float) -> ServerCondition:
        endpoint = self._launcher().endpoints(container).grpc
        answers = container.running and bool(endpoint) and self._service_at(endpoint).answers(timeout_s=timeout_s)
        return ServerCondition.READY if answers else ServerCondition.UNREACHABLE

    def apply(self, config: ServingConfig, *, timeout_s: float) -> None:
        """Writes `config`, then sends it; a server that has ended by itself is started with it.

        Raises:
            BasePathNotVisibleError: a version's directory is outside of what the container has mounted.
            ServerOutOfMemoryError, ServerExitedError: it ended on account of `config`.
        """
        deadline = time.monotonic() + timeout_s
        self._undo_fall(config, deadline)
        began = datetime.now(UTC)
        try:
            super().apply(config, timeout_s=max(1.0, deadline - time.monotonic()))
        except ReloadStuckError as error:
            raise self._unseen(since=began) or error from error
        except ServerUnavailableError as error:
            died = self._death(since=began)
            if died is not None:
                raise died from error
            self._disconnect()
            self._recovery().revive(config, error, deadline, since=self._watched_since)
            super().apply(config, timeout_s=max(1.0, deadline - time.monotonic()))
        self._watched_since = began

    def _undo_fall(self, config: ServingConfig, deadline: float) -> None:
        """Starts a server with `config` that was seen to end on account of what it was told last.

        Its restart policy starts it with the file that names that, so that it would end again and again.
        """
        if not self._blamed:
            return
        self._check_present(config)
        self.persist(config)
        self._disconnect()
        self._recovery().restart(config, deadline)
        self._blamed = False

    def statuses(self, model: ModelName, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Returns every version of `model` that the server has seen; says so where the server has ended meanwhile."""
        try:
            found = super().statuses(model, timeout_s=timeout_s)
        except ServerUnavailableError as error:
            raise self._death(since=self._watched_since) or error from error
        self._blamed = False
        return found

    def _write_monitoring_config(self) -> None:
        from deployctl.serving.request_counts import MONITORING_CONFIG

        path = self._models_file.with_name(MONITORING_NAME)
        if not path.exists():
            write_durably(path, MONITORING_CONFIG)

    def served_path(self, base_path: Path) -> str:
        """Returns where the container has `base_path`, which is below the repository."""
        relative = Path(os.path.abspath(base_path)).relative_to(os.path.abspath(self._options.repository))
        return str(PurePosixPath(self._options.models_path, *relative.parts))

    def logs(self, *, lines: int | None, since_s: float | None, follow: bool) -> Iterator[str]:
        """Yields the log lines of the newest container, also of one that has ended."""
        container = self._find()
        if container is None:
            return iter(())
        since = None if since_s is None else ago(since_s)
        return self._engine().logs(container, lines=lines, since=since, follow=follow)

    def _local_path(self, served_path: str) -> Path | None:
        path, mount = PurePosixPath(served_path), PurePosixPath(self._options.models_path)
        if self._engine_is_elsewhere() or not path.is_relative_to(mount):
            return None
        return self._options.repository / path.relative_to(mount)

    def _engine_is_elsewhere(self) -> bool:
        return bool(engine_address(os.environ, Path.home()).host)

    def _check_present(self, config: ServingConfig) -> None:
        """Raises also where a directory is there, but not for the container: the server would wait for it for ever."""
        super()._check_present(config)
        repository = self._options.repository.resolve()
        for model in config.models:
            base_path = self._local_path(model.base_path)
            for version in model.versions if base_path is not None else ():
                found = Path(base_path or "", str(version)).resolve()
                if not found.is_relative_to(repository):
                    raise BasePathNotVisibleError(
                        f"{model.name}@{version} is a link to {found}, which the container of {self._target} does "
                        f"not see: only {repository} is mounted in it",
                        hint=f"deployctl verify {model.name}@{version}",
                    )

    def _engine(self) -> Engine:
        if self._connected is None:
            self._connected = Engine()
        return self._connected

    def _launcher(self) -> Launcher:
        return Launcher(self._engine(), self._options, self._announce)

    def _lock(self, purpose: str, *, timeout_s: float) -> contextlib.AbstractContextManager[None]:
        return file_lock(
            self._directory / "server.lock",
            what=f"the server of {self._target}",
            holder=f"process {os.getpid()} (deployctl {purpose})",
            timeout_s=timeout_s,
        )

    def _make_directory(self) -> None:
        try:
            self._models_file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {self._models_file.parent}: {error.strerror}") from error

    def _remove_networks(self) -> None:
        if self._options.isolated:
            self._engine().remove_networks(self._options.labels)

    def _spec(self) -> ContainerSpec:
        options = self._options
        if options.isolated and not self._engine().reaches_containers:
            self._announce(
                f"{self._target}: the Docker engine at {self._engine().address} has its containers where this machine "
                f"does not reach them; the server is not cut off from the network"
            )
            options = replace(options, isolated=False)
        image = self._engine().image(options.image, options.pull)
        return container_spec(options, image)

    def _with_image_of(self, serving: ContainerFacts, spec: ContainerSpec) -> ContainerSpec:
        """Returns `spec` with the image that runs: another one may answer otherwise, which `exchange` is for."""
        if serving.image_id == spec.image_id:
            return spec
        running = self._engine().image_name(serving.image_id)
        self._announce(
            f"{self._target} goes on with {serving.image_name or serving.image_id[:19]}, and the settings name "
            f"{self._options.image}; `deployctl upgrade {self._target}` compares their answers, then switches"
        )
        if running is None:
            # It cannot be made again; its settings are those that it has.
            return replace(spec, image_id=serving.image_id)
        kept = replace(self._options, image=serving.image_name)
        return container_spec(replace(kept, isolated=spec.isolated), running)

    def _find(self) -> ContainerFacts | None:
        """Returns the serving container, the newest where several are left, None where there is none."""
        found = [each for each in self._engine().containers(self._options.labels) if each.role == SERVING_ROLE]
        found.sort(key=lambda each: not each.running)
        return found[0] if found else None

    def _remember(self, container: ContainerFacts) -> Endpoints:
        self._known = container
        self._watched_since = datetime.now(UTC)
        return self._launcher().endpoints(container)

    def _unseen(self, *, since: datetime) -> DeployctlError | None:
        container = self._find()
        return None if container is None else self._launcher().unseen_in_log(container, since=since)

    def _death(self, *, since: datetime) -> DeployctlError | None:
        """Returns why the server ended since then, None where it did not."""
        try:
            death = self._recovery().death(since=since)
        except EngineError as error:
            return error
        if death is None:
            return None
        self._blamed = self._blamed or death.by_itself
        return death.error

    def _recovery(self) -> Recovery:
        return Recovery(self._target, self._engine(), self._launcher(), self._find)

    def _endpoints(self) -> Endpoints:
        if time.monotonic() < self._away_until:
            return self._published()
        if self._known is None or self._options.rest_port == 0 or self._options.grpc_port == 0:
            try:
                self._known = self._find()
            except EngineError:
                if not self._published().grpc:
                    raise
                self._away_until = time.monotonic() + _AWAY_S
                return self._published()
        return self._launcher().endpoints(self._known) if self._known is not None else Endpoints("", "")
