"""A model server that is measured, and models for it."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import UnavailableError
from bench.project import environment, model_server

# Dense layers without bias, of float32: WIDTH x FEATURES, DEPTH - 1 times WIDTH x WIDTH, WIDTH x 10.
_BUILD = """
import sys
import numpy, tensorflow as tf
features, width, depth = map(int, sys.argv[2:])
random = numpy.random.default_rng(1)
class Dense(tf.Module):
    def __init__(self):
        sizes = [features] + [width] * depth + [10]
        self.weights = [tf.Variable(random.normal(0, 0.02, pair).astype("float32")) for pair in zip(sizes, sizes[1:])]
    @tf.function(input_signature=[tf.TensorSpec([None, features], tf.float32, "x")])
    def __call__(self, x):
        for weight in self.weights:
            x = tf.nn.relu(tf.matmul(x, weight))
        return {"y": x}
model = Dense()
tf.saved_model.save(model, sys.argv[1], signatures={"serving_default": model.__call__})
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running model server."""

    rest: int
    grpc: int
    ready_s: float
    pid: int

    def reload(self, models: str) -> None:
        """Serves the models of the text, and returns when new ones are available."""
        import grpc
        from google.protobuf import text_format

        from deployctl.protos.serving_pb2 import ReloadConfigRequest, ReloadConfigResponse

        request = ReloadConfigRequest()
        text_format.Parse(f"model_config_list {{ {models} }}", request.config)
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc}") as channel:
            call = channel.unary_unary(
                "/tensorflow.serving.ModelService/HandleReloadConfigRequest",
                request_serializer=ReloadConfigRequest.SerializeToString,
                response_deserializer=ReloadConfigResponse.FromString,
            )
            call(request, timeout=120)

    def resident_bytes(self) -> int:
        """Returns how much memory the process has."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def wait_unloaded(self, model: str) -> None:
        """Returns once no version of `model` is loaded."""
        _poll(lambda: b'"END"' in _status(self.rest, model), f"{model} was not unloaded")


def build(directory: Path, name: str, features: int, width: int, depth: int) -> Path:
    """Makes version 1 of a dense model in another process, so that this one loads only TensorFlow's C library."""
    version = directory / name / "1"
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, str(version), str(features), str(width), str(depth)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if built.returncode:
        raise UnavailableError(f"the model cannot be built: {built.stderr.strip().splitlines()[-1]}")
    return version


@contextmanager
def serving(model: str, base: Path | None, *flags: str) -> Iterator[Server]:
    """Serves `model` from `base`, or what the flags configure, until the block ends."""
    rest, grpc = free_port(), free_port()
    words = [f"--port={grpc}", f"--rest_api_port={rest}", *flags]
    if base is not None:
        words += [f"--model_name={model}", f"--model_base_path={base}"]
    started = time.perf_counter()
    with subprocess.Popen(
        model_server(*words), env={**environment()}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            _poll(lambda: b"AVAILABLE" in _status(rest, model), f"the server did not serve {model}", process=process)
            yield Server(rest, grpc, time.perf_counter() - started, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=60)


def free_port() -> int:
    """Returns a port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _status(port: int, model: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/v1/models/{model}")
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()


def _poll(condition: Callable[[], bool], failure: str, *, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 120
    pause = threading.Event()
    while time.monotonic() < deadline and (process is None or process.poll() is None):
        if condition():
            return
        pause.wait(0.005)
    raise RuntimeError(f"{failure}; the process exited with {process.poll()}" if process else failure)
