"""Warm-up requests, batching, TLS and memory of the embedded server."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import text_format

from deployctl.modelserver.tfrecord import masked_crc32c
from tests.support.model_server import ModelServers, ServerEndedError, wait_until
from tests.support.models import TensorFlowModels
from tests.support.rest import Answer, call
from tests.support.serving_client import ServingClient, model_config, model_config_list
from tests.support.upstream_apis import official_apis

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")


def record(data: bytes) -> bytes:
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))


def predict_log(signature: str = "", name: str = "x") -> bytes:
    """A PredictionLog of one float32; it names another model, which does not matter."""
    log = official_apis().prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.name = "another"
    request.model_spec.signature_name = signature
    request.inputs[name].dtype = 1
    request.inputs[name].tensor_shape.dim.add(size=1)
    request.inputs[name].float_val.append(1.0)
    serialized: bytes = log.SerializeToString()
    return serialized


@pytest.fixture
def version(tmp_path: Path, tensorflow_models: TensorFlowModels) -> Path:
    """Version 1 of a half-plus-two model."""
    (tmp_path / "m").mkdir()
    return tensorflow_models.copy("half_plus_2", tmp_path / "m" / "1")


def add_warm_up(version: Path, content: bytes) -> None:
    (version / WARM_UP).parent.mkdir(exist_ok=True)
    (version / WARM_UP).write_bytes(content)


def test_a_version_is_warmed_up_before_it_serves(version: Path, model_servers: ModelServers) -> None:
    add_warm_up(version, record(predict_log()) * 3)

    server = model_servers.start(
        "--model_name=m", f"--model_base_path={version.parent}", "--num_request_iterations_for_warmup=2"
    )

    assert "Number of warmup records read: 3." in server.log_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (record(predict_log(name="z")), "INVALID_ARGUMENT: Signature input alias: x(feed name:"),
        (record(predict_log(signature="s")), 'FAILED_PRECONDITION: Serving signature key "s" not found.'),
        (record(b"\xff"), "INVALID_ARGUMENT: Failed to parse warmup record"),
        (record(predict_log())[:-2], "DATA_LOSS: truncated record at 0. Please verify your warmup data is in TFRecord"),
        (b"not records at all", "DATA_LOSS: corrupted record at 0. Please verify your warmup data is in TFRecord"),
        (record(predict_log()) * 1001, "INVALID_ARGUMENT: Number of warmup records exceeds the maximum (1000)"),
    ],
    # The test's name goes into the server's environment, where a hundred kilobytes have no room.
    ids=["input", "signature", "message", "truncated", "no records", "too many"],
)
def test_a_warm_up_that_fails_fails_the_load(
    version: Path, model_servers: ModelServers, content: bytes, reason: str
) -> None:
    add_warm_up(version, content)
    server = model_servers.launch("--model_name=m", f"--model_base_path={version.parent}")

    with pytest.raises(ServerEndedError):
        server.wait_ready()

    assert server.wait_ended() == 255
    assert f"{{{{{{name: m version: 1}} due to error: {reason}" in server.log_text()


def test_warm_up_can_be_turned_off(version: Path, model_servers: ModelServers) -> None:
    add_warm_up(version, b"not records at all")

    model_servers.start("--model_name=m", f"--model_base_path={version.parent}", "--enable_model_warmup=false")


def batching(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "batching.config"
    file.write_text(text)
    return ["--enable_batching", f"--batching_parameters_file={file}", "--model_name=m"]


def test_requests_that_arrive_together_run_together_and_get_their_own_rows(
    version: Path, model_servers: ModelServers, tmp_path: Path
) -> None:
    # Alone, a request would wait for an hour.
    flags = batching(tmp_path, "max_batch_size { value: 8 } batch_timeout_micros { value: 3600000000 }")
    server = model_servers.start(*flags, f"--model_base_path={version.parent}")

    with ServingClient(server.grpc_address) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda x: client.half_plus("m", float(x))[0], range(8)))

    assert answers == [x / 2 + 2 for x in range(8)]


def test_batches_are_filled_up_to_an_allowed_size(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    flags = batching(tmp_path, "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8")
    server = model_servers.start(*flags, f"--model_base_path={version.parent}")

    with ServingClient(server.grpc_address) as client:
        response = client.predict("m", {"x": [2.0, 4.0, 6.0]})

    assert list(response.outputs["y"].float_val) == [3.0, 4.0, 5.0]


def test_a_model_may_bring_batching_parameters_of_its_own(
    version: Path, model_servers: ModelServers, tmp_path: Path, tensorflow_models: TensorFlowModels
) -> None:
    without = tensorflow_models.copy("half_plus_2", tmp_path / "n" / "1")
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
    config = tmp_path / "models.config"
    config.write_text(model_config_list(model_config("m", version.parent), model_config("n", without.parent)))
    server = model_servers.start(
        "--enable_batching", "--enable_per_model_batching_parameters", f"--model_config_file={config}"
    )

    with ServingClient(server.grpc_address) as client:
        refused = refusal(client, {"x": [1.0, 2.0, 3.0]})
        alone = client.predict("n", {"x": [2.0] * 3})

    assert refused[1] == "Task size 3 is larger than maximum input batch size 2"
    assert list(alone.outputs["y"].float_val) == [3.0] * 3


def refusal(client: ServingClient, inputs: dict[str, Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        client.predict("m", inputs)
    error: Any = raised.value
    return error.code(), error.details()


def test_what_cannot_be_batched_is_refused(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    flags = batching(tmp_path, "max_batch_size { value: 2 }")
    server = model_servers.start(*flags, f"--model_base_path={version.parent}")

    with ServingClient(server.grpc_address) as client:
        too_many = refusal(client, {"x": [1.0, 2.0, 3.0]})
        scalar = refusal(client, {"x": 1.0})

    assert too_many == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Task size 3 is larger than maximum input batch size 2",
    )
    assert scalar == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Batching Run() input tensors must have at least one dimension",
    )


def test_large_requests_are_split_when_asked(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    flags = batching(
        tmp_path,
        "max_batch_size { value: 100 } enable_large_batch_splitting { value: true } "
        "max_execution_batch_size { value: 2 }",
    )
    server = model_servers.start(*flags, f"--model_base_path={version.parent}")

    with ServingClient(server.grpc_address) as client:
        response = client.predict("m", {"x": [0.0, 2.0, 4.0, 6.0, 8.0]})

    assert list(response.outputs["y"].float_val) == [2.0, 3.0, 4.0, 5.0, 6.0]


def test_a_full_queue_refuses(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    flags = batching(
        tmp_path,
        "max_batch_size { value: 2 } batch_timeout_micros { value: 2000000 } max_enqueued_batches { value: 1 }",
    )
    server = model_servers.start(*flags, f"--model_base_path={version.parent}")

    with ServingClient(server.grpc_address) as client:
        refused: Any = None
        # A batch that is full from the start runs at once, until a smaller one waits in the queue. One that waits for
        # two seconds may be over before a busy machine gets to the next call.
        while refused is None:
            first = client.prediction.Predict.future(client.predict_request("m", {"x": [2.0]}), timeout=60)
            while refused is None and not first.done():
                try:
                    client.predict("m", {"x": [1.0, 2.0]})
                except grpc.RpcError as error:
                    refused = error
        answer = first.result().outputs["y"].float_val[0]

    assert answer == 3.0
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.details().startswith("The batch scheduling queue to which this task was submitted is full")


def test_a_wrong_batching_file_fails_the_start(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    flags = batching(tmp_path, "max_batch_size { value: 8 } allowed_batch_sizes: 4")
    server = model_servers.launch(*flags, f"--model_base_path={version.parent}")

    assert server.wait_ended() == 255
    assert "Last entry in allowed_batch_sizes must match max_batch_size" in server.log_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_tls_by_a_config_file(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    key, certificate, config = (tmp_path / name for name in ("key.pem", "cert.pem", "ssl.config"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    quoted = [path.read_text().replace("\n", "\\n") for path in (key, certificate)]
    config.write_text(f'server_key: "{quoted[0]}" server_cert: "{quoted[1]}" client_verify: false')
    server = model_servers.start(f"--ssl_config_file={config}", "--model_name=m", f"--model_base_path={version.parent}")

    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with ServingClient(server.grpc_address, credentials=credentials) as client:
        assert client.half_plus() == (3.0, 1)
    with ServingClient(server.grpc_address) as plain, pytest.raises(grpc.RpcError):
        plain.half_plus()


def test_unloading_gives_memory_back_and_loading_again_takes_no_more(
    tmp_path: Path, tensorflow_models: TensorFlowModels, model_servers: ModelServers
) -> None:
    (tmp_path / "m").mkdir()
    tensorflow_models.copy("large", tmp_path / "m" / "1")
    config = tmp_path / "models.config"
    config.write_text("model_config_list {}")
    server = model_servers.start(f"--model_config_file={config}")

    loaded, unloaded = [], []
    with ServingClient(server.grpc_address) as client:
        for _ in range(12):
            client.reload(model_config("m", tmp_path / "m"))
            client.half_plus("m")
            loaded.append(_resident_bytes(server.process.pid))
            client.reload()
            wait_until(lambda: client.states("m") == {1: "END"})
            unloaded.append(_resident_bytes(server.process.pid))

    # 48 MB of variables
    assert loaded[-1] - unloaded[-1] > 40_000_000
    assert loaded[-1] < loaded[0] * 1.2
    assert unloaded[-1] < unloaded[0] * 1.2


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def test_a_platform_config_file_configures_batching_on_an_ipv6_address(
    version: Path, model_servers: ModelServers, tmp_path: Path
) -> None:
    file = tmp_path / "platform.config"
    batch = "legacy_config { batching_parameters { max_batch_size { value: 2 } } }"
    adapter = f"[type.googleapis.com/tensorflow.serving.SavedModelBundleSourceAdapterConfig] {{ {batch} }}"
    file.write_text(f'platform_configs {{ key: "tensorflow" value {{ source_adapter_config {{ {adapter} }} }} }}')
    server = model_servers.launch(
        "--host=[::1]", f"--platform_config_file={file}", "--model_name=m", f"--model_base_path={version.parent}"
    )

    with ServingClient(f"[::1]:{server.grpc_port}") as client:
        grpc.channel_ready_future(client.channel).result(timeout=60)
        answer = client.half_plus()
        refused = refusal(client, {"x": [1.0, 2.0, 3.0]})
    server.stop()

    assert answer == (3.0, 1)
    assert refused[1] == "Task size 3 is larger than maximum input batch size 2"
    assert f"Running gRPC ModelServer at [::1]:{server.grpc_port} ..." in server.log_text()
    assert f"Exporting HTTP/REST API at:[::1]:{server.rest_port} ..." in server.log_text()


def test_a_session_config_file_reaches_tensorflow(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    file = tmp_path / "session.config"
    # A pool that does not exist is noticed by nothing but TensorFlow.
    file.write_text(
        'session_inter_op_thread_pool { num_threads: 1 global_name: "a" } '
        'session_inter_op_thread_pool { num_threads: 2 global_name: "a" }'
    )
    server = model_servers.launch(
        f"--tensorflow_session_config_file={file}", "--model_name=m", f"--model_base_path={version.parent}"
    )

    assert server.wait_ended() == 255
    assert "due to error: INVALID_ARGUMENT" in server.log_text()


def test_a_line_of_the_log_tells_its_time_to_the_millisecond(version: Path, model_servers: ModelServers) -> None:
    server = model_servers.start("--model_name=m", f"--model_base_path={version.parent}")

    lines = [line for line in server.log_text().splitlines() if "deployctl.modelserver" in line]

    assert lines
    assert [
        line for line in lines if not re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}: [IWE] deployctl\.", line)
    ] == []


def test_loads_warm_ups_and_grpc_calls_are_counted_under_upstreams_names(
    version: Path, model_servers: ModelServers, tmp_path: Path
) -> None:
    add_warm_up(version, record(predict_log()))
    config, monitoring = tmp_path / "models.config", tmp_path / "monitoring.config"
    config.write_text("model_config_list {}")
    monitoring.write_text("prometheus_config { enable: true }")
    server = model_servers.start(f"--model_config_file={config}", f"--monitoring_config_file={monitoring}")
    attempts, unknown = "/tensorflow/cc/saved_model/load_attempt_count", "/tensorflow/serving/no_such_metric"

    with ServingClient(server.grpc_address) as client:
        request = client.apis.model_management_pb2.ReloadConfigRequest(metric_names=[attempts, unknown])
        text_format.Parse(model_config("m", version.parent), request.config.model_config_list.config.add())
        response = client.models.HandleReloadConfigRequest(request, timeout=20)
        client.half_plus()
        refusal(client, {"z": [1.0]})
    page = call(server.rest_port, "GET", "/monitoring/prometheus/metrics").text

    assert {metric.name: metric.int64_value_increase for metric in response.metric} == {attempts: 1, unknown: 0}
    assert f':tensorflow:cc:saved_model:load_attempt_count{{model_path="{version}",status="success"}} 1\n' in page
    assert f':tensorflow:serving:model_warmup_latency_count{{model_path="{version}",status="OK"}} 1\n' in page
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1\n' in page
    assert ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1\n' in page
    latency = ':tensorflow:serving:request_latency_count{model_name="m",API="Predict",entrypoint="GRPC"} 1\n'
    assert latency in page
    # The warm-up ran the model as well.
    assert ':tensorflow:serving:runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 2\n' in page
    assert "# HELP" not in page


def test_rest_requests_wait_for_their_batch_without_a_thread_each(
    version: Path, model_servers: ModelServers, tmp_path: Path
) -> None:
    flags = batching(tmp_path, "max_batch_size { value: 16 } batch_timeout_micros { value: 250000 }")
    server = model_servers.start(*flags, f"--model_base_path={version.parent}", "--rest_api_num_threads=1")

    def predict(x: float) -> str:
        return call(server.rest_port, "POST", "/v1/models/m:predict", b'{"instances": [%d]}' % x).text

    started = time.monotonic()
    # The server first has to see that it takes little time to read and write such requests.
    in_turn = [predict(0) for _ in range(8)]
    alone = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        at_once = list(pool.map(predict, range(16)))
    together = time.monotonic()
    refused = call(server.rest_port, "POST", "/v1/models/m:predict", b'{"inputs": {"z": [1.0]}}')

    assert in_turn == ['{\n    "predictions": [2.0\n    ]\n}'] * 8
    assert at_once == [f'{{\n    "predictions": [{x / 2 + 2}\n    ]\n}}' for x in range(16)]
    # One by one they would wait for twice as long.
    assert together - alone < alone - started
    assert refused.status == 400


def test_a_full_queue_answers_429(version: Path, model_servers: ModelServers, tmp_path: Path) -> None:
    flags = batching(
        tmp_path,
        "max_batch_size { value: 2 } batch_timeout_micros { value: 3000000 } max_enqueued_batches { value: 1 }",
    )
    server = model_servers.start(*flags, f"--model_base_path={version.parent}")

    def predict(body: bytes) -> Answer:
        return call(server.rest_port, "POST", "/v1/models/m:predict", body)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(predict, b'{"instances": [1]}')
        # Until that one waits in the queue, a batch that is full from the start runs at once.
        answer = predict(b'{"instances": [1, 2]}')
        while answer.status == 200 and not waiting.done():
            answer = predict(b'{"instances": [1, 2]}')
        refused = answer if answer.status != 200 else waiting.result()

    assert refused.status == 429
    assert "queue to which this task was submitted is full" in refused.text
