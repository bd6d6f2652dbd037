"""Replays the requests that a model brings with it, before it serves.

tensorflow_serving/servables/tensorflow/saved_model_warmup.cc and saved_model_warmup_util.cc. Any failure fails the
load: a warm-up file is also the cheapest proof that a version answers.
"""

from __future__ import annotations

import logging
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.serving import ServingConfig
from deployctl.modelserver.interface import Code, ModelSpec, Servable, ServerCore, StatusError, VersionReport
from deployctl.modelserver.tfrecord import read_records

if TYPE_CHECKING:
    from deployctl.modelserver.metrics import Metrics
    from deployctl.protos.serving_pb2 import PredictionLog

logger = logging.getLogger(__name__)

_REQUESTS = Path("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000
_SESSION_RUN_LOG = 5


def warm_up(servable: Servable, directory: str, *, iterations: int, metrics: Metrics) -> None:
    """Sends each recorded request `iterations` times to `servable`, whatever model and version it names.

    Raises:
        StatusError: a request failed, or the file is no TFRecord file of at most 1000 PredictionLogs.
    """
    path = Path(directory) / _REQUESTS
    if not path.exists():
        logger.info("No warmup data file found at %s", path)
        return
    logger.info("Starting to read warmup data for model at %s", path)
    started = time.perf_counter()
    try:
        count = _replay(servable, path, iterations)
    except StatusError as error:
        metrics.warmed_up(directory, status=f"{error.code.name}: {error.message}", micros=_micros_since(started))
        raise
    metrics.warmed_up(directory, status="OK", micros=_micros_since(started))
    logger.info("Finished reading warmup data for model at %s. Number of warmup records read: %d.", path, count)


def _replay(servable: Servable, path: Path, iterations: int) -> int:
    from google.protobuf.message import DecodeError

    from deployctl.protos.serving_pb2 import PredictionLog

    count = 0
    try:
        with path.open("rb") as file:
            for record in read_records(file):
                try:
                    log = PredictionLog.FromString(record)
                except DecodeError as error:
                    raise StatusError(
                        Code.INVALID_ARGUMENT,
                        f"Failed to parse warmup record: {record.decode('utf-8', 'replace')} from {path}",
                    ) from error
                for _ in range(iterations):
                    _send(servable, log)
                count += 1
                if count > _MAX_RECORDS:
                    raise StatusError(
                        Code.INVALID_ARGUMENT,
                        f"Number of warmup records exceeds the maximum ({_MAX_RECORDS}) at {path}",
                    )
    except OSError as error:
        raise StatusError(Code.NOT_FOUND, f"{path}; {error.strerror}") from error
    except StatusError as error:
        if error.code is Code.DATA_LOSS:
            text = f"{error.message}. Please verify your warmup data is in TFRecord format."
            raise StatusError(Code.DATA_LOSS, text) from error
        raise
    return count


def _send(servable: Servable, log: PredictionLog) -> None:
    from deployctl.modelserver.grpc_services import PredictionService

    service = PredictionService(_OnlyThis(servable), as_content=False)
    match log.WhichOneof("log_type"):
        case "predict_log":
            log.predict_log.request.model_spec.SetInParent()
            service.predict(log.predict_log.request, None)
        case "classify_log":
            log.classify_log.request.model_spec.SetInParent()
            service.classify(log.classify_log.request, None)
        case "regress_log":
            log.regress_log.request.model_spec.SetInParent()
            service.regress(log.regress_log.request, None)
        case "multi_inference_log":
            service.multi_inference(log.multi_inference_log.request, None)
        case "session_run_log":
            raise StatusError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {_SESSION_RUN_LOG}")
        case _:
            pass


class _OnlyThis(ServerCore):
    """A core that answers every call with the version being loaded."""

    def __init__(self, servable: Servable) -> None:
        self._servable = servable

    def servable(self, spec: ModelSpec) -> AbstractContextManager[Servable]:
        return nullcontext(self._servable)

    def model_status(self, name: str, version: int | None) -> tuple[VersionReport, ...]:
        return ()

    def reload(self, config: ServingConfig) -> None:
        raise StatusError(Code.UNIMPLEMENTED, "a version that is being loaded has no configuration")


def _micros_since(started: float) -> float:
    return (time.perf_counter() - started) * 1e6
