"""BatchingParameters text files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from deployctl.modelserver.batching import BatchingOptions
from deployctl.modelserver.config_file import read_text_proto

if TYPE_CHECKING:
    from deployctl.protos.serving_pb2 import BatchingParameters


def read_batching_options(path: str) -> tuple[BatchingOptions, int]:
    """Returns the parameters in the file at `path` ("" for the defaults), and how many threads run batches.

    Raises:
        StatusError: the file cannot be read, or a value is out of range.
    """
    from deployctl.protos.serving_pb2 import BatchingParameters

    parameters = BatchingParameters()
    if path:
        read_text_proto(path, parameters)
    return batching_options(parameters)


def batching_options(parameters: BatchingParameters) -> tuple[BatchingOptions, int]:
    """Returns what the message asks for, and how many threads run batches.

    Raises:
        StatusError: a value is out of range.
    """
    given: dict[str, Any] = {
        ours: getattr(parameters, name).value
        for name, ours in (
            ("max_batch_size", "max_batch_size"),
            ("max_enqueued_batches", "max_enqueued_batches"),
            ("enable_large_batch_splitting", "split_large"),
            ("max_execution_batch_size", "max_execution_batch_size"),
        )
        if parameters.HasField(name)
    }
    options = BatchingOptions(
        batch_timeout_s=parameters.batch_timeout_micros.value / 1e6,
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        **given,
    )
    threads = parameters.num_batch_threads.value if parameters.HasField("num_batch_threads") else os.cpu_count() or 1
    return options, threads
