"""A REST front over a core in memory, and an HTTP client that shows exactly what came back."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection

from deployctl.modelserver.interface import ServerCore
from deployctl.modelserver.metrics import PROMETHEUS_PATH
from deployctl.modelserver.rest import RestOptions, RestServer, serve_rest

TIMEOUT_S = 20.0
MAX_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; header names are lower case."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "surrogateescape")


def rest_options(
    *, cors: bool = False, metrics_path: str | None = PROMETHEUS_PATH, inline: bool = True, timeout_s: float = 10.0
) -> RestOptions:
    return RestOptions(
        host="127.0.0.1",
        port=0,
        num_threads=4,
        timeout_s=timeout_s,
        cors=cors,
        metrics_path=metrics_path,
        max_body_bytes=MAX_BODY,
        inline=inline,
    )


@contextmanager
def running(core: ServerCore, options: RestOptions | None = None) -> Iterator[RestServer]:
    server = serve_rest(core, options or rest_options())
    try:
        yield server
    finally:
        server.stop(1.0)


def call(port: int, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        # Outside of what is forgiven below: without a connection there is no answer.
        connection.connect()
        # A server that refuses a body need not read it to its end, and its answer is there to be read all the same.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Answer(response.status, response.read(), {name.lower(): value for name, value in response.getheaders()})


def exchange(port: int, sent: bytes, *, until: bytes | None = None) -> bytes:
    """Sends bytes as they are; reads until `until` ends what came, or until the server closes."""
    with closing(socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)) as connection:
        connection.sendall(sent)
        received = b""
        while until is None or not received.endswith(until):
            piece = connection.recv(65536)
            if not piece:
                break
            received += piece
        return received
