"""The embedded server: how soon it answers, and what a request costs beside the TensorFlow call that it wraps."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING

from bench.measurement import Measurement, compare, seconds
from bench.project import HALF_PLUS_TWO, scratch_directory
from bench.serving import Server, build, serving

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_STARTS = 5
_PAIRS = 60
_BATCH, _FEATURES = 8, 64

# Sixteen dense layers of 2048: 6 to 20 ms a call on two cores, and few bytes in and out.
_WIDTH, _DEPTH = 2048, 16


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
            with serving("half", version.parent) as server:
                ready.append(server.ready_s)
    return Measurement("model server, start to AVAILABLE", median(ready), 1.0, note="half_plus_two")


def _requests() -> list[Measurement]:
    from deployctl.modelserver.session import Session, SessionOptions

    with scratch_directory() as directory:
        version = build(directory, "dense", _FEATURES, _WIDTH, _DEPTH)
        rows = _rows()
        session = Session(str(version), SessionOptions())
        signature = session.signatures.signatures["serving_default"]
        feed, fetch = (next(iter(specs.values())).tensor for specs in (signature.inputs, signature.outputs))

        def bare() -> float:
            return seconds(lambda: session.run([(feed, rows)], [fetch], timeout_s=None))

        try:
            with serving("dense", version.parent) as server, _grpc_call(server, rows) as grpc_call:
                rest_call = _rest_call(server, rows)
                for warm_up in (bare, grpc_call, rest_call) * 3:
                    warm_up()
                return [
                    compare("gRPC predict", grpc_call, bare, than="bare session call", budget=1.3, pairs=_PAIRS),
                    compare("REST predict", rest_call, bare, than="bare session call", budget=1.5, pairs=_PAIRS),
                ]
        finally:
            session.close()


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
