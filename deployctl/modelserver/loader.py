"""Loads a version directory into a TensorFlow session and proves it with the model's warm-up requests."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.lifecycle import LoadedServable, Loader
from deployctl.modelserver.metrics import Metrics
from deployctl.modelserver.servable import TensorFlowServable
from deployctl.modelserver.session import Session, SessionOptions
from deployctl.modelserver.warmup import warm_up

if TYPE_CHECKING:
    from deployctl.modelserver.batch_scheduler import BatchScheduler
    from deployctl.modelserver.batching import BatchingOptions
    from deployctl.modelserver.runner import Runner
    from deployctl.modelserver.tflite_loader import TfliteLoader

logger = logging.getLogger(__name__)

_PER_MODEL_PARAMETERS = "batching_params.pbtxt"


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How versions are loaded.

    Attributes:
        session: how sessions are made.
        check_method_names: refuse Classify and Regress on signatures of another method, and Predict on those whose
            method is none of TensorFlow Serving's.
        warm_up: replay the model's own requests before it serves.
        warm_up_iterations: how often each.
        batching: put requests into batches with these parameters; None runs each alone.
        per_model_batching: take the parameters from `batching_params.pbtxt` in the version directory, and run the
            models that have none without batches.
    """

    session: SessionOptions = field(default_factory=SessionOptions)
    check_method_names: bool = False
    warm_up: bool = True
    warm_up_iterations: int = 1
    batching: BatchingOptions | None = None
    per_model_batching: bool = False


class SavedModelLoader(Loader):
    """Loads SavedModels, and with `tflite` the TFLite files that lie in their place or beside them."""

    def __init__(
        self,
        options: LoaderOptions,
        *,
        metrics: Metrics | None = None,
        scheduler: BatchScheduler | None = None,
        tflite: TfliteLoader | None = None,
    ) -> None:
        self._options = options
        self._metrics = metrics or Metrics()
        self._scheduler = scheduler
        self._tflite = tflite

    def load(self, name: str, version: int, path: str, *, background: bool) -> LoadedServable:
        """Returns the version, loaded and warmed up."""
        runner = self._runner(path, background=background)
        try:
            servable = TensorFlowServable(
                name, version, runner, check_method_names=self._options.check_method_names, metrics=self._metrics
            )
            if self._options.warm_up:
                warm_up(servable, path, iterations=self._options.warm_up_iterations, metrics=self._metrics)
        except BaseException:
            runner.close()
            raise
        return servable

    def _runner(self, path: str, *, background: bool) -> Runner:
        batching = self._batching(path)
        session = (self._tflite and self._tflite.load(path)) or self._session(path, background=background)
        if batching is None or self._scheduler is None:
            return session
        from deployctl.modelserver.batching import BatchingRunner

        logger.info("Wrapping session to perform batch processing")
        return BatchingRunner(session, self._scheduler, batching)

    def _session(self, path: str, *, background: bool) -> Session:
        started = time.perf_counter()
        try:
            session = Session(path, self._options.session, background=background)
        except ValueError as error:
            self._metrics.loaded(path, succeeded=False, micros=0)
            raise StatusError(Code.DATA_LOSS, f"The MetaGraphDef in {path} cannot be read: {error}") from error
        except StatusError:
            self._metrics.loaded(path, succeeded=False, micros=0)
            raise
        self._metrics.loaded(path, succeeded=True, micros=int((time.perf_counter() - started) * 1e6))
        return session

    def _batching(self, path: str) -> BatchingOptions | None:
        common = self._options.batching
        if common is None or not self._options.per_model_batching:
            return common
        from deployctl.modelserver.batching_file import read_batching_options

        file = Path(path, _PER_MODEL_PARAMETERS)
        return read_batching_options(str(file))[0] if file.exists() else None
