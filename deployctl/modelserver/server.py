"""The composition of a running server from its flags."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from deployctl.errors import ServerError
from deployctl.modelserver.bundle_config import bundle_config
from deployctl.modelserver.config_file import ConfigFilePoller, read_model_config, read_text_proto
from deployctl.modelserver.core import CoreOptions, ModelServerCore
from deployctl.modelserver.flags import Flags, channel_arguments
from deployctl.modelserver.grpc_front import GrpcOptions, GrpcServer, TlsOptions
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.lifecycle import LifecycleOptions
from deployctl.modelserver.loader import SavedModelLoader
from deployctl.modelserver.metrics import PROMETHEUS_PATH, Metrics
from deployctl.modelserver.model_config import ConfiguredModel

if TYPE_CHECKING:
    from deployctl.modelserver.rest import RestServer

logger = logging.getLogger(__name__)

# No tensor of a request can be larger than a protobuf message; JSON of that size would take gigabytes to parse.
_MAX_BODY_BYTES = 1 << 30

# The system's timers take no infinity; ten days are as good.
_LONGEST_DRAIN_S = 10.0 * 24 * 3600


class ModelServer:
    """Loads when it is made, serves from `listen` until `drain`.

    So a port that accepts means that every configured model has been decided.
    """

    def __init__(self, flags: Flags) -> None:
        """Loads what is configured.

        Raises:
            StatusError: in the words of tensorflow_model_server's "Failed to start server".
        """
        self._flags = flags
        self._grpc: GrpcServer | None = None
        self._rest: RestServer | None = None
        self._poller: ConfigFilePoller | None = None
        for name in flags.without_effect():
            logger.warning("--%s is accepted and has no effect here", name)
        _check(flags)
        self._metrics = Metrics()
        self._core = _core(flags, self._metrics)
        models = _configured(flags)
        if models is None:
            logger.info("Taking no action for empty config.")
        else:
            self._core.start(models)

    def listen(self) -> None:
        """Serves.

        Raises:
            StatusError: a port or socket of gRPC is taken.
        """
        flags = self._flags
        self._grpc = GrpcServer(self._core, _grpc_options(flags, self._metrics))
        if flags.port:
            logger.info("Running gRPC ModelServer at %s ...", flags.address(flags.port))
        if flags.grpc_socket_path:
            logger.info("Running gRPC ModelServer at UNIX socket %s ...", flags.grpc_socket_path)
        self._rest = self._start_rest(flags)
        if flags.model_config_file and flags.model_config_file_poll_wait_seconds > 0:
            self._poller = ConfigFilePoller(
                flags.model_config_file,
                self._core.reload_models,
                interval_s=flags.model_config_file_poll_wait_seconds,
            )

    def drain(self, timeout_s: float) -> None:
        """Takes no more requests, lets those in flight finish for `timeout_s`, and unloads."""
        timeout_s = min(timeout_s, _LONGEST_DRAIN_S)
        deadline = time.monotonic() + timeout_s
        if self._poller is not None:
            self._poller.stop()
        ended = self._grpc.stop(timeout_s) if self._grpc is not None else None
        if self._rest is not None:
            self._rest.stop(timeout_s)
        if ended is not None:
            ended.wait(max(0.0, deadline - time.monotonic()))
        self._core.stop(timeout_s=max(0.5, deadline - time.monotonic()))

    def _start_rest(self, flags: Flags) -> RestServer | None:
        if flags.rest_api_port == 0:
            return None
        if flags.rest_api_port == flags.port:
            logger.error(
                "server_options.http_port cannot be same as grpc_port. "
                "Please use a different port for HTTP/REST API. Skipped exporting HTTP/REST API."
            )
            return None
        from deployctl.modelserver.rest import RestOptions, serve_rest

        options = RestOptions(
            host=flags.host,
            port=flags.rest_api_port,
            num_threads=max(1, flags.rest_api_num_threads),
            timeout_s=flags.rest_api_timeout_in_ms / 1000,
            cors=flags.rest_api_enable_cors_support,
            metrics_path=_metrics_path(flags),
            max_body_bytes=_MAX_BODY_BYTES,
            inline=not _may_batch(flags),
        )
        try:
            rest = serve_rest(self._core, options, metrics=self._metrics)
        except ServerError as error:
            # As tensorflow_model_server: it goes on with gRPC alone.
            logger.error("Failed to start HTTP Server at %s: %s", flags.address(flags.rest_api_port), error)
            return None
        logger.info("Exporting HTTP/REST API at:%s ...", flags.address(flags.rest_api_port))
        return rest


def _may_batch(flags: Flags) -> bool:
    return bool(flags.enable_batching or flags.platform_config_file or flags.num_tflite_interpreters_per_pool > 1)


def _check(flags: Flags) -> None:
    if flags.port == 0 and not flags.grpc_socket_path:
        raise _invalid("At least one of server_options.grpc_port or server_options.grpc_socket_path must be set.")
    if not flags.model_base_path and not flags.model_config_file:
        raise _invalid("Both server_options.model_base_path and server_options.model_config_file are empty!")
    if flags.batching_parameters_file and not flags.enable_batching and not flags.platform_config_file:
        raise _invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    if flags.use_alts_credentials and flags.ssl_config_file:
        raise _invalid("server_options.use_alts_credentials and server_options.ssl_config_file are mutually exclusive")
    parallelism = (
        flags.tensorflow_session_parallelism,
        flags.tensorflow_intra_op_parallelism,
        flags.tensorflow_inter_op_parallelism,
    )
    if all(value > 0 for value in parallelism):
        raise _invalid(
            "Either server_options.tensorflow_session_parallelism or (server_options.tensorflow_intra_op_parallelism, "
            "server_options.tensorflow_inter_op_parallelism) can be set, but not both"
        )


def _core(flags: Flags, metrics: Metrics) -> ModelServerCore:
    loader = _loader(flags, metrics)
    return ModelServerCore(
        loader,
        LifecycleOptions(
            load_threads=flags.num_load_threads,
            unload_threads=flags.num_unload_threads,
            max_load_retries=flags.max_num_load_retries,
            retry_interval_s=flags.load_retry_interval_micros / 1e6,
        ),
        CoreOptions(
            poll_wait_s=flags.file_system_poll_wait_seconds,
            load_timeout_s=flags.load_timeout,
            allow_labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
        ),
    )


def _loader(flags: Flags, metrics: Metrics) -> SavedModelLoader:
    config = bundle_config(flags)
    scheduler, tflite = None, None
    if config.loader.batching is not None:
        from deployctl.modelserver.batch_scheduler import BatchScheduler

        scheduler = BatchScheduler(threads=config.batch_threads)
    if config.tflite is not None:
        from deployctl.modelserver.tflite_loader import TfliteLoader

        tflite = TfliteLoader(config.tflite)
    return SavedModelLoader(config.loader, metrics=metrics, scheduler=scheduler, tflite=tflite)


def _configured(flags: Flags) -> tuple[ConfiguredModel, ...] | None:
    if flags.model_config_file:
        return read_model_config(flags.model_config_file)
    logger.info(
        "Building single TensorFlow model file config:  model_name: %s model_base_path: %s",
        flags.model_name,
        flags.model_base_path,
    )
    return (ConfiguredModel(flags.model_name, flags.model_base_path),)


def _grpc_options(flags: Flags, metrics: Metrics) -> GrpcOptions:
    return GrpcOptions(
        address=flags.address(flags.port) if flags.port else "",
        socket_path=flags.grpc_socket_path,
        max_threads=flags.grpc_max_threads,
        channel_arguments=channel_arguments(flags.grpc_channel_arguments),
        tls=_tls(flags.ssl_config_file),
        health=flags.enable_grpc_healthcheck_service,
        profiler=flags.enable_profiler,
        as_content=flags.enable_serialization_as_tensor_content,
        metrics=metrics,
    )


def _tls(path: str) -> TlsOptions | None:
    if not path:
        return None
    from deployctl.protos.serving_pb2 import SSLConfig

    config = read_text_proto(path, SSLConfig())
    if config.client_verify and not config.custom_ca:
        raise _invalid(f"{path} has client_verify without custom_ca, which clients would be verified by")
    return TlsOptions(config.server_key, config.server_cert, config.custom_ca, config.client_verify)


def _metrics_path(flags: Flags) -> str | None:
    if not flags.monitoring_config_file:
        return None
    from deployctl.protos.serving_pb2 import MonitoringConfig

    prometheus = read_text_proto(flags.monitoring_config_file, MonitoringConfig()).prometheus_config
    return (prometheus.path or PROMETHEUS_PATH) if prometheus.enable else None


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
