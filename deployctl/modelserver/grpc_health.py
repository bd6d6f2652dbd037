"""grpc.health.v1: SERVING from the start, as TensorFlow Serving says it, for as long as the server runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc

from deployctl.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse

_SERVICES = ("", "ModelService", "PredictionService")
_POLL_S = 0.5


def health_handlers(stopped: threading.Event) -> grpc.GenericRpcHandler:
    """Returns the handlers of Check and Watch; streams end when `stopped` is set."""

    def check(request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if request.service not in _SERVICES:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return HealthCheckResponse(status=HealthCheckResponse.SERVING)

    def watch(request: HealthCheckRequest, context: grpc.ServicerContext) -> Iterator[HealthCheckResponse]:
        known = request.service in _SERVICES
        yield HealthCheckResponse(status=HealthCheckResponse.SERVING if known else HealthCheckResponse.SERVICE_UNKNOWN)
        while context.is_active() and not stopped.wait(_POLL_S):
            pass

    return grpc.method_handlers_generic_handler(
        "grpc.health.v1.Health",
        {
            "Check": grpc.unary_unary_rpc_method_handler(
                check, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                watch, HealthCheckRequest.FromString, HealthCheckResponse.SerializeToString
            ),
        },
    )
