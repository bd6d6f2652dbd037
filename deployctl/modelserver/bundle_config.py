"""How versions are loaded, by the flags or by a platform config file.

tensorflow_serving/model_servers/server.cc, BuildAndStart, and servables/tensorflow/bundle_factory_util.cc.
"""

from __future__ import annotations

import base64
import json
import logging
import struct
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl.modelserver import wire
from deployctl.modelserver.capi import library_directory
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.loader import LoaderOptions
from deployctl.modelserver.model_config import TENSORFLOW_PLATFORM
from deployctl.modelserver.session import SessionOptions
from deployctl.modelserver.tflite_options import TfliteOptions

if TYPE_CHECKING:
    from deployctl.modelserver.flags import Flags

logger = logging.getLogger(__name__)

_SERVE = "serve"
_CHILD_SECONDS = 60.0
# tensorflow.ConfigProto and the messages in it
_GPU_OPTIONS, _MEMORY_FRACTION = 6, 1
_GRAPH_OPTIONS, _REWRITE_OPTIONS, _MIXED_BFLOAT16 = 10, 10, 31
_BFLOAT16 = "bfloat16"


@dataclass(frozen=True, slots=True)
class BundleConfig:
    """How versions are loaded.

    Attributes:
        batch_threads: that run batches, of all models together, when `loader` asks for batches.
        tflite: how TFLite files are run; None loads SavedModels only.
    """

    loader: LoaderOptions = field(default_factory=LoaderOptions)
    batch_threads: int = 0
    tflite: TfliteOptions | None = None


def bundle_config(flags: Flags) -> BundleConfig:
    """Returns what the flags ask for; with --platform_config_file it alone says.

    Raises:
        StatusError: NOT_FOUND or INVALID_ARGUMENT.
    """
    if flags.platform_config_file:
        return _from_platform_file(flags)
    loader = LoaderOptions(
        _session(flags),
        check_method_names=flags.enable_signature_method_name_check,
        warm_up=flags.enable_model_warmup,
        warm_up_iterations=max(1, flags.num_request_iterations_for_warmup),
        per_model_batching=flags.enable_per_model_batching_parameters,
    )
    tflite = None
    if flags.prefer_tflite_model:
        tflite = TfliteOptions(
            flags.num_tflite_pools, flags.num_tflite_interpreters_per_pool, loader.session.intra_op_threads
        )
    if not flags.enable_batching:
        return BundleConfig(loader, tflite=tflite)
    from deployctl.modelserver.batching_file import read_batching_options

    batching, threads = read_batching_options(flags.batching_parameters_file)
    return BundleConfig(replace(loader, batching=batching), threads, tflite)


def _session(flags: Flags) -> SessionOptions:
    config = b""
    if flags.tensorflow_session_config_file:
        document = _read("session_config", "tensorflow.ConfigProto", flags.tensorflow_session_config_file)
        config = base64.b64decode(document["session_config"])
    if flags.per_process_gpu_memory_fraction:
        fraction = struct.pack("<Bd", _MEMORY_FRACTION << 3 | wire.FIXED64, flags.per_process_gpu_memory_fraction)
        config += wire.length_delimited(_GPU_OPTIONS, fraction)
    return SessionOptions(
        tags=tuple(flags.saved_model_tags.split(",")),
        intra_op_threads=flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism,
        inter_op_threads=flags.tensorflow_inter_op_parallelism or flags.tensorflow_session_parallelism,
        config=config + _mixed_precision(flags.mixed_precision),
    )


def _mixed_precision(name: str) -> bytes:
    """The part of a ConfigProto that lets oneDNN compute in bfloat16 where that is faster."""
    if not name:
        return b""
    if name != _BFLOAT16:
        logger.warning("config.mixed_precision: %s is not supported", name)
        return b""
    # RewriterConfig.Toggle: 1 is ON.
    rewriter = wire.varint(_MIXED_BFLOAT16 << 3) + wire.varint(1)
    return wire.length_delimited(_GRAPH_OPTIONS, wire.length_delimited(_REWRITE_OPTIONS, rewriter))


def _from_platform_file(flags: Flags) -> BundleConfig:
    path = flags.platform_config_file
    config = _read("platform_config", "tensorflow.serving.PlatformConfigMap", path).get(TENSORFLOW_PLATFORM)
    if config is None:
        raise StatusError(Code.INVALID_ARGUMENT, f"{path} configures no platform {TENSORFLOW_PLATFORM}")
    session = SessionOptions(
        tags=tuple(config.get("saved_model_tags", ())) or (_SERVE,),
        config=base64.b64decode(config["session_config"]) + _mixed_precision(config.get("mixed_precision", "")),
    )
    loader = LoaderOptions(
        session,
        check_method_names=flags.enable_signature_method_name_check,
        warm_up=config.get("enable_model_warmup", False),
        warm_up_iterations=max(1, config["num_request_iterations"]),
        per_model_batching=config.get("enable_per_model_batching_params", False),
    )
    tflite = None
    if config.get("prefer_tflite_model"):
        pools = config.get("num_tflite_pools") or config.get("num_tflite_interpreters") or 1
        tflite = TfliteOptions(pools, config.get("num_tflite_interpreters_per_pool", 1))
    if config["batching_parameters"] is None:
        return BundleConfig(loader, tflite=tflite)
    from deployctl.modelserver.batching_file import batching_options
    from deployctl.protos.serving_pb2 import BatchingParameters

    batching, threads = batching_options(BatchingParameters.FromString(base64.b64decode(config["batching_parameters"])))
    return BundleConfig(replace(loader, batching=batching), threads, tflite)


def _read(kind: str, message: str, path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise StatusError(Code.NOT_FOUND, f"{path}; No such file or directory")
    command = [sys.executable, "-P", "-m", "deployctl.modelserver.text_protos", kind, path, str(library_directory())]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_CHILD_SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise StatusError(Code.DEADLINE_EXCEEDED, f"{path} was not read within {_CHILD_SECONDS:g} s") from error
    if done.returncode:
        logger.error("Error parsing text-format %s: %s", message, done.stderr.strip())
        raise StatusError(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}'")
    document: dict[str, Any] = json.loads(done.stdout)
    return document
