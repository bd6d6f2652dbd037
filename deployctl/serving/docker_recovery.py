"""A container whose server has ended: why it did, and how it is brought back with what it served."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from deployctl.domain.names import TargetName
from deployctl.domain.serving import ServingConfig
from deployctl.errors import (
    DeployctlError,
    EngineError,
    ServerExitedError,
    ServerStartError,
    ServerUnavailableError,
)
from deployctl.serving.docker import Engine
from deployctl.serving.docker_facts import ContainerFacts
from deployctl.serving.docker_launch import QUICK_STOP_S, Launcher

_REVIVALS = 3
_KILLED = 137
# Exit codes of a server that was asked to end, or killed by hand.
_ENDED_ON_REQUEST = frozenset({0, _KILLED, 143})
# A connection breaks before the engine tells of the end, and it may tell that before it tells of the memory.
_ENGINE_TELLS_S = 1.5
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Death:
    """Why a server ended.

    Attributes:
        by_itself: whether what it was told to serve is to blame, as far as can be seen: it would end again.
    """

    error: DeployctlError
    by_itself: bool


class Recovery:
    """Looks at what became of one target's container.

    Args:
        find: returns the container as it is now, None where there is none.
    """

    def __init__(
        self, target: TargetName, engine: Engine, launcher: Launcher, find: Callable[[], ContainerFacts | None]
    ) -> None:
        self._target = target
        self._engine = engine
        self._launcher = launcher
        self._find = find

    def death(self, *, since: datetime) -> Death | None:
        """Returns why the server ended since then, None where it did not."""
        deadline, pause = time.monotonic() + _ENGINE_TELLS_S, threading.Event()
        while True:
            try:
                container = self._find()
                if container is None:
                    return None
                deaths = self._engine.deaths(container, since=since)
            except EngineError as error:
                return Death(error, by_itself=False)
            if "oom" in deaths or (deaths and container.oom_killed):
                return Death(self._launcher.out_of_memory(container), by_itself=True)
            status = int(deaths[-1].rpartition(" ")[2]) if deaths else None
            open_yet = status == _KILLED or (status is None and container.status == "running")
            if not open_yet or time.monotonic() >= deadline:
                return None if status is None else self._ended(container, status)
            pause.wait(_POLL_S)

    def restart(self, config: ServingConfig, deadline: float) -> None:
        """Starts a server again that ends on account of what it was told before; its file holds `config` already.

        Raises:
            ServerError: it does not come back.
        """
        container = self._find()
        if container is None:
            return
        # What the restart policy has started meanwhile has read the file before it was written.
        self._engine.restart(container, timeout_s=QUICK_STOP_S)
        self._launcher.await_ready(container, config, deadline)

    def revive(self, config: ServingConfig, cause: ServerUnavailableError, deadline: float, *, since: datetime) -> None:
        """Returns once a server that ended by itself answers again; its file holds `config` already.

        A server that a person has stopped stays stopped.

        Raises:
            ServerUnavailableError: `cause`, where it is not to be started, or cannot be.
            ServerExitedError: it ends each time that it is started.
        """
        starts = 0
        while True:
            container = self._find()
            if container is None or container.status in {"created", "paused"}:
                raise cause
            if container.status != "running":
                by_itself = container.status == "restarting" or container.exit_code not in _ENDED_ON_REQUEST
                if starts == _REVIVALS or not (by_itself or self._engine.deaths(container, since=since)):
                    raise self._launcher.exited(container) if starts else cause
                # What waits to be started by the engine has read the file before it was written.
                self._engine.restart(container, timeout_s=QUICK_STOP_S)
                starts += 1
            try:
                self._launcher.await_ready(container, config, deadline)
            except ServerExitedError:
                continue
            except ServerStartError as error:
                raise cause from error
            return

    def _ended(self, container: ContainerFacts, status: int) -> Death:
        error = ServerExitedError(
            f"the server of {self._target} ended with exit code {status}",
            status,
            log=self._launcher.log_tail(container),
            hint=f"deployctl logs {self._target}",
        )
        return Death(error, by_itself=status not in _ENDED_ON_REQUEST)
