"""The gRPC front end: a server with TensorFlow Serving's services on upstream's method paths."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc

from deployctl.modelserver.grpc_health import health_handlers
from deployctl.modelserver.grpc_services import Method, model_service, prediction_service
from deployctl.modelserver.interface import Code, ServerCore, StatusError
from deployctl.modelserver.metrics import Metrics

logger = logging.getLogger(__name__)

# tensorflow_serving/model_servers/grpc_status_util.cc
_MESSAGE_LIMIT = 1024
# A call without a deadline has one in the far future.
_NO_DEADLINE_S = 10.0**8


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """SSLConfig: PEM texts; `client_verify` asks for and checks the client's certificate by `custom_ca`."""

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False


@dataclass(frozen=True, slots=True)
class GrpcOptions:
    """How the gRPC server listens.

    Attributes:
        address: host:port, an IPv6 host in brackets; "" listens on no port.
        socket_path: "" listens on no UNIX socket.
        channel_arguments: of gRPC core, as given; they win over ours.
        health: also answer grpc.health.v1.
        profiler: also answer tensorflow.ProfilerService.
        as_content: put numbers of responses in tensor_content.
    """

    address: str
    socket_path: str = ""
    max_threads: int = 8
    channel_arguments: Sequence[tuple[str, int | str]] = ()
    tls: TlsOptions | None = None
    health: bool = False
    profiler: bool = False
    as_content: bool = False
    metrics: Metrics = field(default_factory=Metrics)


class GrpcServer:
    """A running gRPC server."""

    def __init__(self, core: ServerCore, options: GrpcOptions) -> None:
        """Listens and serves.

        Raises:
            StatusError: a port or socket is taken, or the key or certificate is none.
        """
        self._stopped = threading.Event()
        handlers: list[grpc.GenericRpcHandler] = [
            _service(
                "tensorflow.serving.PredictionService", prediction_service(core, options.metrics, options.as_content)
            ),
            _service("tensorflow.serving.ModelService", model_service(core, options.metrics)),
        ]
        if options.health:
            handlers.append(health_handlers(self._stopped))
        if options.profiler:
            from deployctl.modelserver.profiler import profiler_handlers

            handlers.append(profiler_handlers(self._stopped))
        arguments = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Without this two servers share a port and a clash goes unnoticed.
            ("grpc.so_reuseport", 0),
            *options.channel_arguments,
        ]
        pool = ThreadPoolExecutor(max_workers=max(1, options.max_threads), thread_name_prefix="grpc")
        self._server = grpc.server(pool, handlers=handlers, options=arguments)
        if options.address:
            _listen(self._server, options.address, options.tls)
        if options.socket_path:
            _listen(self._server, f"unix:{options.socket_path}", options.tls)
        self._server.start()

    def stop(self, grace_s: float) -> threading.Event:
        """Takes no more calls; the event is set when those in flight have ended, after `grace_s` at the latest."""
        self._stopped.set()
        ended: threading.Event = self._server.stop(grace_s)
        return ended


def _listen(server: grpc.Server, address: str, tls: TlsOptions | None) -> None:
    try:
        listen = server.add_insecure_port if tls is None else partial(_listen_with_tls, server, tls)
        bound = listen(address)
    except (RuntimeError, ValueError) as error:
        raise _refusal(address, tls, f": {error}") from error
    if not bound:
        raise _refusal(address, tls, "")


def _refusal(address: str, tls: TlsOptions | None, reason: str) -> StatusError:
    """Why nothing listens on `address`: gRPC says the same of a taken port and of a bad certificate."""
    problem = None if tls is None else _problem_of(tls)
    if problem is not None:
        return StatusError(Code.INVALID_ARGUMENT, f"server_key and server_cert do not make a TLS server: {problem}")
    return StatusError(Code.UNAVAILABLE, f"Cannot listen for gRPC on {address}{reason}")


def _problem_of(tls: TlsOptions) -> str | None:
    import ssl

    # OpenSSL reads only files; the key is to be in none that others can open.
    with _memory_file(tls.server_cert) as certificate, _memory_file(tls.server_key) as key:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, ValueError) as error:
            return getattr(error, "reason", None) or str(error)
    return None


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """Gives the path of a file in memory that holds `text`, which only this process can open."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(text.encode())
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _listen_with_tls(server: grpc.Server, tls: TlsOptions, address: str) -> int:
    port: int = server.add_secure_port(address, _credentials(tls))
    return port


def _credentials(tls: TlsOptions) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials(
        [(tls.server_key.encode(), tls.server_cert.encode())],
        root_certificates=tls.custom_ca.encode() or None,
        require_client_auth=tls.client_verify,
    )


def _service(name: str, methods: Sequence[Method[Any]]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        name,
        {
            method.name: grpc.unary_unary_rpc_method_handler(
                _answer(method.call), request_deserializer=method.request.FromString
            )
            for method in methods
        },
    )


def _answer(call: Callable[[Any, float | None], bytes]) -> Callable[[Any, grpc.ServicerContext], bytes]:
    def answer(request: Any, context: grpc.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        timeout_s = None if remaining is None or remaining > _NO_DEADLINE_S else remaining
        try:
            return call(request, timeout_s)
        except StatusError as error:
            logger.debug("call failed: %s: %s", error.code.name, error.message)
            context.abort(_GRPC_CODES[error.code], _shortened(error.message))
            raise AssertionError("abort raises") from error

    return answer


_GRPC_CODES = {Code(code.value[0]): code for code in grpc.StatusCode}


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_LIMIT else message[:_MESSAGE_LIMIT] + "...TRUNCATED"
