"""The gRPC client against a gRPC server that answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import grpc
import pytest

from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.saved_model import Signature, TensorSpec
from deployctl.domain.serving import ServedModel, ServingConfig, VersionState, VersionStatus
from deployctl.errors import ServerRefusedError, ServerUnavailableError
from deployctl.protos import serving_pb2, tensor_pb2
from deployctl.serving.interface import ServedSpec
from deployctl.serving.model_service import ModelService, dtype_name, server_errors
from deployctl.serving.ports import free_ports

MODEL = ModelName("digits")
Answer = Callable[[bytes, grpc.ServicerContext], bytes]


@dataclass
class Wire(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers any path with `answer`, and keeps what was asked."""

    answer: Answer = field(default=lambda request, context: b"")
    asked: list[tuple[str, bytes]] = field(default_factory=list)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.asked.append((details.method, request))
            return self.answer(request, context)

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def address(wire: Wire) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=[wire])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def service(address: str) -> Iterator[ModelService]:
    with ModelService(address) as service:
        yield service


def refusing(code: grpc.StatusCode, words: str = "its own words") -> Answer:
    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(code, words)
        return b""

    return answer


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_becomes_an_error_of_ours(wire: Wire, service: ModelService, code: grpc.StatusCode) -> None:
    wire.answer = refusing(code)

    with pytest.raises((ServerUnavailableError, ServerRefusedError)) as raised:
        service.handle_reload_config(ServingConfig(), timeout_s=5)

    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        assert isinstance(raised.value, ServerUnavailableError)
    else:
        assert isinstance(raised.value, ServerRefusedError)
        assert (raised.value.code, raised.value.words) == (code.name, "its own words")


def test_a_server_that_does_not_answer_is_unavailable_after_the_deadline(wire: Wire, service: ModelService) -> None:
    release = threading.Event()

    def never(request: bytes, context: grpc.ServicerContext) -> bytes:
        release.wait(30)
        return b""

    wire.answer = never

    try:
        with pytest.raises(ServerUnavailableError, match=r"did not answer within 0\.1 s"):
            service.get_model_status(MODEL, timeout_s=0.1)
    finally:
        release.set()


def test_an_address_where_nobody_listens_is_unavailable() -> None:
    (port,) = free_ports("127.0.0.1", 1)

    with ModelService(f"127.0.0.1:{port}") as service:
        assert not service.answers(timeout_s=2)
        with pytest.raises(ServerUnavailableError, match=f"127.0.0.1:{port}"):
            service.get_model_status(MODEL, timeout_s=2)


def test_a_proxy_of_the_environment_is_not_asked(wire: Wire, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports("127.0.0.1", 1)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")

    with ModelService(address) as service:
        assert service.answers(timeout_s=5)


def test_a_closed_connection_is_unavailable(address: str) -> None:
    service = ModelService(address)
    service.close()

    with pytest.raises(ServerUnavailableError, match="closed"):
        service.get_model_status(MODEL, timeout_s=1)


def test_a_grpc_server_that_is_no_model_server_does_not_answer(wire: Wire, service: ModelService) -> None:
    wire.answer = refusing(grpc.StatusCode.UNIMPLEMENTED)

    assert not service.answers(timeout_s=5)


def test_statuses_come_highest_first_with_the_servers_words(wire: Wire, service: ModelService) -> None:
    response = serving_pb2.GetModelStatusResponse()
    response.model_version_status.add(version=1, state=serving_pb2.ModelVersionStatus.AVAILABLE)
    failed = response.model_version_status.add(version=3, state=serving_pb2.ModelVersionStatus.END)
    failed.status.error_code, failed.status.error_message = serving_pb2.NOT_FOUND, "Op type not registered"
    wordless = response.model_version_status.add(version=2, state=serving_pb2.ModelVersionStatus.END)
    wordless.status.error_code = serving_pb2.DATA_LOSS
    wire.answer = lambda request, context: response.SerializeToString()

    assert service.get_model_status(MODEL, timeout_s=5) == (
        VersionStatus(VersionNumber(3), VersionState.END, "Op type not registered"),
        VersionStatus(VersionNumber(2), VersionState.END, "DATA_LOSS"),
        VersionStatus(VersionNumber(1), VersionState.AVAILABLE),
    )


def test_a_state_of_a_newer_server_is_unknown(wire: Wire, service: ModelService) -> None:
    # field 1 (the list): version 1, state 60
    wire.answer = lambda request, context: b"\x0a\x04\x08\x01\x10\x3c"

    assert service.get_model_status(MODEL, timeout_s=5) == (VersionStatus(VersionNumber(1), VersionState.UNKNOWN),)


def test_a_model_that_the_server_does_not_know_has_no_versions(wire: Wire, service: ModelService) -> None:
    wire.answer = refusing(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model digits")

    assert service.get_model_status(MODEL, timeout_s=5) == ()


def test_a_reload_that_is_refused_in_its_response_is_refused(wire: Wire, service: ModelService) -> None:
    status = serving_pb2.StatusProto(error_code=serving_pb2.INVALID_ARGUMENT, error_message="duplicate name")
    wire.answer = lambda request, context: serving_pb2.ReloadConfigResponse(status=status).SerializeToString()

    with pytest.raises(ServerRefusedError, match="duplicate name"):
        service.handle_reload_config(ServingConfig(), timeout_s=5)


def test_a_reload_sends_the_whole_configuration(wire: Wire, service: ModelService) -> None:
    config = ServingConfig(
        (ServedModel(MODEL, "/m/digits", (VersionNumber(1),), {LabelName("stable"): VersionNumber(1)}),)
    )

    service.handle_reload_config(config, timeout_s=5)

    ((path, request),) = wire.asked
    sent = serving_pb2.ReloadConfigRequest.FromString(request).config.model_config_list.config
    assert path == "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    assert [(entry.name, entry.base_path, dict(entry.version_labels)) for entry in sent] == [
        ("digits", "/m/digits", {"stable": 1})
    ]


def test_metadata_tells_the_answering_version_and_its_signatures(wire: Wire, service: ModelService) -> None:
    signatures = serving_pb2.SignatureDefMap()
    signature = signatures.signature_def["serving_default"]
    signature.method_name = "tensorflow/serving/predict"
    signature.inputs["image"].dtype = tensor_pb2.DT_FLOAT
    signature.inputs["image"].name = "image:0"
    signature.inputs["image"].tensor_shape.dim.add(size=-1)
    signature.inputs["image"].tensor_shape.dim.add(size=64)
    signature.outputs["label"].dtype = tensor_pb2.DT_STRING
    signature.outputs["label"].tensor_shape.unknown_rank = True
    response = serving_pb2.GetModelMetadataResponse()
    response.model_spec.version.value = 7
    response.metadata["signature_def"].type_url = "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    response.metadata["signature_def"].value = signatures.SerializeToString()
    wire.answer = lambda request, context: response.SerializeToString()

    version, found = service.get_model_metadata(ServedSpec(MODEL, label=LabelName("stable")), timeout_s=5)

    asked = serving_pb2.GetModelMetadataRequest.FromString(wire.asked[0][1])
    assert asked.model_spec.version_label == "stable"
    assert version == 7
    assert found == {
        "serving_default": Signature(
            "tensorflow/serving/predict",
            {"image": TensorSpec("float32", (None, 64), "image:0")},
            {"label": TensorSpec("string", None)},
        )
    }


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        (1, "float32"),
        (2, "float64"),
        (19, "float16"),
        (7, "string"),
        (14, "bfloat16"),
        (101, "float_ref"),
        (999, "dtype 999"),
    ],
)
def test_element_types_have_tensorflows_names(dtype: int, name: str) -> None:
    assert dtype_name(dtype) == name


def test_an_error_that_is_not_grpcs_passes() -> None:
    with pytest.raises(ZeroDivisionError), server_errors("127.0.0.1:1", timeout_s=1):
        raise ZeroDivisionError
