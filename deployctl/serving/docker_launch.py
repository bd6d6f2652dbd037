"""Starting a target's container, waiting for it, putting it in another's place, and saying why it did not come up."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from deployctl.domain.duration import format_duration
from deployctl.domain.serving import Endpoints, ServingConfig, VersionState
from deployctl.errors import (
    BasePathNotVisibleError,
    EngineError,
    ServerError,
    ServerExitedError,
    ServerOutOfMemoryError,
    ServerStartError,
    ServerUnavailableError,
    ServerUnhealthyError,
)
from deployctl.serving import ports
from deployctl.serving.docker import Engine
from deployctl.serving.docker_facts import ContainerFacts
from deployctl.serving.docker_labels import SERVING_ROLE, TRIAL_ROLE
from deployctl.serving.docker_options import ContainerSpec, DockerOptions
from deployctl.serving.model_service import ModelService

# After its server was asked to end: it is started again with what it served, or is of no use.
QUICK_STOP_S = 2.0
LOOK_AT_LOG_S = 1.0
_LOG_LINES_IN_ERRORS = 40
_LOG_LINES_TO_SEARCH = 200
_POLL_S = 0.05
_ANSWER_S = 5.0
_RETURN_S = 30.0
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
# file_system_storage_path_source.cc, and the embedded server's words.
_NOT_SEEN = ("Could not find base path", "No versions of servable")


class Launcher:
    """Starts containers of one target; an error says what the server said."""

    def __init__(self, engine: Engine, options: DockerOptions, announce: Callable[[str], None]) -> None:
        self._engine = engine
        self._options = options
        self._target = options.target
        self._announce = announce

    def start_new(
        self, spec: ContainerSpec, config: ServingConfig, deadline: float, *, role: str = SERVING_ROLE
    ) -> ContainerFacts:
        """Makes and starts a container; one that did not become ready is left, stopped, for inspection."""
        name = self._options.container_name if role == SERVING_ROLE else f"{self._options.container_name}-{role}"
        published = (spec.rest_port, spec.grpc_port) if role == SERVING_ROLE else (0, 0)
        if spec.isolated:
            self._engine.make_isolated_network(spec.network, spec.labels)
        container = self._engine.create(spec, name=name, role=role, ports=published)
        try:
            self._engine.start(container)
        except BaseException:
            # It never ran: there is nothing to inspect.
            self._engine.remove(container)
            raise
        try:
            ready = self.await_ready(container, config, deadline)
        except BaseException:
            self._engine.stop(container, timeout_s=QUICK_STOP_S)
            raise
        if role == SERVING_ROLE:
            # Only now: one that cannot start would be started again and again.
            self._engine.keep_running(container, spec.restart)
        return ready

    def replace(
        self,
        old: ContainerFacts,
        spec: ContainerSpec,
        config: ServingConfig,
        deadline: float,
        *,
        why: str = "its settings have changed",
        tried: bool = False,
    ) -> tuple[ContainerFacts, float]:
        """Puts a container made from `spec` in the place of `old`, which serves until the new one could.

        Where both need the same port, the new one is tried on other ports first, unless it was `tried`, and the gap
        is told. Returns the new one, and the seconds in which none served.
        """
        if _ports_differ(old, spec):
            self._engine.rename(old, f"{old.name}-old-{old.id[:6]}")
            self._announce(f"{self._target}: {why}; a new container starts beside the old one")
            try:
                made = self.start_new(spec, config, deadline)
            except BaseException:
                # Not where the new one is left under that name for inspection.
                with contextlib.suppress(EngineError):
                    self._engine.rename(old, old.name)
                raise
            self._end(old)
            return made, 0.0
        tries = "was tried on other ports" if tried else "is tried on other ports first"
        self._announce(
            f"{self._target}: {why} and its ports have not, so that the old container must stop before the new one "
            f"starts; the new one {tries}"
        )
        if not tried:
            trial = self.start_new(spec, config, deadline, role=TRIAL_ROLE)
            self._engine.remove(trial)
        return self._swap(old, spec, config, deadline)

    def _swap(
        self, old: ContainerFacts, spec: ContainerSpec, config: ServingConfig, deadline: float
    ) -> tuple[ContainerFacts, float]:
        self._engine.rename(old, f"{old.name}-old-{old.id[:6]}")
        self._engine.stop(old, timeout_s=self._options.stop_timeout_s)
        stopped = time.monotonic()
        try:
            made = self.start_new(spec, config, deadline)
        except BaseException:
            self._engine.start(old)
            self.await_ready(old, config, time.monotonic() + _RETURN_S)
            self._announce(f"{self._target}: the old container serves again after {_since(stopped)} without a server")
            raise
        gap_s = time.monotonic() - stopped
        self._announce(f"{self._target}: {format_duration(gap_s)} passed without a server")
        self._engine.remove(old)
        return made, gap_s

    def _end(self, container: ContainerFacts) -> None:
        self._engine.stop(container, timeout_s=self._options.stop_timeout_s)
        self._engine.remove(container)

    def await_ready(self, container: ContainerFacts, config: ServingConfig, deadline: float) -> ContainerFacts:
        """Returns the container as it is once it answers for every model of `config`."""
        began, pause = datetime.now(UTC), threading.Event()
        look_at_log = time.monotonic() + LOOK_AT_LOG_S
        while True:
            container = self._engine.inspect(container.id)
            if container.status in {"exited", "dead"}:
                raise self.exited(container)
            if container.status == "running" and self._ready(container, config, deadline):
                return container
            if time.monotonic() >= look_at_log:
                look_at_log += LOOK_AT_LOG_S
                if (unseen := self.unseen_in_log(container, since=began)) is not None:
                    raise unseen
            if time.monotonic() >= deadline:
                raise ServerStartError(
                    f"the server of {self._target} was not ready in time",
                    log=self.log_tail(container),
                    hint=f"deployctl logs {self._target}",
                )
            pause.wait(_POLL_S)

    def await_answer(self, container: ContainerFacts, deadline: float) -> ContainerFacts:
        """Returns the container once it answers, whatever it serves.

        Raises:
            ServerUnhealthyError: it runs and did not answer until `deadline`.
            ServerExitedError: it ended.
        """
        if container.status == "paused":
            raise self._unhealthy(container)
        try:
            return self.await_ready(container, ServingConfig(), deadline)
        except ServerStartError as error:
            if isinstance(error, ServerExitedError):
                raise
            raise self._unhealthy(container) from error

    def _unhealthy(self, container: ContainerFacts) -> ServerUnhealthyError:
        health = f" ({container.health})" if container.health else ""
        return ServerUnhealthyError(
            f"container {container.id[:12]} of {self._target} is {container.status}{health} and does not answer",
            hint=f"deployctl restart {self._target}",
        )

    def _ready(self, container: ContainerFacts, config: ServingConfig, deadline: float) -> bool:
        endpoints = self.endpoints(container)
        left = max(0.01, min(_ANSWER_S, deadline - time.monotonic()))
        # The engine's proxy takes connections before the server does, so only an answer counts.
        if not endpoints.grpc or not _rest_answers(endpoints.rest, timeout_s=left):
            return False
        with ModelService(endpoints.grpc) as service, contextlib.suppress(ServerUnavailableError):
            if not config.models:
                return service.answers(timeout_s=left)
            return all(
                any(
                    each.state is VersionState.AVAILABLE
                    for each in service.get_model_status(model.name, timeout_s=left)
                )
                for model in config.models
            )
        return False

    def exited(self, container: ContainerFacts) -> ServerError:
        """Returns why a container that has ended did."""
        if container.oom_killed:
            return self.out_of_memory(container)
        words = f"the server of {self._target} ended with exit code {container.exit_code} before it was ready"
        hint = f"deployctl logs {self._target}"
        if self._options.kept:
            words += f"; container {container.id[:12]} is kept until the next `deployctl up {self._target}`"
        if container.role != SERVING_ROLE:
            # The target's log is that of the server which was to be replaced.
            hint = f"docker logs {container.id[:12]}"
        return ServerExitedError(words, container.exit_code, log=self.log_tail(container), hint=hint)

    def out_of_memory(self, container: ContainerFacts) -> ServerOutOfMemoryError:
        """Returns the error that names the container's limit."""
        limit = size(container.memory_limit) if container.memory_limit else "none: the machine itself ran out"
        return ServerOutOfMemoryError(self._target, limit, f"targets.{self._target}.docker.memory")

    def log_tail(self, container: ContainerFacts) -> tuple[str, ...]:
        """Returns the last lines of its log, as many as errors show."""
        with contextlib.suppress(EngineError):
            return tuple(self._engine.logs(container, lines=_LOG_LINES_IN_ERRORS, since=None, follow=False))
        return ()

    def unseen_in_log(self, container: ContainerFacts, *, since: datetime) -> BasePathNotVisibleError | None:
        """Returns the error where the server says that a directory, which is there, is not."""
        lines = list(self._engine.logs(container, lines=_LOG_LINES_TO_SEARCH, since=since, follow=False))
        words = next((line for line in lines if any(each in line for each in _NOT_SEEN)), None)
        if words is None:
            return None
        return BasePathNotVisibleError(
            f"the server of {self._target} cannot see in its container what is in {self._options.repository}: {words}",
            hint=f"deployctl doctor   (after mending it: deployctl restart {self._target})",
        )

    def endpoints(self, container: ContainerFacts | None) -> Endpoints:
        """Returns where this machine reaches the container, or, without one, would reach it."""
        if container is None:
            options = self._options
            rest = (options.host, options.rest_port) if options.rest_port else None
            grpc = (options.host, options.grpc_port) if options.grpc_port else None
        else:
            rest, grpc = container.rest_address, container.grpc_address
        return Endpoints(f"http://{self._reached(rest)}" if rest else "", self._reached(grpc) if grpc else "")

    def _reached(self, address: tuple[str, int]) -> str:
        """Returns where this machine reaches what the engine's machine has published."""
        host, port = address
        if host in _WILDCARDS:
            host = self._engine.host or host
        host = _WILDCARDS.get(host, host)
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ports_differ(old: ContainerFacts, spec: ContainerSpec) -> bool:
    held = {address[1] for address in (old.rest_address, old.grpc_address) if address is not None}
    return not {port for port in (spec.rest_port, spec.grpc_port) if port} & held


def _rest_answers(endpoint: str, *, timeout_s: float) -> bool:
    import http.client

    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    if not port or not ports.accepts(host.strip("[]"), int(port), timeout_s=timeout_s):
        return False
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout_s)
    try:
        connection.request("GET", "/v1/models/-")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def _since(moment: float) -> str:
    return format_duration(time.monotonic() - moment)


def size(count: int) -> str:
    """Returns a number of bytes for people."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def serving_container(found: list[ContainerFacts], spec: ContainerSpec) -> ContainerFacts | None:
    """Returns the running container to go on with: where a replacement was interrupted, the one as wanted."""
    running = [each for each in found if each.running and each.role == SERVING_ROLE]
    running.sort(key=lambda each: each.spec != spec.digest)
    return running[0] if running else None
