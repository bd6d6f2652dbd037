"""Deadlines and retries of the client, against a real HTTP server that fails as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from deployctl.client import BadRequestError, Client, DeadlineError, NotServedError, PredictionError, UnavailableError
from deployctl.client.call import Call
from deployctl.client.rest import RestTransport

METADATA = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"x": {"dtype": "DT_FLOAT"}},
                    "outputs": {"y": {"dtype": "DT_FLOAT"}, "words": {"dtype": "DT_STRING"}},
                }
            }
        }
    }
}


class Scripted(ThreadingHTTPServer):
    """Answers predictions with the statuses in `script`, then with 200; holds each for as long as `held` says."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[int] = []
        self.drips = False
        self.types_asked = 0
        self.metadata = METADATA
        self.outputs: object = {"y": [1.5, 2.0], "words": ["a", {"b64": "/w=="}]}
        self.bodies: list[dict[str, object]] = []
        self.connections = 0
        self.released = threading.Event()
        self.released.set()
        self.halted = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        self.server.types_asked += 1
        self._answer(200, self.server.metadata)

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.released.wait(10)
        status = self.server.script.pop(0) if self.server.script else 200
        self._answer(status, {"outputs": self.server.outputs} if status == 200 else {"error": "not now"})

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _answer(self, status: int, document: object) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not self.server.drips:
            self.wfile.write(content)
            return
        with contextlib.suppress(OSError):
            for place in range(len(content)):
                self.wfile.write(content[place : place + 1])
                if self.server.halted.wait(0.02):
                    return


@pytest.fixture
def server() -> Iterator[Scripted]:
    server = Scripted()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.halted.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_importing_the_client_loads_neither_tensorflow_nor_the_rest_of_deployctl() -> None:
    code = "import deployctl.client, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    ours = {name for name in done.stdout.split() if name.startswith("deployctl")}

    assert {name for name in ours if not name.startswith("deployctl.client")} == {"deployctl"}
    assert {"tensorflow", "grpc", "typer", "sqlalchemy"}.isdisjoint(done.stdout.split())


def test_outputs_have_the_types_of_the_signature(server: Scripted) -> None:
    with Client(server.url) as client:
        answer = client.predict("m", {"x": [1, 2]})

    assert answer["y"].dtype == np.float32
    assert answer["words"].tolist() == [b"a", b"\xff"]


def test_an_overloaded_server_is_asked_again(server: Scripted) -> None:
    server.script = [503, 429]
    with Client(server.url, retries=2, pause_s=0.001) as client:
        assert client.predict("m", {"x": [1]})["y"].tolist() == [1.5, 2.0]

    assert len(server.bodies) == 3


def test_the_last_attempt_s_failure_is_told(server: Scripted) -> None:
    server.script = [503, 503]
    with Client(server.url, retries=1, pause_s=0.001) as client, pytest.raises(UnavailableError, match="not now"):
        client.predict("m", {"x": [1]})


@pytest.mark.parametrize(("status", "error"), [(400, BadRequestError), (404, NotServedError)])
def test_what_would_fail_again_is_not_asked_again(server: Scripted, status: int, error: type[Exception]) -> None:
    server.script = [status]
    with Client(server.url, retries=5) as client, pytest.raises(error, match="not now"):
        client.predict("m", {"x": [1]})

    assert len(server.bodies) == 1


def test_a_slow_answer_is_not_waited_for_beyond_the_deadline(server: Scripted) -> None:
    server.released.clear()
    with Client(server.url) as client, pytest.raises(DeadlineError):
        client.predict("m", {"x": [1]}, timeout_s=0.1)


def test_an_answer_that_comes_byte_by_byte_is_not_waited_for_beyond_the_deadline(server: Scripted) -> None:
    server.drips = True
    server.outputs = {"y": [1.5] * 10_000}
    with Client(server.url) as client, pytest.raises(DeadlineError):
        client.predict("m", {"x": [1]}, timeout_s=0.3)


def test_no_attempt_begins_after_the_deadline() -> None:
    # Nothing listens on a port that was only reserved.
    with Client("http://127.0.0.1:9", retries=50, pause_s=0.2) as client, pytest.raises(UnavailableError):
        client.predict("m", {"x": [1]}, timeout_s=0.3)


def test_a_connection_is_kept(server: Scripted) -> None:
    with Client(server.url) as client:
        for _ in range(5):
            client.predict("m", {"x": [1]})

    assert server.connections == 1


def test_many_calls_are_under_way_at_once(server: Scripted) -> None:
    server.released.clear()

    async def ask() -> list[dict[str, np.ndarray]]:
        with Client(server.url) as client:
            calls = [asyncio.create_task(client.predict_async("m", {"x": [place]})) for place in range(4)]
            while len(server.bodies) < 4:
                await asyncio.sleep(0.005)
            server.released.set()
            return await asyncio.gather(*calls)

    answers = asyncio.run(asyncio.wait_for(ask(), 20))
    assert len(answers) == 4


def with_outputs(**types: str) -> dict[str, Any]:
    signature = {"inputs": {}, "outputs": {name: {"dtype": dtype} for name, dtype in types.items()}}
    return {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}}


def test_types_are_asked_for_again_after_a_while_but_for_those_of_a_version(server: Scripted) -> None:
    now = 0.0
    transport = RestTransport("127.0.0.1", server.server_address[1], secure=False, clock=lambda: now)
    server.metadata, server.outputs = with_outputs(y="DT_INT32"), [1]
    calls = [Call("m", {"x": [1]}), Call("m", {"x": [1]}, label="stable"), Call("m", {"x": [1]}, version=1)]
    before = [transport.predict(call, timeout_s=10)["y"].dtype.name for call in calls * 2]
    asked = server.types_asked

    server.metadata = with_outputs(z="DT_INT64")
    now = 1.0
    after = [transport.predict(call, timeout_s=10) for call in calls]
    transport.close()

    assert (before, asked) == (["int32"] * 6, 3)
    assert [(name, value.dtype.name) for answer in after for name, value in answer.items()] == [
        ("z", "int64"),
        ("z", "int64"),
        ("y", "int32"),
    ]


@pytest.mark.parametrize(
    ("dtype", "outputs"),
    [("DT_INT32", [0.75]), ("DT_INT32", ["a"]), ("DT_STRING", [1]), ("DT_UINT8", [300]), ("DT_BOOL", [1])],
)
def test_an_answer_that_never_fits_its_signature_is_no_answer(
    server: Scripted, dtype: str, outputs: list[object]
) -> None:
    server.metadata, server.outputs = with_outputs(y=dtype), outputs
    with Client(server.url, retries=0) as client, pytest.raises(PredictionError, match="signature"):
        client.predict("m", {"x": [1]})


def test_integers_are_exact_whatever_else_comes_with_them(server: Scripted) -> None:
    server.metadata, server.outputs = with_outputs(y="DT_UINT64"), [2**64 - 1, 1]
    with Client(server.url) as client:
        assert client.predict("m", {"x": [1]})["y"].tolist() == [2**64 - 1, 1]


def test_a_server_that_tells_of_no_signature_is_a_failed_prediction(server: Scripted) -> None:
    with Client(server.url) as client, pytest.raises(PredictionError, match="'other'"):
        client.predict("m", {"x": [1]}, signature="other")


def test_fewer_than_no_retries_are_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        Client("http://127.0.0.1:9", retries=-1)


@pytest.mark.parametrize("url", ["127.0.0.1:8501", "ftp://127.0.0.1:1", "http://127.0.0.1:1/v1/models"])
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="127.0.0.1"):
        Client(url)


def test_a_version_and_a_label_exclude_each_other() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="not both"):
        client.predict("m", {"x": [1]}, version=1, label="stable")
