"""REST and gRPC give equal answers to one request, for every kind of tensor that JSON can carry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployctl.domain.names import TargetName
from deployctl.domain.serving import ServingConfig
from deployctl.errors import InvalidRequestError
from deployctl.serving.interface import PredictionRequest
from deployctl.serving.process import ProcessOptions, ProcessRuntime
from tests.support.models import TensorFlowModels
from tests.support.serving import TIMEOUT_S, Place, spec

pytestmark = pytest.mark.tensorflow

MODELS = ("keras_two_outputs", "segmentation", "vocabulary", "several_signatures", "without_variables", "half_plus_2")
FEATURES = [[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4], [1e-3, 1e10, -7.25, 0]]
IMAGE = [[[0.1 * (row + column), 0.5, 0.9] for column in range(3)] for row in range(2)]
MASK = [[[1] for _ in range(3)] for _ in range(2)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tensorflow_models: TensorFlowModels) -> Iterator[Place]:
    """A server with every model, up for all tests of this file."""
    directory: Path = tmp_path_factory.mktemp("agree")
    options = ProcessOptions(target=TargetName("local"), state_dir=directory / "state", rest_port=0, grpc_port=0)
    runtime = ProcessRuntime(options)
    place = Place(runtime, directory / "models", lambda: ProcessRuntime(options))
    for name in MODELS:
        place.add(tensorflow_models.path(name), name, 1)
    runtime.up(ServingConfig(tuple(place.model(name, 1) for name in MODELS)), timeout_s=TIMEOUT_S)
    yield place
    runtime.down(timeout_s=5)


@pytest.mark.parametrize(
    ("model", "request_"),
    [
        ("half_plus_2", {"instances": [1.0, 2, 1 / 3, 1e30, -0.0]}),
        ("half_plus_2", {"instances": [{"x": 1.0}, {"x": 2.0}]}),
        ("half_plus_2", {"inputs": [float("inf"), float("-inf"), 1e-40]}),
        ("half_plus_2", {"inputs": {"x": [0.1]}}),
        ("half_plus_2", {"inputs": []}),
        ("keras_two_outputs", {"instances": FEATURES}),
        ("keras_two_outputs", {"instances": [{"features": row} for row in FEATURES]}),
        ("keras_two_outputs", {"inputs": FEATURES}),
        ("vocabulary", {"instances": [["the", "fox"], ["quick", "ünknown"]]}),
        ("vocabulary", {"inputs": [[{"b64": "YnJvd24="}]]}),
        ("segmentation", {"inputs": {"image": [IMAGE], "mask": [MASK], "threshold": 0.3}}),
        ("several_signatures", {"instances": [[1, 2]]}),
        ("several_signatures", {"inputs": {"x": [[1, 2]], "by": 0.1}, "signature": "shift"}),
        ("several_signatures", {"inputs": [[3.0], [4.0]], "signature": "norm"}),
        ("several_signatures", {"inputs": 0.1, "signature": "norm"}),
        ("without_variables", {"instances": [16777217.0, 3.4e38]}),
    ],
)
def test_rest_and_grpc_answer_alike(place: Place, model: str, request_: dict[str, Any]) -> None:
    request = PredictionRequest(spec(model), **request_)

    by_rest = place.runtime.predict(request, grpc=False, timeout_s=TIMEOUT_S)
    by_grpc = place.runtime.predict(request, grpc=True, timeout_s=TIMEOUT_S)

    assert by_grpc.outputs == by_rest.outputs
    assert by_grpc.version == 1


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
@pytest.mark.parametrize(
    ("model", "request_"),
    [
        ("keras_two_outputs", {"instances": [[1.0, 2.0]]}),
        ("keras_two_outputs", {"instances": [{"features": [1, 2, 3, 4], "more": 1}]}),
        ("segmentation", {"inputs": [IMAGE]}),
        ("segmentation", {"inputs": {"image": [IMAGE], "mask": [MASK]}}),
        ("vocabulary", {"instances": [[1, 2]]}),
        ("half_plus_2", {"instances": [{"x": 1.0}, 2.0]}),
        ("half_plus_2", {"instances": [[], 1.0]}),
        ("several_signatures", {"inputs": 0.1, "signature": "none"}),
        ("several_signatures", {"instances": [0.1], "signature": "norm"}),
    ],
)
def test_rest_and_grpc_refuse_alike(place: Place, model: str, request_: dict[str, Any], grpc: bool) -> None:
    with pytest.raises(InvalidRequestError):
        place.runtime.predict(PredictionRequest(spec(model), **request_), grpc=grpc, timeout_s=TIMEOUT_S)
