"""The embedded server: how soon it answers, and what a request costs beside the TensorFlow call that it wraps."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.measurement import Measurement, UnavailableError, compare, seconds
from bench.project import HALF_PLUS_TWO, environment, model_server, scratch_directory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STARTS = 5
_PAIRS = 60
_BATCH, _FEATURES = 8, 64

# Eight dense layers of 2048: about 10 ms a call on two cores, and few bytes in and out.
_BUILD = f"""
import sys
import numpy, tensorflow as tf
random = numpy.random.default_rng(1)
class Dense(tf.Module):
    def __init__(self):
        sizes = [{_FEATURES}] + [2048] * 8 + [10]
        self.weights = [tf.Variable(random.normal(0, 0.02, pair).astype("float32")) for pair in zip(sizes, sizes[1:])]
    @tf.function(input_signature=[tf.TensorSpec([None, {_FEATURES}], tf.float32, "x")])
    def __call__(self, x):
        for weight in self.weights:
            x = tf.nn.relu(tf.matmul(x, weight))
        return {{"y": x}}
model = Dense()
tf.saved_model.save(model, sys.argv[1], signatures={{"serving_default": model.__call__}})
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running model server."""

    rest: int
    grpc: int
    ready_s: float


def run() -> list[Measurement]:
    """Measures the start with a small model, then requests to one that takes over 5 ms."""
    return [_start(), *_requests()]


def _start() -> Measurement:
    with scratch_directory() as directory:
        version = directory / "half" / "1"
        version.parent.mkdir()
        version.symlink_to(HALF_PLUS_TWO)
        ready = []
        for _ in range(_STARTS):
            with _serving("half", version.parent) as server:
                ready.append(server.ready_s)
    return Measurement("model server, start to AVAILABLE", median(ready), 1.0, note="half_plus_two")


def _requests() -> list[Measurement]:
    from deployctl.modelserver.session import Session, SessionOptions

    with scratch_directory() as directory:
        version = _build(directory / "dense" / "1")
        rows = _rows()
        session = Session(str(version), SessionOptions())
        signature = session.signatures.signatures["serving_default"]
        feed, fetch = (next(iter(specs.values())).tensor for specs in (signature.inputs, signature.outputs))

        def bare() -> float:
            return seconds(lambda: session.run([(feed, rows)], [fetch], timeout_s=None))

        try:
            with _serving("dense", version.parent) as server, _grpc_call(server, rows) as grpc_call:
                rest_call = _rest_call(server, rows)
                for warm_up in (bare, grpc_call, rest_call) * 3:
                    warm_up()
                return [
                    compare("gRPC predict", grpc_call, bare, than="bare session call", budget=1.3, pairs=_PAIRS),
                    compare("REST predict", rest_call, bare, than="bare session call", budget=1.5, pairs=_PAIRS),
                ]
        finally:
            session.close()


def _build(directory: Path) -> Path:
    """Makes the model in another process, so that this one loads only TensorFlow's C library."""
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, str(directory)], capture_output=True, text=True, check=False, timeout=300
    )
    if built.returncode:
        raise UnavailableError(f"the model cannot be built: {built.stderr.strip().splitlines()[-1]}")
    return directory


def _rows() -> NDArray[np.generic]:
    import numpy as np

    return np.linspace(0, 1, _BATCH * _FEATURES, dtype=np.float32).reshape(_BATCH, _FEATURES)


@contextmanager
def _grpc_call(server: Server, rows: NDArray[np.generic]) -> Iterator[Callable[[], float]]:
    from deployctl.domain.names import ModelName
    from deployctl.protos import tensor_pb2
    from deployctl.serving.interface import ServedSpec
    from deployctl.serving.model_service import ModelService

    tensor = tensor_pb2.TensorProto(
        dtype="DT_FLOAT",
        tensor_shape=tensor_pb2.TensorShapeProto(dim=[{"size": size} for size in rows.shape]),
        tensor_content=rows.tobytes(),
    )
    spec = ServedSpec(ModelName("dense"))
    with ModelService(f"127.0.0.1:{server.grpc}") as service:
        yield lambda: seconds(lambda: service.predict(spec, "", {"x": tensor}, timeout_s=30))


def _rest_call(server: Server, rows: NDArray[np.generic]) -> Callable[[], float]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest, timeout=30)
    body = json.dumps({"instances": rows.tolist()})

    def call() -> None:
        connection.request("POST", "/v1/models/dense:predict", body)
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.HTTPStatus.OK:
            raise RuntimeError(f"the server answered {response.status}: {answer[:500]!r}")

    return lambda: seconds(call)


@contextmanager
def _serving(model: str, base: Path) -> Iterator[Server]:
    rest, grpc = _free_port(), _free_port()
    flags = [f"--port={grpc}", f"--rest_api_port={rest}", f"--model_name={model}", f"--model_base_path={base}"]
    started = time.perf_counter()
    with subprocess.Popen(
        model_server(*flags), env={**environment()}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_until_available(process, rest, model)
            yield Server(rest, grpc, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _wait_until_available(process: subprocess.Popen[bytes], port: int, model: str) -> None:
    deadline = time.monotonic() + 120
    pause = threading.Event()
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", f"/v1/models/{model}")
            if b"AVAILABLE" in connection.getresponse().read():
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        pause.wait(0.005)
    raise RuntimeError(f"the model server did not serve {model}; it exited with {process.poll()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
