"""The REST client against an HTTP server that answers as it is told."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.errors import (
    InvalidRequestError,
    NotFoundError,
    ServerError,
    ServerRefusedError,
    ServerUnavailableError,
)
from deployctl.serving.interface import PredictionRequest, ServedSpec
from deployctl.serving.ports import free_ports
from deployctl.serving.prediction import predict_by_rest

SPEC = ServedSpec(ModelName("digits"))


@dataclass
class Wire:
    """What to answer, and what was asked."""

    status: int = 200
    body: bytes = b'{"predictions": [1.0]}'
    stall: threading.Event | None = None
    asked: list[tuple[str, Any]] = field(default_factory=list)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def endpoint(wire: Wire) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            wire.asked.append((self.path, json.loads(body)))
            if wire.stall is not None:
                wire.stall.wait(30)
            with contextlib.suppress(BrokenPipeError):  # the client has gone
                self.send_response(wire.status)
                self.end_headers()
                self.wfile.write(wire.body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def rows(*instances: Any, spec: ServedSpec = SPEC) -> PredictionRequest:
    return PredictionRequest(spec, instances=list(instances))


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        (SPEC, "/v1/models/digits:predict"),
        (ServedSpec(ModelName("digits"), version=VersionNumber(7)), "/v1/models/digits/versions/7:predict"),
        (ServedSpec(ModelName("digits"), label=LabelName("a.b")), "/v1/models/digits/labels/a.b:predict"),
    ],
)
def test_calls_the_version_or_label_that_is_meant(wire: Wire, endpoint: str, spec: ServedSpec, path: str) -> None:
    predict_by_rest(endpoint, rows(1.0, spec=spec), timeout_s=5)

    assert wire.asked == [(path, {"instances": [1.0]})]


def test_a_column_request_names_its_signature(wire: Wire, endpoint: str) -> None:
    wire.body = b'{"outputs": {"y": [3.0, NaN]}}'

    answer = predict_by_rest(endpoint, PredictionRequest(SPEC, "other", inputs={"x": [1]}), timeout_s=5)

    assert wire.asked[0][1] == {"signature_name": "other", "inputs": {"x": [1]}}
    assert answer.outputs["y"][0] == 3.0
    assert answer.version is None


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, InvalidRequestError), (404, NotFoundError), (500, ServerRefusedError), (503, ServerRefusedError)],
)
def test_an_error_carries_the_servers_words(wire: Wire, endpoint: str, status: int, error: type[Exception]) -> None:
    wire.status, wire.body = status, b'{"error": "its own words"}'

    with pytest.raises(error, match="its own words"):
        predict_by_rest(endpoint, rows(1.0), timeout_s=5)


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b'"x"', b"", b"\xff"])
def test_an_error_that_is_not_the_model_servers_is_shown_as_it_is(wire: Wire, endpoint: str, body: bytes) -> None:
    wire.status, wire.body = 502, body

    with pytest.raises(ServerRefusedError):
        predict_by_rest(endpoint, rows(1.0), timeout_s=5)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'{"outputs": 1}'])
def test_an_answer_that_is_none_is_an_error(wire: Wire, endpoint: str, body: bytes) -> None:
    wire.body = body

    with pytest.raises(ServerError):
        predict_by_rest(endpoint, rows(1.0), timeout_s=5)


def test_a_server_that_stalls_is_unavailable_after_the_deadline(wire: Wire, endpoint: str) -> None:
    wire.stall = threading.Event()

    try:
        with pytest.raises(ServerUnavailableError, match="did not answer within"):
            predict_by_rest(endpoint, rows(1.0), timeout_s=0.1)
    finally:
        wire.stall.set()


def test_an_address_where_nobody_listens_is_unavailable() -> None:
    (port,) = free_ports("127.0.0.1", 1)

    with pytest.raises(ServerUnavailableError, match=str(port)):
        predict_by_rest(f"http://127.0.0.1:{port}", rows(1.0), timeout_s=2)


def test_a_proxy_of_the_environment_is_not_asked(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")

    assert predict_by_rest(endpoint, rows(1.0), timeout_s=5).outputs == [1.0]


@pytest.mark.parametrize(
    "request_",
    [PredictionRequest(SPEC), PredictionRequest(SPEC, instances=[1], inputs=1), rows({1, 2})],
)
def test_refuses_a_request_that_is_not_one_json_form(endpoint: str, request_: PredictionRequest) -> None:
    with pytest.raises(InvalidRequestError):
        predict_by_rest(endpoint, request_, timeout_s=5)


def test_what_does_not_speak_http_is_told_in_print() -> None:
    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"\x00\x1b[31m\x04\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        with pytest.raises(ServerUnavailableError, match="does not speak HTTP") as raised:
            predict_by_rest(
                f"http://127.0.0.1:{listener.getsockname()[1]}", PredictionRequest(SPEC, "", [1.0], None), timeout_s=30
            )
        thread.join()

    assert str(raised.value).isprintable()


def test_the_words_of_a_server_are_shown_in_print(wire: Wire, endpoint: str) -> None:
    wire.status, wire.body = 500, b"\x1b[2J\x00gone"

    with pytest.raises(ServerRefusedError, match="gone") as raised:
        predict_by_rest(endpoint, PredictionRequest(SPEC, "", [1.0], None), timeout_s=30)

    assert str(raised.value).isprintable()
