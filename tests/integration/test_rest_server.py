"""The REST front of the real server process over upstream's own models.

The expectations are those of http_rest_api_handler_test.cc, tensorflow_model_server_test.py and
half_plus_two_model_metadata.json of tensorflow/serving.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.model_server import ROOT, ModelServerProcess, ModelServers
from tests.support.rest import Answer, call

MODELS = ROOT / "tests/data/tensorflow_serving"
MODEL = "/v1/models/half_plus_two"
METRICS = "/monitoring/prometheus/metrics"

pytestmark = [pytest.mark.tensorflow]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServerProcess]:
    directory = tmp_path_factory.mktemp("rest-server")
    monitoring = directory / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    config = directory / "models.config"
    config.write_text(
        "model_config_list {"
        + _model(
            "half_plus_two", MODELS / "saved_model_half_plus_two_cpu", 'version_labels { key: "stable" value: 123 }'
        )
        + _model("half_plus_three", MODELS / "saved_model_half_plus_three")
        + _model("matrix", MODELS / "matrix_half_plus_two")
        + "}"
    )
    servers = ModelServers(directory)
    try:
        yield servers.start(
            f"--model_config_file={config}",
            f"--monitoring_config_file={monitoring}",
            "--allow_version_labels_for_unavailable_models=true",
            "--rest_api_enable_cors_support=true",
        )
    finally:
        servers.stop_all()


def _model(name: str, path: Path, rest: str = "") -> str:
    return f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {rest} }}'


def post(server: ModelServerProcess, path: str, body: str) -> Answer:
    return call(server.rest_port, "POST", path, body.encode())


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (f"{MODEL}:predict", '{"instances": [2.0, 3.0, 4.0]}', '{\n    "predictions": [3.0, 3.5, 4.0\n    ]\n}'),
        (f"{MODEL}:predict", '{"instances": [[1.0], [3.0]]}', '{\n    "predictions": [[2.5], [3.5]\n    ]\n}'),
        (f"{MODEL}/versions/123:predict", '{"instances": [1]}', '{\n    "predictions": [2.5\n    ]\n}'),
        (f"{MODEL}/labels/stable:predict", '{"inputs": [3.0]}', '{\n    "outputs": [\n        3.5\n    ]\n}'),
        (f"{MODEL}:predict", '{"inputs": NaN}', '{\n    "outputs": NaN\n}'),
        ("/v1/models/half_plus_three:predict", '{"instances": [2.0]}', '{\n    "predictions": [4.0\n    ]\n}'),
        (
            f"{MODEL}:regress",
            '{"signature_name": "regress_x_to_y", "examples": [{"x": 80.0}, {"x": 2.0}]}',
            '{\n    "results": [42.0, 3.0]\n}',
        ),
        (
            f"{MODEL}:classify",
            '{"signature_name": "classify_x_to_y", "examples": [{"x": 20.0}]}',
            '{\n    "results": [[["", 12.0]]\n    ]\n}',
        ),
    ],
)
def test_upstreams_models_answer(server: ModelServerProcess, path: str, body: str, expected: str) -> None:
    answer = post(server, path, body)
    assert (answer.status, answer.text) == (200, expected)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/models/none:predict", '{"instances": [1]}', 404, "Servable not found for request: Latest(none)"),
        (
            f"{MODEL}/versions/99:predict",
            '{"instances": [1]}',
            404,
            "Servable not found for request: Specific(half_plus_two, 99)",
        ),
        (f"{MODEL}/labels/none:predict", '{"instances": [1]}', 400, "Unrecognized servable version label: none"),
        (
            f"{MODEL}:predict",
            '{"signature_name": "none", "instances": [1]}',
            400,
            'Serving signature name: "none" not found in signature def',
        ),
        (f"{MODEL}:predict", "", 400, "JSON Parse error: The document is empty"),
    ],
)
def test_faults_are_told_in_upstreams_words(
    server: ModelServerProcess, path: str, body: str, status: int, message: str
) -> None:
    answer = post(server, path, body)
    assert (answer.status, json.loads(answer.body)) == (status, {"error": message})


def test_a_fault_inside_tensorflow_is_told(server: ModelServerProcess) -> None:
    answer = post(server, f"{MODEL}:regress", '{"signature_name": "regress_x_to_y", "examples": [{"x": "text"}]}')
    assert answer.status == 400
    assert "Data types don't match" in json.loads(answer.body)["error"]


def test_status(server: ModelServerProcess) -> None:
    answer = call(server.rest_port, "GET", MODEL)
    version = {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert json.loads(answer.body) == {"model_version_status": [version]}


def test_metadata(server: ModelServerProcess) -> None:
    document = json.loads(call(server.rest_port, "GET", f"{MODEL}/metadata").body)
    assert document["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    names = {"classify_x_to_y", "regress_x2_to_y3", "regress_x_to_y", "regress_x_to_y2", "serving_default"}
    assert set(signatures) == names
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False}
    assert signatures["serving_default"] == {
        "inputs": {"x": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "x:0"}},
        "outputs": {"y": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "y:0"}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert signatures["classify_x_to_y"]["inputs"] == {
        "inputs": {"dtype": "DT_STRING", "tensor_shape": {"dim": [], "unknown_rank": True}, "name": "tf_example:0"}
    }


def test_metrics(server: ModelServerProcess) -> None:
    post(server, f"{MODEL}:predict", '{"instances": [2.0]}')
    page = call(server.rest_port, "GET", METRICS).text
    assert ':tensorflow:serving:request_count{model_name="half_plus_two",status="OK"}' in page
    assert 'request_latency_count{model_name="half_plus_two",API="predict",entrypoint="REST"}' in page
    assert f'{MODELS}/saved_model_half_plus_two_cpu/00000123",status="success"}} 1' in page


def test_a_deep_array_is_refused_and_the_server_lives_on(server: ModelServerProcess) -> None:
    answer = post(server, f"{MODEL}:predict", '{"instances": ' + "[" * 50_000 + "]" * 50_000 + "}")
    assert answer.status == 400
    assert post(server, f"{MODEL}:predict", '{"instances": [2.0]}').status == 200


def test_many_clients_get_their_own_answers(server: ModelServerProcess) -> None:
    def one(number: int) -> bool:
        answer = post(server, f"{MODEL}:predict", json.dumps({"instances": [number, number + 1]}))
        expected = {"predictions": [number / 2 + 2, number / 2 + 2.5]}
        return bool(json.loads(answer.body) == expected)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(300)))


def test_a_signal_ends_the_server_after_the_requests_in_flight(model_servers: ModelServers) -> None:
    server = model_servers.start(
        "--model_name=half_plus_two", f"--model_base_path={MODELS / 'saved_model_half_plus_two_cpu'}"
    )
    answered, failed, stop = [], [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                answered.append(post(server, f"{MODEL}:predict", '{"instances": [2.0]}').status)
            except ConnectionRefusedError:
                return
            except OSError as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(answered) < 20:
        assert server.process.poll() is None
    server.terminate()
    assert server.wait_ended() == 0
    stop.set()
    for thread in threads:
        thread.join(10.0)
    assert set(answered) == {200}
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", server.rest_port)) != 0
