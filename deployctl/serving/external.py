"""The external runtime: a TensorFlow Serving that someone else starts and stops, told what to serve by gRPC."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from deployctl.domain.names import TargetName
from deployctl.domain.serving import Endpoints, ServerCondition, ServerState, ServingConfig
from deployctl.errors import ExternallyRunError, ServerUnavailableError
from deployctl.serving.config import normal
from deployctl.serving.network import NetworkRuntime

if TYPE_CHECKING:
    from deployctl.serving.model_service import TlsFiles

_POLL_S = 0.1
_ANSWER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalOptions:
    """Where the server is and what it sees.

    Attributes:
        repository: the directory that holds the models here.
        models_path: where the server has that directory, "" for the same place.
        config_file: what the server starts from and deployctl may replace, None where it may not.
        rest_url: "" for `host` and `rest_port`.
        rest_port: 0 for none.
        tls: whether gRPC is called with TLS; the files are for that, None for the system's or for none.
    """

    target: TargetName
    repository: Path
    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    models_path: str = ""
    config_file: Path | None = None
    rest_url: str = ""
    tls: bool = False
    tls_ca_file: Path | None = None
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None


class ExternalRuntime(NetworkRuntime):
    """Tells a server that is there already; it neither starts nor stops it, and has no access to its log."""

    def __init__(self, options: ExternalOptions) -> None:
        """Makes the runtime's object; nothing is read or called yet."""
        self._options = options
        super().__init__(options.target, options.config_file)

    def up(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Returns once the server answers, within `timeout_s` seconds; the file that it starts from is left as it is.

        Raises:
            ServerUnavailableError: nothing answers; only who runs the server can start it.
        """
        deadline = time.monotonic() + timeout_s
        endpoints, pause = self._endpoints(), threading.Event()
        while not self._answers(max(0.01, min(_ANSWER_S, deadline - time.monotonic()))):
            if time.monotonic() >= deadline:
                raise ServerUnavailableError(
                    f"nothing answers at {endpoints.grpc}, and the server of {self._target} is run by someone else "
                    f"(runtime external), who must start it",
                    hint=f"deployctl status {self._target}",
                )
            pause.wait(_POLL_S)
        if self._config_file is not None and self._written() is None:
            self.persist(normal(config))
        return endpoints

    def down(self, *, timeout_s: float) -> bool:
        """Raises ExternallyRunError."""
        raise ExternallyRunError(self._target, "stop")

    def restart(self, config: ServingConfig, *, timeout_s: float) -> Endpoints:
        """Raises ExternallyRunError."""
        raise ExternallyRunError(self._target, "restart")

    def state(self, *, timeout_s: float) -> ServerState:
        """Returns whether the server answers; one that does not is unreachable, since it may well run."""
        detail = {"run by": "someone else"}
        if self._options.config_file is not None:
            detail["configuration"] = str(self._options.config_file)
        condition = ServerCondition.READY if self._answers(timeout_s) else ServerCondition.UNREACHABLE
        return ServerState(condition, self._endpoints(), detail)

    def served_path(self, base_path: Path) -> str:
        """Returns where the server sees `base_path`, which is below the repository."""
        absolute = Path(os.path.abspath(base_path))
        if not self._options.models_path:
            return str(absolute)
        relative = absolute.relative_to(os.path.abspath(self._options.repository))
        return str(PurePosixPath(self._options.models_path, *relative.parts))

    def logs(self, *, lines: int | None, since_s: float | None, follow: bool) -> Iterator[str]:
        """Raises ExternallyRunError."""
        raise ExternallyRunError(self._target, "read the log of")

    def _answers(self, timeout_s: float) -> bool:
        return self._service().answers(timeout_s=timeout_s)

    def _endpoints(self) -> Endpoints:
        options = self._options
        name = f"[{options.host}]" if ":" in options.host else options.host
        rest = options.rest_url or (f"http://{name}:{options.rest_port}" if options.rest_port else "")
        return Endpoints(rest.rstrip("/"), f"{name}:{options.grpc_port}")

    def _tls(self) -> TlsFiles | None:
        from deployctl.serving.model_service import TlsFiles

        options = self._options
        return TlsFiles(options.tls_ca_file, options.tls_cert_file, options.tls_key_file) if options.tls else None

    def _local_path(self, served_path: str) -> Path | None:
        if not self._options.models_path:
            return Path(served_path)
        path, seen = PurePosixPath(served_path), PurePosixPath(self._options.models_path)
        return self._options.repository / path.relative_to(seen) if path.is_relative_to(seen) else None
