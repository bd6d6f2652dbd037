"""The command line of tensorflow_model_server (tensorflow_serving/model_servers/main.cc), and a few flags of ours.

An unknown flag is an error here; TensorFlow Serving prints its usage and goes on without it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from deployctl.errors import UsageError

_INTEGER = re.compile("-?[0-9]{1,10}")
_TRUE = ("true", "t", "1", "yes", "y")
_FALSE = ("false", "f", "0", "no", "n")


def _flag(default: Any, text: str, *, ignored: bool = False) -> Any:
    return field(default=default, metadata={"help": text, "ignored": ignored})


def _per_cpu(factor: int, text: str, *, ignored: bool = False) -> Any:
    return field(default_factory=lambda: factor * (os.cpu_count() or 1), metadata={"help": text, "ignored": ignored})


@dataclass(frozen=True, slots=True)
class Flags:
    """Every flag by its name; those marked ignored are accepted so that a command line need not change."""

    port: int = _flag(8500, "TCP port to listen on for gRPC. 0: none; then --grpc_socket_path must be given.")
    grpc_socket_path: str = _flag("", "Also listen for gRPC on this UNIX socket.")
    rest_api_port: int = _flag(0, "Port to listen on for HTTP/REST. 0: none.")
    rest_api_num_threads: int = _per_cpu(4, "Threads for HTTP/REST requests.")
    rest_api_timeout_in_ms: int = _flag(30000, "Timeout of HTTP/REST calls.")
    rest_api_enable_cors_support: bool = _flag(False, "Send CORS headers in HTTP/REST responses.")
    enable_batching: bool = _flag(False, "Run requests of one model together in batches.")
    batching_parameters_file: str = _flag("", "Text BatchingParameters; needs --enable_batching.")
    enable_per_model_batching_parameters: bool = _flag(False, "Read batching_params.pbtxt from the SavedModel.")
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Let a label that is not in use point to a version that is not available."
    )
    model_config_file: str = _flag("", "Text ModelServerConfig; --model_name and --model_base_path are then unused.")
    model_config_file_poll_wait_seconds: int = _flag(0, "Read the file again every so many seconds. 0: never.")
    model_name: str = _flag("default", "Name of the model.")
    model_base_path: str = _flag("", "Directory of the model's versions; needed unless a config file is given.")
    num_load_threads: int = _flag(0, "Versions that load at the same time. 0: one.")
    num_unload_threads: int = _flag(0, "Versions that unload at the same time. 0: one.")
    max_num_load_retries: int = _flag(5, "How often loading is tried again after it failed.")
    load_retry_interval_micros: int = _flag(60_000_000, "Time between these attempts. Negative: none.")
    file_system_poll_wait_seconds: int = _flag(
        1, "Time between looks for versions. 0: once, and after each reload. Negative: never."
    )
    flush_filesystem_caches: bool = _flag(True, "", ignored=True)
    tensorflow_session_parallelism: int = _flag(0, "Threads of a session, in and between operations. 0: automatic.")
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads in one operation. 0: automatic.")
    tensorflow_inter_op_parallelism: int = _flag(0, "Operations at the same time. 0: automatic.")
    tensorflow_session_config_file: str = _flag("", "Text tensorflow.ConfigProto for all sessions.")
    platform_config_file: str = _flag(
        "", "Text PlatformConfigMap: says how models are loaded, in place of the flags for that."
    )
    use_alts_credentials: bool = _flag(False, "", ignored=True)
    ssl_config_file: str = _flag("", "Text SSLConfig: serve gRPC with TLS.")
    per_process_gpu_memory_fraction: float = _flag(0.0, "Share of a GPU's memory to take. 0: automatic.")
    saved_model_tags: str = _flag("serve", "Tags of the MetaGraph to load, separated by commas.")
    grpc_channel_arguments: str = _flag("", "Channel arguments of the gRPC server: key=value,key=value.")
    grpc_max_threads: int = _per_cpu(4, "Threads for gRPC requests.")
    enable_model_warmup: bool = _flag(True, "Replay assets.extra/tf_serving_warmup_requests before serving a version.")
    num_request_iterations_for_warmup: int = _flag(0, "How often each warm-up request is replayed. 0: once.")
    version: bool = _flag(False, "Print the versions and exit.")
    monitoring_config_file: str = _flag("", "Text MonitoringConfig.")
    remove_unused_fields_from_bundle_metagraph: bool = _flag(True, "", ignored=True)
    prefer_tflite_model: bool = _flag(False, "Serve model.tflite where a version has one, by TFLite's interpreter.")
    num_tflite_pools: int = _per_cpu(1, "Most TFLite interpreters of one version, each for one call at a time.")
    num_tflite_interpreters_per_pool: int = _flag(1, "More than 1: run calls of a TFLite model together in batches.")
    enable_signature_method_name_check: bool = _flag(False, "Refuse Predict on signatures with another method.")
    xla_cpu_compilation_enabled: bool = _flag(False, "", ignored=True)
    xla_gpu_compilation_enabled: bool = _flag(False, "", ignored=True)
    enable_profiler: bool = _flag(True, "Answer TensorBoard's profiler over gRPC; it writes where its client says.")
    thread_pool_factory_config_file: str = _flag("", "", ignored=True)
    mixed_precision: str = _flag("", "bfloat16: let oneDNN compute in it where that is faster.")
    skip_initialize_tpu: bool = _flag(False, "", ignored=True)
    enable_grpc_healthcheck_service: bool = _flag(False, "Answer grpc.health.v1.")
    enable_serialization_as_tensor_content: bool = _flag(False, "Put numbers of responses in tensor_content.")

    host: str = _flag("127.0.0.1", "Ours: address to listen on; 0.0.0.0 for all, as tensorflow_model_server does.")
    load_timeout: float = _flag(
        60.0, "Ours: seconds that a start or reload waits for a model of which no version is found."
    )
    drain_timeout: float = _flag(8.0, "Ours: seconds that requests in flight have to finish after SIGTERM.")

    def address(self, port: int) -> str:
        """host:port, with an IPv6 host in brackets."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    def without_effect(self) -> tuple[str, ...]:
        """The flags that were given another value than their default and change nothing here."""
        return tuple(
            item.name
            for item in fields(self)
            if item.metadata["ignored"] and getattr(self, item.name) != _default(item)
        )


def parse_flags(arguments: Sequence[str]) -> Flags:
    """Reads `--flag=value`, `--flag value`, and for booleans also a bare `--flag`; the last of a name counts.

    Raises:
        UsageError: a flag is unknown or its value of the wrong type.
    """
    known = {item.name: item for item in fields(Flags)}
    values: dict[str, Any] = {}
    left = list(arguments)
    while left:
        argument = left.pop(0)
        name, separator, text = argument.removeprefix("--").partition("=")
        item = known.get(name)
        if item is None or not argument.startswith("--"):
            raise UsageError(f"unknown argument: {argument}", hint="deployctl-model-server --help")
        if not separator and item.type == "bool":
            text = "true"
        elif not separator:
            if not left:
                raise UsageError(f"--{name} needs a value", hint="deployctl-model-server --help")
            text = left.pop(0)
        values[name] = _value(item, text)
    flags = Flags(**values)
    channel_arguments(flags.grpc_channel_arguments)
    return replace(flags, host=flags.host.removeprefix("[").removesuffix("]"))


def usage() -> str:
    """Returns a line of help for each flag."""
    lines = ["usage: deployctl-model-server", "Flags:"]
    for item in fields(Flags):
        text = item.metadata["help"] or "Accepted for compatibility; without effect."
        lines.append(f"\t--{item.name + '=' + repr(_default(item)):<50}\t{item.type}\t{text}")
    return "\n".join(lines)


def channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    """Reads `key=value,key=value`; values that are int32 become numbers.

    Raises:
        UsageError: an item has no "=".
    """
    pairs = []
    for item in filter(None, text.split(",")):
        key, separator, value = item.partition("=")
        if not separator:
            raise UsageError(
                f"--grpc_channel_arguments: {item!r} is not key=value", hint="deployctl-model-server --help"
            )
        is_number = _INTEGER.fullmatch(value) and -(2**31) <= int(value) < 2**31
        pairs.append((key, int(value) if is_number else value))
    return tuple(pairs)


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if callable(item.default_factory) else item.default


def _value(item: Field[Any], text: str) -> Any:
    readers: Mapping[Any, Any] = {"int": int, "float": _float, "str": str, "bool": _boolean}
    try:
        return readers[item.type](text)
    except ValueError:
        raise UsageError(
            f"--{item.name}: {text!r} is not of type {item.type}", hint="deployctl-model-server --help"
        ) from None


def _float(text: str) -> float:
    number = float(text)
    if math.isnan(number):
        raise ValueError(text)
    return number


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError(text)
