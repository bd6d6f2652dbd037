"""TFLite models through --prefer_tflite_model, beside SavedModels in the same process."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.model_server import ModelServerProcess, ModelServers, ServerEndedError, wait_until
from tests.support.models import TensorFlowModels
from tests.support.rest import call
from tests.support.serving_client import ServingClient, model_config, model_config_list


def publish(models: TensorFlowModels, name: str, version: Path) -> Path:
    """Puts the TFLite file `name` into a version directory and returns the model's base path."""
    version.mkdir(parents=True, exist_ok=True)
    shutil.copy(models.path("tflite") / f"{name}.tflite", version / "model.tflite")
    return version.parent


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tensorflow_models: TensorFlowModels
) -> Iterator[ModelServerProcess]:
    """Serves TFLite files, and a model of which only version 2 has one."""
    directory = tmp_path_factory.mktemp("server")
    entries = [
        model_config(name, publish(tensorflow_models, name, directory / name / "1"))
        for name in ("plain", "signed", "words")
    ]
    both = directory / "both"
    for number in ("1", "2"):
        tensorflow_models.copy("half_plus_3", both / number)
    publish(tensorflow_models, "plain", both / "2")
    entries.append(model_config("both", both, versions=[1, 2]))
    config = directory / "models.config"
    config.write_text(model_config_list(*entries))
    servers = ModelServers(directory)
    server = servers.start(f"--model_config_file={config}", "--prefer_tflite_model", "--num_tflite_pools=2")
    # The server is ready as soon as one version of each model is.
    with ServingClient(server.grpc_address) as client:
        wait_until(lambda: client.states("both") == {1: "AVAILABLE", 2: "AVAILABLE"})
    yield server
    servers.stop_all()


@pytest.fixture(scope="module")
def client(server: ModelServerProcess) -> Iterator[ServingClient]:
    """A client of `server`."""
    with ServingClient(server.grpc_address) as client:
        yield client


def refusal(client: ServingClient, model: str, inputs: dict[str, Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        client.predict(model, inputs)
    error: Any = raised.value
    return error.code(), error.details()


def test_a_file_without_signature_answers_by_the_names_of_its_tensors(client: ServingClient) -> None:
    response = client.predict("plain", {"tflite_input": [2.0]})

    assert list(response.outputs["y"].float_val) == [3.0]
    assert response.model_spec.signature_name == "serving_default"


def test_a_signature_that_was_added_to_the_file_names_the_inputs(client: ServingClient) -> None:
    response = client.predict("signed", {"x": [2.0]})

    assert list(response.outputs["y"].float_val) == [3.0]


def test_the_generated_signature_is_told_as_metadata(client: ServingClient) -> None:
    apis = client.apis.get_model_metadata_pb2.SignatureDefMap()
    client.metadata("plain").metadata["signature_def"].Unpack(apis)

    (key,) = apis.signature_def
    info = apis.signature_def[key].inputs["tflite_input"]
    assert (key, info.name, info.dtype) == ("serving_default", "tflite_input", 1)
    assert [dim.size for dim in info.tensor_shape.dim] == [1]


def test_inputs_of_another_size_resize_the_model(client: ServingClient) -> None:
    answers = [
        list(client.predict("plain", {"tflite_input": [2.0] * size}).outputs["y"].float_val) for size in (3, 5, 1)
    ]

    assert answers == [[3.0] * 3, [3.0] * 5, [3.0]]


def test_strings_and_integers_go_in_and_come_out(client: ServingClient) -> None:
    tokens = np.array([b"\xff\x00a", b"", b"c" * 300], dtype=object)

    response = client.predict("words", {"tokens": tokens, "numbers": np.arange(6, dtype=np.int64).reshape(3, 2)})

    outputs = sorted(response.outputs.values(), key=lambda tensor: int(tensor.dtype))
    assert list(outputs[0].string_val) == [b"\xff\x00a"] * 3
    assert list(outputs[1].int64_val) == [1, 5, 9]


def test_rest_answers_for_a_tflite_model(server: ModelServerProcess) -> None:
    answer = call(server.rest_port, "POST", "/v1/models/plain:predict", b'{"instances": [2.0, 4.0]}')

    assert (answer.status, answer.text) == (200, '{\n    "predictions": [3.0, 4.0\n    ]\n}')


def test_a_wrong_element_type_is_refused(client: ServingClient) -> None:
    assert refusal(client, "plain", {"tflite_input": np.array([2], dtype=np.int32)}) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Expects input tflite_input to be DT_FLOAT but got DT_INT32",
    )


def test_a_call_that_the_interpreter_refuses_leaves_the_model_whole(client: ServingClient) -> None:
    wrong = {"tokens": np.array([b"a"], dtype=object), "numbers": np.arange(2, dtype=np.int64)}
    right = wrong | {"numbers": np.arange(2, dtype=np.int64).reshape(1, 2)}

    code, _ = refusal(client, "words", wrong)

    assert code is grpc.StatusCode.INTERNAL
    assert client.predict("words", right).outputs


def test_versions_without_tflite_file_are_served_from_their_saved_model(client: ServingClient) -> None:
    saved_model = client.predict("both", {"x": [2.0]}, version=1)
    tflite = client.predict("both", {"tflite_input": [2.0]}, version=2)

    assert list(saved_model.outputs["y"].float_val) == [4.0]
    assert list(tflite.outputs["y"].float_val) == [3.0]


def test_calls_at_the_same_time_get_their_own_answers(client: ServingClient) -> None:
    def answer(number: int) -> list[float]:
        model, name = ("both", "x") if number % 3 == 0 else ("plain", "tflite_input")
        version = 1 if model == "both" else None
        return list(
            client.predict(model, {name: [float(number)] * (1 + number % 2)}, version=version).outputs["y"].float_val
        )

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(200)))

    assert answers == [[n / 2 + (3 if n % 3 == 0 else 2)] * (1 + n % 2) for n in range(200)]


def test_without_the_flag_the_saved_model_is_served(
    tmp_path: Path, tensorflow_models: TensorFlowModels, model_servers: ModelServers
) -> None:
    tensorflow_models.copy("half_plus_3", tmp_path / "m" / "1")
    base = publish(tensorflow_models, "plain", tmp_path / "m" / "1")
    server = model_servers.start("--model_name=m", f"--model_base_path={base}")

    with ServingClient(server.grpc_address) as client:
        assert client.half_plus() == (4.0, 1)


def test_with_several_interpreters_a_pool_calls_run_in_batches(
    tmp_path: Path, tensorflow_models: TensorFlowModels, model_servers: ModelServers
) -> None:
    base = publish(tensorflow_models, "signed", tmp_path / "m" / "1")
    server = model_servers.start(
        "--model_name=m", f"--model_base_path={base}", "--prefer_tflite_model", "--num_tflite_interpreters_per_pool=4"
    )

    with ServingClient(server.grpc_address) as client, ThreadPoolExecutor(8) as pool:
        large = client.predict("m", {"x": list(map(float, range(300)))}).outputs["y"].float_val
        answers = list(pool.map(lambda x: client.half_plus("m", float(x))[0], range(50)))

    assert list(large) == [x / 2 + 2 for x in range(300)]
    assert answers == [x / 2 + 2 for x in range(50)]


def test_a_file_that_is_cut_short_fails_the_load(
    tmp_path: Path, tensorflow_models: TensorFlowModels, model_servers: ModelServers
) -> None:
    base = publish(tensorflow_models, "plain", tmp_path / "m" / "1")
    file = base / "1" / "model.tflite"
    file.write_bytes(file.read_bytes()[:200])
    server = model_servers.launch("--model_name=m", f"--model_base_path={base}", "--prefer_tflite_model")

    with pytest.raises(ServerEndedError):
        server.wait_ready()

    assert server.wait_ended() == 255
    assert "due to error: INVALID_ARGUMENT: Cannot build FlatBufferModel from buffer" in server.log_text()
