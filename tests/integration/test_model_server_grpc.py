"""The embedded server, as the official gRPC client sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from tests.support.model_server import ModelServerProcess, ModelServers
from tests.support.models import UPSTREAM, TensorFlowModels
from tests.support.serving_client import CLASSIFY, PREDICT, REGRESS, ServingClient, model_config, model_config_list

HALF_PLUS_TWO = UPSTREAM / "saved_model_half_plus_two_cpu"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tensorflow_models: TensorFlowModels
) -> Iterator[ModelServerProcess]:
    """Serves several models; no test changes what it serves."""
    directory = tmp_path_factory.mktemp("server")
    config = directory / "models.config"
    names = ("vocabulary", "every_dtype", "segmentation", "keras_two_outputs", "several_signatures")
    entries = [
        model_config("two", HALF_PLUS_TWO),
        model_config("two_tf2", UPSTREAM / "saved_model_half_plus_two_tf2_cpu"),
        model_config("three", UPSTREAM / "saved_model_half_plus_three"),
    ]
    for name in names:
        tensorflow_models.copy(name, directory / name / "1")
        entries.append(model_config(name, directory / name))
    config.write_text(model_config_list(*entries))
    servers = ModelServers(directory)
    yield servers.start(f"--model_config_file={config}", "--enable_grpc_healthcheck_service")
    servers.stop_all()


@pytest.fixture(scope="module")
def client(server: ModelServerProcess) -> Iterator[ServingClient]:
    """A client of `server`."""
    with ServingClient(server.grpc_address) as client:
        yield client


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as raised:
        call()
    error: Any = raised.value
    return error.code(), error.details()


@pytest.mark.parametrize(("model", "answer"), [("two", 3.0), ("two_tf2", 3.0), ("three", 4.0)])
def test_upstream_models_answer_and_say_which_version_did(client: ServingClient, model: str, answer: float) -> None:
    response = client.predict(model, {"x": [2.0]})

    assert list(response.outputs["y"].float_val) == [answer]
    assert response.outputs["y"].dtype == client.apis.types_pb2.DT_FLOAT
    assert response.model_spec == client.spec(model, version=123, signature="serving_default")


def test_tensor_content_and_value_lists_mean_the_same(client: ServingClient) -> None:
    values = np.linspace(-3, 3, 1000, dtype=np.float32)

    by_content = client.predict("two", {"x": values})
    by_list = client.predict("two", {"x": values.tolist()})

    assert by_content == by_list
    np.testing.assert_allclose(by_content.outputs["y"].float_val, values / 2 + 2, rtol=1e-6)


def test_a_short_value_list_repeats_its_last_value(client: ServingClient) -> None:
    request = client.predict_request("two", {"x": [4.0]})
    request.inputs["x"].tensor_shape.dim[0].size = 3

    response = client.prediction.Predict(request, timeout=10)

    assert list(response.outputs["y"].float_val) == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(("shape", "content"), [((2,), b"\0" * 7), ((2,), b"\0" * 12), ((-1,), b""), ((1 << 40,), b"")])
def test_a_tensor_that_does_not_parse_is_refused(client: ServingClient, shape: tuple[int], content: bytes) -> None:
    request = client.predict_request("two", {"x": []})
    request.inputs["x"].tensor_shape.dim[0].size = shape[0]
    request.inputs["x"].tensor_content = content

    code, details = refusal(lambda: client.prediction.Predict(request, timeout=10))

    assert (code, details) == (grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: x")


def test_every_numeric_type_goes_through_unchanged(client: ServingClient) -> None:
    request = client.apis.predict_pb2.PredictRequest(model_spec=client.spec("every_dtype"))
    plain = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    arrays = {f"in_{name}": np.array([0, 1, 100], dtype=name) for name in plain}
    arrays["in_complex64"] = np.array([1 + 2j, -3j, 0], dtype=np.complex64)
    arrays["in_complex128"] = np.array([1 + 2j, -3j, 0], dtype=np.complex128)
    arrays["in_bool"] = np.array([True, False, True])
    for name, array in arrays.items():
        request.inputs[name].CopyFrom(client.tensor(array))
    bfloat16 = request.inputs["in_bfloat16"]
    bfloat16.dtype = client.apis.types_pb2.DT_BFLOAT16
    bfloat16.tensor_shape.dim.add(size=3)
    bfloat16.half_val.extend([0x3F80, 0xBF80, 0x4000])

    outputs = client.prediction.Predict(request, timeout=10).outputs

    assert list(outputs["out_bfloat16"].half_val) == [0x3F80, 0xBF80, 0x4000]
    assert list(outputs["out_float16"].half_val) == np.array([0, 1, 100], np.float16).view(np.uint16).tolist()
    for name in ("int8", "int16", "int32", "uint8", "uint16"):
        assert list(outputs[f"out_{name}"].int_val) == [0, 1, 100]
    assert list(outputs["out_int64"].int64_val) == [0, 1, 100]
    assert list(outputs["out_uint64"].uint64_val) == [0, 1, 100]
    assert list(outputs["out_uint32"].uint32_val) == [0, 1, 100]
    assert list(outputs["out_float64"].double_val) == [0, 1, 100]
    assert list(outputs["out_bool"].bool_val) == [True, False, True]
    assert list(outputs["out_complex64"].scomplex_val) == [1, 2, 0, -3, 0, 0]
    assert list(outputs["out_complex128"].dcomplex_val) == [1, 2, 0, -3, 0, 0]


def test_a_lookup_table_from_an_asset_maps_short_and_long_tokens(client: ServingClient) -> None:
    tokens = np.array([[b"quick", b"fox"], [b"a token of more than twenty-two characters", b"the"]], dtype=object)

    outputs = client.predict("vocabulary", {"tokens": tokens}).outputs

    assert list(outputs["ids"].int64_val) == [1, 3, 4, 0]
    assert list(outputs["embeddings"].float_val) == [2, 3, 6, 7, 8, 9, 0, 1]


def test_three_inputs_of_different_types_give_a_mask(client: ServingClient) -> None:
    image = np.ones((1, 4, 4, 3), np.float32)
    mask = np.zeros((1, 4, 4, 1), np.uint8)
    mask[0, 1:3, 1:3] = 1

    outputs = client.predict("segmentation", {"image": image, "mask": mask, "threshold": np.float32(0.5).reshape(())})

    assert np.array(outputs.outputs["mask"].int_val).reshape(4, 4).tolist() == mask[0, :, :, 0].tolist()


def test_an_output_filter_returns_only_what_it_names(client: ServingClient) -> None:
    features = {"features": np.ones((2, 4), np.float32)}

    both = client.predict("keras_two_outputs", features).outputs
    one = client.predict("keras_two_outputs", features, output_filter=["class"]).outputs

    assert sorted(both) == ["class", "score"]
    assert list(one) == ["class"]
    assert one["class"] == both["class"]


def test_an_input_with_a_default_may_be_left_out(client: ServingClient) -> None:
    x = np.ones((1, 2), np.float32)

    without = client.predict("several_signatures", {"x": x}, signature="shift").outputs["y"]
    given = client.predict("several_signatures", {"x": x, "by": np.float32(1).reshape(())}, signature="shift")

    assert list(without.float_val) == [4.0, 5.0]
    assert list(given.outputs["y"].float_val) == [2.0, 3.0]


def test_classify_gives_scores_and_regress_gives_values(client: ServingClient) -> None:
    source = client.examples([{"x": 2.0}, {"x": 4.0}])

    classified = client.classify("two", source, signature="classify_x_to_y")
    regressed = client.regress("two", source, signature="regress_x_to_y")

    assert [row.classes[0].score for row in classified.result.classifications] == [3.0, 4.0]
    assert [row.value for row in regressed.result.regressions] == [3.0, 4.0]
    assert classified.model_spec == client.spec("two", version=123, signature="classify_x_to_y")
    assert regressed.model_spec == client.spec("two", version=123, signature="regress_x_to_y")


def test_a_shared_context_is_part_of_each_example(client: ServingClient) -> None:
    source = client.examples([{}, {}], context={"x": 6.0})

    regressed = client.regress("two", source, signature="regress_x_to_y")

    assert [row.value for row in regressed.result.regressions] == [5.0, 5.0]


@pytest.mark.parametrize("model", ["two", "two_tf2"])
def test_one_multi_inference_answers_a_classification_and_a_regression(client: ServingClient, model: str) -> None:
    # With TensorFlow 2 each signature has an input tensor of its own.
    tasks = [(model, "regress_x_to_y", REGRESS), (model, "classify_x_to_y", CLASSIFY)]

    results = client.multi_inference(tasks, client.examples([{"x": 2.0}])).results

    assert results[0].regression_result.regressions[0].value == 3.0
    assert results[1].classification_result.classifications[0].classes[0].score == 3.0
    assert [result.model_spec.signature_name for result in results] == ["regress_x_to_y", "classify_x_to_y"]
    assert [result.model_spec.version.value for result in results] == [123, 123]


def test_metadata_is_the_signatures_of_the_model(client: ServingClient) -> None:
    response = client.metadata("two")

    unpacked = client.apis.get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(unpacked)
    assert sorted(unpacked.signature_def) == [
        "classify_x_to_y", "regress_x2_to_y3", "regress_x_to_y", "regress_x_to_y2", "serving_default",
    ]  # fmt: skip
    assert unpacked.signature_def["serving_default"].method_name == PREDICT
    assert unpacked.signature_def["serving_default"].inputs["x"].name == "x:0"
    assert (response.model_spec.name, response.model_spec.version.value) == ("two", 123)


def test_status_reports_each_version(client: ServingClient) -> None:
    assert client.status("two") == [(123, "AVAILABLE", 0, "")]
    assert client.status("two", version=123) == [(123, "AVAILABLE", 0, "")]


def test_status_ignores_a_label_as_upstream_does(client: ServingClient) -> None:
    assert client.status("two", label="no such label") == [(123, "AVAILABLE", 0, "")]


def predict(client: ServingClient, *arguments: Any, **spec: Any) -> Any:
    return lambda: client.predict(*arguments, **spec)


def of_dimensions(client: ServingClient, count: int) -> Any:
    request = client.predict_request("two", {"x": [1.0]})
    for _ in range(count - 1):
        request.inputs["x"].tensor_shape.dim.add(size=1)
    return request


REFUSALS: list[tuple[str, Any, grpc.StatusCode, str]] = [
    ("unknown model", lambda c: c.predict("none", {}), grpc.StatusCode.NOT_FOUND,
     "Servable not found for request: Latest(none)"),
    ("unknown version", lambda c: c.predict("two", {}, version=7), grpc.StatusCode.NOT_FOUND,
     "Servable not found for request: Specific(two, 7)"),
    ("unknown label", lambda c: c.predict("two", {}, label="stable"), grpc.StatusCode.INVALID_ARGUMENT,
     "Unrecognized servable version label: stable"),
    ("no name", lambda c: c.predict("", {}), grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."),
    ("no spec", lambda c: c.prediction.Predict(c.apis.predict_pb2.PredictRequest(), timeout=10),
     grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
    ("unknown signature", lambda c: c.predict("two", {"x": [1.0]}, signature="s"),
     grpc.StatusCode.FAILED_PRECONDITION, 'Serving signature key "s" not found.'),
    ("missing input", lambda c: c.predict("two", {}), grpc.StatusCode.INVALID_ARGUMENT,
     "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}."),
    ("extra input", lambda c: c.predict("two", {"x": [1.0], "z": [1.0]}), grpc.StatusCode.INVALID_ARGUMENT,
     "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}."),
    ("misnamed input", lambda c: c.predict("two", {"z": [1.0]}), grpc.StatusCode.INVALID_ARGUMENT,
     "Signature input alias: x(feed name: x:0) not found in request and no default value provided. Inputs expected "
     "to be in the request {z}, or default input alias set: "),
    ("unknown output", lambda c: c.predict("two", {"x": [1.0]}, output_filter=["z"]),
     grpc.StatusCode.INVALID_ARGUMENT,
     "output tensor alias not found in signature: z Outputs expected to be in the set {y}."),
    ("output twice", lambda c: c.predict("two", {"x": [1.0]}, output_filter=["y", "y"]),
     grpc.StatusCode.INVALID_ARGUMENT, "duplicate output tensor alias: y"),
    ("wrong type", lambda c: c.predict("two", {"x": np.array([1])}), grpc.StatusCode.INVALID_ARGUMENT,
     "Expects arg[0] to be float but int64 is provided"),
    ("too many dimensions", lambda c: c.prediction.Predict(of_dimensions(c, 65), timeout=10),
     grpc.StatusCode.INVALID_ARGUMENT, "tensor parsing error: x"),
    ("classify by predict", lambda c: c.classify("two", c.examples([{"x": 1.0}])), grpc.StatusCode.FAILED_PRECONDITION,
     f"No classification inputs found in SignatureDef: method_name: {PREDICT} inputs: ['x'] outputs: ['y']"),
    ("regress by classify", lambda c: c.regress("two", c.examples([{"x": 1.0}]), signature="classify_x_to_y"),
     grpc.StatusCode.FAILED_PRECONDITION,
     f"No regression outputs found in SignatureDef: method_name: {CLASSIFY} inputs: ['inputs'] outputs: ['scores']"),
    ("classify by no signature", lambda c: c.classify("two", c.examples([{"x": 1.0}]), signature="s"),
     grpc.StatusCode.INVALID_ARGUMENT, "No signature was found with the name: s"),
    ("no examples", lambda c: c.regress("two", c.examples([]), signature="regress_x_to_y"),
     grpc.StatusCode.INVALID_ARGUMENT, "Input is empty."),
    ("no metadata field", lambda c: c.prediction.GetModelMetadata(
        c.apis.get_model_metadata_pb2.GetModelMetadataRequest(model_spec=c.spec("two")), timeout=10),
     grpc.StatusCode.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field"),
    ("two models", lambda c: c.multi_inference(
        [("two", "regress_x_to_y", REGRESS), ("three", "regress_x_to_y", REGRESS)], c.examples([{"x": 1.0}])),
     grpc.StatusCode.INVALID_ARGUMENT,
     "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
    ("signature twice", lambda c: c.multi_inference(
        [("two", "regress_x_to_y", REGRESS), ("two", "regress_x_to_y", REGRESS)], c.examples([{"x": 1.0}])),
     grpc.StatusCode.INVALID_ARGUMENT, "Duplicate evaluation of signature: regress_x_to_y"),
    ("other method", lambda c: c.multi_inference([("two", "serving_default", PREDICT)], c.examples([{"x": 1.0}])),
     grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {PREDICT}"),
    ("status of nothing", lambda c: c.status("none"), grpc.StatusCode.NOT_FOUND,
     "Could not find any versions of model none"),
    ("status of no version", lambda c: c.status("two", version=7), grpc.StatusCode.NOT_FOUND,
     "Could not find version 7 of model two"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "code", "details"), [case[1:] for case in REFUSALS], ids=[c[0] for c in REFUSALS])
def test_refuses_in_the_code_and_words_of_upstream(
    client: ServingClient, call: Any, code: grpc.StatusCode, details: str
) -> None:
    assert refusal(lambda: call(client)) == (code, details)


def test_a_deadline_that_passes_inside_tensorflow_ends_the_call(client: ServingClient) -> None:
    request = client.predict_request("segmentation", {
        "image": np.ones((1, 2000, 2000, 3), np.float32),
        "mask": np.ones((1, 2000, 2000, 1), np.uint8),
        "threshold": np.float32(0.5).reshape(()),
    })  # fmt: skip

    with pytest.raises(grpc.RpcError) as raised:
        client.prediction.Predict(request, timeout=0.02)

    error: Any = raised.value
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("service", ["", "ModelService", "PredictionService"])
def test_the_health_service_says_serving(server: ModelServerProcess, service: str) -> None:
    from deployctl.protos.health_pb2 import HealthCheckRequest, HealthCheckResponse

    with grpc.insecure_channel(server.grpc_address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )

        assert check(HealthCheckRequest(service=service), timeout=10).status == HealthCheckResponse.SERVING
        code, _ = refusal(lambda: check(HealthCheckRequest(service="none"), timeout=10))
    assert code is grpc.StatusCode.NOT_FOUND


def test_serves_on_a_unix_socket_alone(model_servers: ModelServers, tmp_path: Path) -> None:
    socket = tmp_path / "s"
    server = model_servers.launch(
        "--port=0", f"--grpc_socket_path={socket}", f"--model_base_path={HALF_PLUS_TWO}", "--model_name=m"
    )
    server.grpc_port = server.rest_port
    server.wait_ready()

    with ServingClient(f"unix:{socket}") as client:
        assert client.half_plus() == (3.0, 123)


def test_large_tensors_pass_both_ways(client: ServingClient) -> None:
    values = np.zeros(8_000_000, np.float32)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(client.channel._channel.target().decode(), options=options) as channel:
        stub = client.apis.prediction_service_pb2_grpc.PredictionServiceStub(channel)

        response = stub.Predict(client.predict_request("two", {"x": values}), timeout=30)

    assert len(response.outputs["y"].float_val) == 8_000_000


def test_numbers_come_as_tensor_content_when_asked(model_servers: ModelServers) -> None:
    server = model_servers.start(
        "--enable_serialization_as_tensor_content", "--model_name=m", f"--model_base_path={HALF_PLUS_TWO}"
    )

    with ServingClient(server.grpc_address) as client:
        output = client.predict("m", {"x": [2.0, 4.0]}).outputs["y"]

    assert np.frombuffer(output.tensor_content, np.float32).tolist() == [3.0, 4.0]
    assert not output.float_val


def test_method_names_count_when_asked_for(model_servers: ModelServers) -> None:
    base = UPSTREAM / "saved_model_half_plus_two_tf2_cpu"
    server = model_servers.start("--enable_signature_method_name_check", "--model_name=m", f"--model_base_path={base}")

    with ServingClient(server.grpc_address) as client:
        answer = client.half_plus()
        refused = refusal(lambda: client.classify("m", client.examples([{"x": 1.0}]), signature="classify_x_to_y"))

    assert answer == (3.0, 123)
    assert refused == (
        grpc.StatusCode.INVALID_ARGUMENT,
        f"Expected classification signature method_name to be {CLASSIFY}. Was: {PREDICT}",
    )
