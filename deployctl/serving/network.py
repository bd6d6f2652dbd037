"""What every runtime does alike: telling a TensorFlow Serving that runs what to serve, and asking it."""

from __future__ import annotations

import contextlib
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.saved_model import Signature
from deployctl.domain.serving import Endpoints, ServingConfig, VersionStatus
from deployctl.errors import (
    ReloadStuckError,
    ServerRefusedError,
    ServerTimedOutError,
    ServerUnavailableError,
    SettingsError,
    StorageError,
)
from deployctl.files import write_durably
from deployctl.serving.config import parse, render
from deployctl.serving.interface import Prediction, PredictionRequest, RequestCounts, ServedSpec, ServingRuntime

if TYPE_CHECKING:
    from deployctl.serving.model_service import ModelService, TlsFiles

logger = logging.getLogger(__name__)

# A reload refused with these has changed nothing (model_service_impl.cc).
_NOT_APPLIED = frozenset({"INVALID_ARGUMENT", "FAILED_PRECONDITION"})


class NetworkRuntime(ServingRuntime):
    """A runtime whose server is reached over the network and starts from a file that deployctl writes."""

    def __init__(self, target: TargetName, config_file: Path | None) -> None:
        """Makes the runtime's object.

        Args:
            target: for messages.
            config_file: the ModelServerConfig that the server starts from, None where deployctl may not write it.
        """
        self._target = target
        self._config_file = config_file
        self._connection: tuple[str, ModelService] | None = None

    @abstractmethod
    def _endpoints(self) -> Endpoints:
        """Returns where the server answers, "" for what is not known while it is not running."""

    def _local_path(self, served_path: str) -> Path | None:
        """Returns where this machine has what the server sees as `served_path`, None where that is elsewhere."""
        return Path(served_path)

    def _tls(self) -> TlsFiles | None:
        """Returns what gRPC calls with TLS need, None where they go without."""
        return None

    def close(self) -> None:
        """Closes what is open; the next call opens it again."""
        self._disconnect()

    def _disconnect(self) -> None:
        """Closes the connection to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection[1].close()

    def apply(self, config: ServingConfig, *, timeout_s: float) -> None:
        """Writes `config`, then sends it; where the server refuses it outright, the file is as it was before."""
        self._check_present(config)
        before = self._written()
        self.persist(config)
        try:
            with self._hints():
                self._service().handle_reload_config(config, timeout_s=timeout_s)
        except ServerTimedOutError as error:
            raise ReloadStuckError(self._target, timeout_s) from error
        except ServerRefusedError as error:
            if _is_load_failure(error):
                # Accepted, as far as a reload goes: the server tells so only of names that are new to it, and of
                # every version by GetModelStatus.
                logger.warning("%s accepted the configuration, but: %s", self._target, error.words)
                return
            if error.code in _NOT_APPLIED and before is not None and self._config_file is not None:
                write_durably(self._config_file, before)
            raise

    def persist(self, config: ServingConfig) -> None:
        """Writes `config` to the file that the server starts from, without calling the server."""
        if self._config_file is None:
            return
        try:
            self._config_file.parent.mkdir(parents=True, exist_ok=True)
            self._write_monitoring_config()
            write_durably(self._config_file, render(config))
        except OSError as error:
            raise StorageError(f"cannot write {self._config_file}: {error}") from error

    def written(self) -> ServingConfig | None:
        """Returns what the file says that the server starts from, None where deployctl does not write it."""
        try:
            text = self._written()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read {self._config_file}: {error}") from error
        # A file that is gone is as good as an empty one: there is nothing to start with.
        return None if self._config_file is None else parse(text or "")

    def _write_monitoring_config(self) -> None:
        """Writes the file that makes the server count its requests, where deployctl starts the server."""

    def statuses(self, model: ModelName, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Returns every version of `model` that the server has seen, descending; () if it knows none."""
        with self._hints():
            return self._service().get_model_status(model, timeout_s=timeout_s)

    def request_counts(self, *, timeout_s: float) -> Mapping[ModelName, RequestCounts]:
        """Returns what the server has counted of the requests to each model since it started."""
        from deployctl.serving.prediction import get_page
        from deployctl.serving.request_counts import PROMETHEUS_PATH, parse_counts

        with self._hints():
            return parse_counts(get_page(self._endpoints().rest, PROMETHEUS_PATH, timeout_s=timeout_s))

    def answering_version(self, spec: ServedSpec, *, timeout_s: float) -> tuple[VersionNumber, Mapping[str, Signature]]:
        """Returns which version answers a call to `spec`, and its signatures as the server tells them."""
        from deployctl.serving.prediction import request_error

        with self._hints():
            try:
                return self._service().get_model_metadata(spec, timeout_s=timeout_s)
            except ServerRefusedError as error:
                raise request_error(error) from error

    def predict(self, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        """Calls the server as a client would, by REST, or by gRPC."""
        from deployctl.serving.prediction import predict_by_grpc, predict_by_rest

        with self._hints():
            if grpc:
                return predict_by_grpc(self._service(), request, timeout_s=timeout_s)
            endpoint = self._endpoints().rest
            if not endpoint:
                raise ServerUnavailableError(f"the server of {self._target} has no REST port")
            return predict_by_rest(endpoint, request, timeout_s=timeout_s)

    def _service(self) -> ModelService:
        """Returns the connection to where the server answers now."""
        return self._service_at(self._endpoints().grpc)

    def _service_at(self, address: str) -> ModelService:
        from deployctl.serving.model_service import ModelService

        if self._connection is not None and self._connection[0] == address:
            return self._connection[1]
        self._disconnect()
        if not address:
            raise ServerUnavailableError(f"the server of {self._target} is not running")
        self._connection = (address, ModelService(address, tls=self._tls()))
        return self._connection[1]

    @contextlib.contextmanager
    def _hints(self) -> Iterator[None]:
        try:
            yield
        except ServerUnavailableError as error:
            error.hint = error.hint or f"deployctl up {self._target}"
            raise

    def _check_present(self, config: ServingConfig) -> None:
        """Raises StorageError where a version directory of `config` is gone.

        One missing base path keeps the server from finding versions of any model (tensorflow/serving#2189), and a
        start or a reload with a new model that has none waits for ever.
        """
        for model in config.models:
            base_path = self._local_path(model.base_path)
            for version in model.versions if base_path is not None else ():
                directory = Path(base_path or "", str(version))
                if not directory.is_dir():
                    raise StorageError(
                        f"{model.name}@{version} should be served on {self._target}, but {directory} does not exist",
                        hint=f"deployctl versions {model.name}",
                    )

    def _written(self) -> str | None:
        try:
            return None if self._config_file is None else self._config_file.read_text()
        except FileNotFoundError:
            return None


def _is_load_failure(error: ServerRefusedError) -> bool:
    """Whether the reload was applied and a model that is new to the server could not be loaded (server_core.cc)."""
    return error.code == "UNKNOWN" and "did not become available" in error.words
