"""A client written with the official `tensorflow-serving-api` stubs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from tests.support.upstream_apis import official_apis

_TIMEOUT_S = 20.0
PREDICT, CLASSIFY, REGRESS = (f"tensorflow/serving/{method}" for method in ("predict", "classify", "regress"))


class ServingClient:
    """Calls a server at `address` ("host:port" or "unix:/path")."""

    def __init__(self, address: str, *, credentials: grpc.ChannelCredentials | None = None) -> None:
        self.apis = official_apis()
        self.channel = (
            grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
        )
        self.prediction = self.apis.prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.models = self.apis.model_service_pb2_grpc.ModelServiceStub(self.channel)

    def __enter__(self) -> ServingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def predict_request(self, model: str, inputs: Mapping[str, Any], **spec: Any) -> Any:
        """A PredictRequest of float32 arrays, or of arrays as given; `spec` as in `spec()`, and `output_filter`."""
        request = self.apis.predict_pb2.PredictRequest()
        request.output_filter.extend(spec.pop("output_filter", ()))
        request.model_spec.CopyFrom(self.spec(model, **spec))
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(self.tensor(value))
        return request

    def predict(self, model: str, inputs: Mapping[str, Any], **spec: Any) -> Any:
        """The PredictResponse."""
        return self.prediction.Predict(self.predict_request(model, inputs, **spec), timeout=_TIMEOUT_S)

    def half_plus(self, model: str = "m", x: float = 2.0, **spec: Any) -> tuple[float, int]:
        """What a half-plus model answers to `x`, and which version did."""
        response = self.predict(model, {"x": [x]}, **spec)
        return response.outputs["y"].float_val[0], response.model_spec.version.value

    def spec(self, model: str, *, version: int | None = None, label: str | None = None, signature: str = "") -> Any:
        """A ModelSpec."""
        spec = self.apis.model_pb2.ModelSpec(name=model, signature_name=signature)
        if version is not None:
            spec.version.value = version
        if label is not None:
            spec.version_label = label
        return spec

    def tensor(self, value: Any) -> Any:
        """A TensorProto: arrays of numbers by tensor_content, lists of numbers by float_val, bytes by string_val."""
        proto = self.apis.tensor_pb2.TensorProto()
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
        for size in array.shape:
            proto.tensor_shape.dim.add(size=size)
        if array.dtype.kind in "SO":
            proto.dtype = self.apis.types_pb2.DT_STRING
            proto.string_val.extend(array.ravel().tolist())
        elif isinstance(value, np.ndarray):
            proto.dtype = _NUMBERS[array.dtype.name]
            proto.tensor_content = array.tobytes()
        else:
            proto.dtype = self.apis.types_pb2.DT_FLOAT
            proto.float_val.extend(array.ravel().tolist())
        return proto

    def examples(self, rows: Sequence[Mapping[str, float]], context: Mapping[str, float] | None = None) -> Any:
        """An Input of tf.Examples with one float feature for each name."""
        source = self.apis.input_pb2.Input()
        listed = source.example_list if context is None else source.example_list_with_context
        for row in rows:
            _fill(listed.examples.add(), row)
        if context is not None:
            _fill(source.example_list_with_context.context, context)
        return source

    def classify(self, model: str, source: Any, **spec: Any) -> Any:
        """The ClassificationResponse."""
        request = self.apis.classification_pb2.ClassificationRequest(model_spec=self.spec(model, **spec), input=source)
        return self.prediction.Classify(request, timeout=_TIMEOUT_S)

    def regress(self, model: str, source: Any, **spec: Any) -> Any:
        """The RegressionResponse."""
        request = self.apis.regression_pb2.RegressionRequest(model_spec=self.spec(model, **spec), input=source)
        return self.prediction.Regress(request, timeout=_TIMEOUT_S)

    def multi_inference(self, tasks: Sequence[tuple[str, str, str]], source: Any) -> Any:
        """The MultiInferenceResponse to (model, signature, method) tasks."""
        request = self.apis.inference_pb2.MultiInferenceRequest(input=source)
        for model, signature, method in tasks:
            request.tasks.add(model_spec=self.spec(model, signature=signature), method_name=method)
        return self.prediction.MultiInference(request, timeout=_TIMEOUT_S)

    def metadata(self, model: str, *fields: str, **spec: Any) -> Any:
        """The GetModelMetadataResponse."""
        request = self.apis.get_model_metadata_pb2.GetModelMetadataRequest(model_spec=self.spec(model, **spec))
        request.metadata_field.extend(fields or ("signature_def",))
        return self.prediction.GetModelMetadata(request, timeout=_TIMEOUT_S)

    def status(self, model: str, **spec: Any) -> list[tuple[int, str, int, str]]:
        """(version, state, error code, error message), in the server's order."""
        request = self.apis.get_model_status_pb2.GetModelStatusRequest(model_spec=self.spec(model, **spec))
        response = self.models.GetModelStatus(request, timeout=_TIMEOUT_S)
        return [
            (
                status.version,
                self.apis.get_model_status_pb2.ModelVersionStatus.State.Name(status.state),
                status.status.error_code,
                status.status.error_message,
            )
            for status in response.model_version_status
        ]

    def states(self, model: str) -> dict[int, str]:
        """State by version; {} for a model that the server knows nothing of."""
        try:
            return {version: state for version, state, _, _ in self.status(model)}
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return {}

    def reload(self, *models: str | Mapping[str, Any], timeout_s: float = _TIMEOUT_S) -> Any:
        """Sends a ModelConfigList of text protos or of fields, and returns the ReloadConfigResponse."""
        from google.protobuf import text_format

        request = self.apis.model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.SetInParent()
        for model in models:
            entry = request.config.model_config_list.config.add()
            if isinstance(model, str):
                text_format.Parse(model, entry)
            else:
                for name, value in model.items():
                    setattr(entry, name, value)
        return self.models.HandleReloadConfigRequest(request, timeout=timeout_s)


def model_config(name: str, base_path: object, *, versions: Sequence[int] | None = None, **labels: int) -> str:
    """The text of a ModelConfig; `versions` makes the policy `specific`."""
    text = f'name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" '
    if versions is not None:
        text += "model_version_policy { specific { " + " ".join(f"versions: {number}" for number in versions) + " } } "
    return text + " ".join(f'version_labels {{ key: "{label}" value: {number} }}' for label, number in labels.items())


def model_config_list(*models: str) -> str:
    """The text of a ModelServerConfig."""
    return "model_config_list { " + " ".join(f"config {{ {model} }}" for model in models) + " }"


_NUMBERS = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "complex64": 8, "int64": 9, "bool": 10,
    "uint16": 17, "complex128": 18, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip


def _fill(example: Any, row: Mapping[str, float]) -> None:
    for name, value in row.items():
        example.features.feature[name].float_list.value.append(value)
