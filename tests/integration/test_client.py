"""The client against the embedded server: every type, by REST and by gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deployctl.client import BadRequestError, Client, NotServedError
from deployctl.domain.names import TargetName
from deployctl.domain.serving import ServingConfig
from deployctl.serving.process import ProcessOptions, ProcessRuntime
from tests.support.models import TensorFlowModels
from tests.support.serving import TIMEOUT_S, Place

pytestmark = pytest.mark.tensorflow

MODELS = ("keras_two_outputs", "vocabulary", "several_signatures", "half_plus_2")
FEATURES = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory, tensorflow_models: TensorFlowModels) -> Iterator[dict[str, str]]:
    directory: Path = tmp_path_factory.mktemp("client")
    options = ProcessOptions(target=TargetName("local"), state_dir=directory / "state", rest_port=0, grpc_port=0)
    runtime = ProcessRuntime(options)
    place = Place(runtime, directory / "models", lambda: ProcessRuntime(options))
    for name in MODELS:
        place.add(tensorflow_models.path(name), name, 1)
    config = ServingConfig(tuple(place.model(name, 1) for name in MODELS))
    endpoints = runtime.up(config, timeout_s=TIMEOUT_S)
    yield {"rest": str(endpoints.rest), "grpc": f"grpc://{endpoints.grpc}"}
    runtime.down(timeout_s=5)


@pytest.fixture(params=["rest", "grpc"])
def client(request: pytest.FixtureRequest, urls: dict[str, str]) -> Iterator[Client]:
    with Client(urls[request.param], timeout_s=30) as client:
        yield client


def test_two_outputs_come_by_name(client: Client) -> None:
    answer = client.predict("keras_two_outputs", {"features": FEATURES})

    assert {name: (value.dtype.name, value.shape) for name, value in answer.items()} == {
        "class": ("float32", (1, 3)),
        "score": ("float32", (1, 1)),
    }
    assert answer["class"].sum() == pytest.approx(1)


def test_only_the_outputs_that_are_wanted_come(client: Client) -> None:
    assert set(client.predict("keras_two_outputs", {"features": FEATURES}, outputs=["score"])) == {"score"}


@pytest.mark.parametrize("x", [[2.0, 4.0], np.array([2, 4]), (2, 4)])
def test_the_only_input_needs_no_name(client: Client, x: object) -> None:
    assert client.predict("half_plus_2", x)["y"].tolist() == [3.0, 4.0]  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [[["the", "fox"]], np.array([[b"the", b"fox"]]), np.array([["the", "fox"]])])
def test_strings_are_text_or_bytes(client: Client, tokens: object) -> None:
    answer = client.predict("vocabulary", {"tokens": tokens})

    assert answer["ids"].dtype == np.int64
    assert answer["ids"].tolist() == [[0, 3]]


def test_a_signature_and_a_version_are_chosen(client: Client) -> None:
    inputs = {"x": np.array([[1, 2]], np.float32), "by": np.float32(0.5)}
    answer = client.predict("several_signatures", inputs, signature="shift", version=1)

    assert answer["y"].tolist() == [[1.5, 4.5]]


def test_unknown_names_are_told_apart(client: Client) -> None:
    with pytest.raises(NotServedError):
        client.predict("nobody", {"x": [1.0]})
    with pytest.raises(NotServedError):
        client.predict("half_plus_2", {"x": [1.0]}, version=9)
    with pytest.raises(BadRequestError):
        client.predict("half_plus_2", {"z": np.array([1.0], np.float32)})


def test_calls_that_wait_for_each_other_s_answers_are_coroutines(client: Client) -> None:
    async def ask() -> list[float]:
        answers = await asyncio.gather(
            *(client.predict_async("half_plus_2", np.array([place], np.float32)) for place in range(8))
        )
        return [answer["y"][0] for answer in answers]

    assert asyncio.run(ask()) == [place / 2 + 2 for place in range(8)]
