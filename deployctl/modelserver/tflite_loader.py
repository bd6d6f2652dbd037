"""Finds and loads the TFLite files of version directories (saved_model_bundle_factory.cc, prefer_tflite_model)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.modelserver.tflite_file import fixed_batch_size
from deployctl.modelserver.tflite_options import TfliteOptions
from deployctl.modelserver.tflite_session import TfliteSession, load_interpreter_module

if TYPE_CHECKING:
    from deployctl.modelserver.batch_scheduler import BatchScheduler
    from deployctl.modelserver.runner import Runner

logger = logging.getLogger(__name__)

_MODEL_FILE = "model.tflite"
# kInitialBatchSize of tflite_interpreter_pool.h
_MAX_BATCH_SIZE = 500
_BATCHES_PER_POOL = 100


class TfliteLoader:
    """Loads TFLite files."""

    def __init__(self, options: TfliteOptions) -> None:
        """Loads TFLite's interpreter.

        Raises:
            StatusError: UNAVAILABLE when this TensorFlow has none.
        """
        self._options = options
        self._module = load_interpreter_module()
        self._scheduler: BatchScheduler | None = None
        if options.interpreters_per_pool > 1:
            from deployctl.modelserver.batch_scheduler import BatchScheduler

            self._scheduler = BatchScheduler(threads=options.pools)

    def load(self, directory: str) -> Runner | None:
        """Returns the version's TFLite model, None when it has none and its SavedModel is to be loaded.

        Raises:
            StatusError: the model cannot be loaded.
        """
        path = Path(directory, _MODEL_FILE)
        if not path.exists():
            return None
        logger.info("Loading TFLite model %s", path)
        session = TfliteSession(path, self._options, self._module)
        return session if self._scheduler is None else self._batching(session, self._scheduler)

    def _batching(self, session: TfliteSession, scheduler: BatchScheduler) -> Runner:
        from deployctl.modelserver.batching import BatchingOptions, BatchingRunner

        fixed = fixed_batch_size(session.content)
        per_pool = self._options.interpreters_per_pool
        options = BatchingOptions(
            max_batch_size=_MAX_BATCH_SIZE,
            max_enqueued_batches=max(1, self._options.pools) * _BATCHES_PER_POOL,
            split_large=True,
            max_execution_batch_size=fixed if fixed > 1 else (_MAX_BATCH_SIZE + per_pool - 1) // per_pool,
        )
        return BatchingRunner(session, scheduler, options)
