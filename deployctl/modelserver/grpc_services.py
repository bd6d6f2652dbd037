"""What each gRPC method answers: messages in, serialized messages out, nothing of the transport.

tensorflow_serving/model_servers/prediction_service_impl.cc and model_service_impl.cc.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from deployctl.domain.saved_model import CLASSIFY_METHOD, DEFAULT_SIGNATURE
from deployctl.modelserver import wire
from deployctl.modelserver.config_file import models_from_proto
from deployctl.modelserver.interface import Code, InferenceTask, ModelSpec, Servable, ServerCore, StatusError
from deployctl.modelserver.metrics import UNKNOWN_MODEL, Metrics
from deployctl.modelserver.model_config import ConfiguredModel
from deployctl.modelserver.tensor_proto import TensorProtoError, decode, encode
from deployctl.protos import serving_pb2 as pb

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Classification, Regression, Tensor

logger = logging.getLogger(__name__)

RequestT = TypeVar("RequestT")
_SIGNATURE_DEF = "signature_def"
_SIGNATURE_DEF_MAP_URL = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT]):
    """One RPC: its name, its request message, and a function of request and timeout in seconds."""

    name: str
    request: type[Any]
    call: Callable[[RequestT, float | None], bytes]


class Reloadable(Protocol):
    """A core that takes a whole model configuration, policies and platforms included."""

    def reload_models(self, models: Sequence[ConfiguredModel]) -> None:
        """Serves `models` from now on."""


def prediction_service(core: ServerCore, metrics: Metrics, as_content: bool) -> list[Method[Any]]:
    """Returns the methods of tensorflow.serving.PredictionService."""
    service = PredictionService(core, as_content=as_content)

    def counted(api: str, call: Callable[[Any, float | None], bytes]) -> Callable[[Any, float | None], bytes]:
        def answer(request: Any, timeout_s: float | None) -> bytes:
            model = request.model_spec.name if api != "MultiInference" else _first_model(request)
            started = time.perf_counter()
            try:
                response = call(request, timeout_s)
            except StatusError as error:
                metrics.request_answered(model if core.knows(model) else UNKNOWN_MODEL, error.code)
                raise
            metrics.request_answered(model, Code.OK)
            micros = (time.perf_counter() - started) * 1e6
            metrics.request_timed(model, api=api, entrypoint="GRPC", micros=micros)
            return response

        return answer

    return [
        Method("Predict", pb.PredictRequest, counted("Predict", service.predict)),
        Method("Classify", pb.ClassificationRequest, counted("Classify", service.classify)),
        Method("Regress", pb.RegressionRequest, counted("Regress", service.regress)),
        Method("MultiInference", pb.MultiInferenceRequest, counted("MultiInference", service.multi_inference)),
        Method("GetModelMetadata", pb.GetModelMetadataRequest, service.get_model_metadata),
    ]


def model_service(core: ServerCore, metrics: Metrics) -> list[Method[Any]]:
    """Returns the methods of tensorflow.serving.ModelService."""
    service = _ModelService(core, metrics)
    return [
        Method("GetModelStatus", pb.GetModelStatusRequest, service.get_model_status),
        Method("HandleReloadConfigRequest", pb.ReloadConfigRequest, service.handle_reload_config_request),
    ]


class PredictionService:
    """The methods of tensorflow.serving.PredictionService, each of a request and a timeout in seconds."""

    def __init__(self, core: ServerCore, *, as_content: bool) -> None:
        self._core = core
        self._as_content = as_content

    def predict(self, request: pb.PredictRequest, timeout_s: float | None) -> bytes:
        """Answers Predict."""
        spec = _required_spec(request)
        with self._core.servable(spec) as servable:
            inputs = {alias: _decoded(alias, proto) for alias, proto in request.inputs.items()}
            outputs = servable.predict(spec.signature_name, inputs, list(request.output_filter), timeout_s=timeout_s)
            answered = _answering_spec(servable, spec, spec.signature_name or DEFAULT_SIGNATURE)
            return self._predict_response(outputs, answered)

    def classify(self, request: pb.ClassificationRequest, timeout_s: float | None) -> bytes:
        """Answers Classify."""
        spec = _required_spec(request)
        with self._core.servable(spec) as servable:
            rows = servable.classify(spec.signature_name, _examples(request.input), timeout_s=timeout_s)
            answered = _answering_spec(servable, spec, spec.signature_name or DEFAULT_SIGNATURE)
        return pb.ClassificationResponse(result=_classification_result(rows), model_spec=answered).SerializeToString()

    def regress(self, request: pb.RegressionRequest, timeout_s: float | None) -> bytes:
        """Answers Regress."""
        spec = _required_spec(request)
        with self._core.servable(spec) as servable:
            values = servable.regress(spec.signature_name, _examples(request.input), timeout_s=timeout_s)
            answered = _answering_spec(servable, spec, spec.signature_name or DEFAULT_SIGNATURE)
        return pb.RegressionResponse(result=_regression_result(values), model_spec=answered).SerializeToString()

    def multi_inference(self, request: pb.MultiInferenceRequest, timeout_s: float | None) -> bytes:
        """Answers MultiInference, all tasks by one run."""
        name = _model_of(request.tasks)
        with self._core.servable(_spec(request.tasks[0].model_spec)) as servable:
            tasks = [InferenceTask(task.model_spec.signature_name, task.method_name) for task in request.tasks]
            answers = servable.infer(tasks, _examples(request.input), timeout_s=timeout_s)
            response = pb.MultiInferenceResponse()
            for task, answer in zip(tasks, answers, strict=True):
                result = response.results.add()
                if task.method == CLASSIFY_METHOD:
                    result.classification_result.CopyFrom(_classification_result(cast("Classification", answer)))
                else:
                    result.regression_result.CopyFrom(_regression_result(cast("Regression", answer)))
                result.model_spec.CopyFrom(
                    _answering_spec(servable, ModelSpec(name), task.signature_name or DEFAULT_SIGNATURE)
                )
            return response.SerializeToString()

    def get_model_metadata(self, request: pb.GetModelMetadataRequest, _timeout_s: float | None) -> bytes:
        """Answers GetModelMetadata."""
        spec = _required_spec(request)
        if not request.metadata_field:
            raise StatusError(Code.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != _SIGNATURE_DEF:
                # The "%s" is in TensorFlow Serving's answer.
                raise StatusError(Code.INVALID_ARGUMENT, f"Metadata field %s is not supported{name}")
        with self._core.servable(spec) as servable:
            response = pb.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            metadata = response.metadata[_SIGNATURE_DEF]
            metadata.type_url = _SIGNATURE_DEF_MAP_URL
            metadata.value = servable.signature_def_map
            return response.SerializeToString()

    def _predict_response(self, outputs: dict[str, Tensor], spec: pb.ModelSpec) -> bytes:
        """Serializes a PredictResponse; by hand, since a message would take each number through Python."""
        parts = [
            wire.length_delimited(
                1,
                wire.length_delimited(1, alias.encode()),
                wire.length_delimited(2, encode(array, as_content=self._as_content)),
            )
            for alias, array in outputs.items()
        ]
        parts.append(wire.length_delimited(2, spec.SerializeToString()))
        return b"".join(parts)


class _ModelService:
    def __init__(self, core: ServerCore, metrics: Metrics) -> None:
        self._core = core
        self._metrics = metrics

    def get_model_status(self, request: pb.GetModelStatusRequest, _timeout_s: float | None) -> bytes:
        spec = _required_spec(request)
        response = pb.GetModelStatusResponse()
        # A label is not looked at: all versions are reported, as by TensorFlow Serving.
        for report in self._core.model_status(spec.name, spec.version):
            status = response.model_version_status.add()
            status.version = report.version
            status.state = int(report.state)  # type: ignore[assignment]
            status.status.error_code = int(report.code)  # type: ignore[assignment]
            status.status.error_message = report.message
        return response.SerializeToString()

    def handle_reload_config_request(self, request: pb.ReloadConfigRequest, _timeout_s: float | None) -> bytes:
        if request.config.WhichOneof("config") != "model_config_list":
            raise StatusError(
                Code.INVALID_ARGUMENT,
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported",
            )
        before = {name: self._metrics.counter_value(name) for name in request.metric_names}
        try:
            models = models_from_proto(request.config) or ()
            _reloadable(self._core).reload_models(models)
        except StatusError as error:
            logger.error("ReloadConfig failed: %s", error.message)
            raise
        response = pb.ReloadConfigResponse()
        response.status.SetInParent()
        for name, value in before.items():
            response.metric.add(name=name, int64_value_increase=self._metrics.counter_value(name) - value)
        return response.SerializeToString()


def _reloadable(core: Any) -> Reloadable:
    reloadable: Reloadable = core
    return reloadable


def _required_spec(request: Any) -> ModelSpec:
    if not request.HasField("model_spec"):
        raise StatusError(Code.INVALID_ARGUMENT, "Missing ModelSpec")
    return _spec(request.model_spec)


def _spec(spec: pb.ModelSpec) -> ModelSpec:
    choice = spec.WhichOneof("version_choice")
    return ModelSpec(
        spec.name,
        spec.version.value if choice == "version" else None,
        spec.version_label if choice == "version_label" else None,
        spec.signature_name,
    )


def _answering_spec(servable: Servable, asked: ModelSpec, signature_name: str) -> pb.ModelSpec:
    answered = pb.ModelSpec(name=asked.name, signature_name=signature_name)
    answered.version.value = servable.version
    return answered


def _decoded(alias: str, proto: Any) -> Tensor:
    try:
        return decode(proto)
    except TensorProtoError as error:
        logger.debug("input %s: %s", alias, error)
        raise StatusError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}") from error


def _examples(source: pb.Input) -> list[bytes]:
    """Serialized tf.Examples; a shared context is put before each, which merges the two messages."""
    match source.WhichOneof("kind"):
        case "example_list":
            return [example.SerializeToString() for example in source.example_list.examples]
        case "example_list_with_context":
            context = source.example_list_with_context.context.SerializeToString()
            return [context + example.SerializeToString() for example in source.example_list_with_context.examples]
        case _:
            return []


def _classification_result(rows: list[list[tuple[str, float]]]) -> pb.ClassificationResult:
    result = pb.ClassificationResult()
    for row in rows:
        classes = result.classifications.add().classes
        for label, score in row:
            classes.add(label=label, score=score)
    return result


def _regression_result(values: list[float]) -> pb.RegressionResult:
    result = pb.RegressionResult()
    for value in values:
        result.regressions.add(value=value)
    return result


def _first_model(request: pb.MultiInferenceRequest) -> str:
    return request.tasks[0].model_spec.name if request.tasks else ""


def _model_of(tasks: Sequence[pb.InferenceTask]) -> str:
    """The one model that all tasks name (tensorflow_serving/servables/tensorflow/multi_inference.cc)."""
    if not tasks:
        raise _invalid("Inference request must have at least one task.")
    names = [task.model_spec.name for task in tasks]
    if "" in names:
        raise _invalid("Found ModelSpec with an empty model name.")
    if len(set(names)) > 1:
        raise _invalid("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    return names[0]


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)
