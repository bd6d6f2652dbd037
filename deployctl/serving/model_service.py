"""TensorFlow Serving's gRPC calls, with values in place of messages and this program's errors in place of gRPC's.

The paths are tensorflow_serving/apis/model_service.proto and prediction_service.proto's; the messages are this
program's wire-compatible ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import grpc

from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.saved_model import Signature, TensorSpec
from deployctl.domain.serving import ServingConfig, VersionState, VersionStatus
from deployctl.errors import ServerError, ServerRefusedError, ServerTimedOutError, ServerUnavailableError, StorageError
from deployctl.protos import saved_model_pb2, serving_pb2, tensor_pb2
from deployctl.serving.config import to_proto
from deployctl.serving.interface import ServedSpec

_MODEL_SERVICE = "/tensorflow.serving.ModelService"
_PREDICTION_SERVICE = "/tensorflow.serving.PredictionService"
_SIGNATURES_FIELD = "signature_def"
# TensorFlow's own names (tf.DType.name) where they are not the enum's in lower case.
_DTYPE_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}
_CHANNEL_OPTIONS = (
    # A proxy of the environment must never be asked for an address that an operator has configured.
    ("grpc.enable_http_proxy", 0),
    # Tensors are large; the server has its own limits.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that is just coming up is found within a tenth of a second rather than in gRPC's second.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
)
# The server gave no answer of its own.
_UNAVAILABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})

Request = TypeVar("Request", contravariant=True)
Response = TypeVar("Response", covariant=True)


class _Call(Protocol[Request, Response]):
    """One unary call of a channel."""

    def __call__(self, request: Request, *, timeout: float) -> Response: ...


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """What a connection with TLS needs, each in PEM; None for the system's authorities, or for no certificate."""

    authorities: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Returns the files' content.

        Raises:
            StorageError: one of them cannot be read.
        """
        try:
            content = [path.read_bytes() if path else None for path in (self.authorities, self.key, self.certificate)]
        except OSError as error:
            raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
        return grpc.ssl_channel_credentials(*content)


class ModelService:
    """A connection to one TensorFlow Serving; may be used from several threads, and is closed as a context manager.

    Every method raises ServerUnavailableError where nothing answers within `timeout_s` seconds, and
    ServerRefusedError with the server's code and words where it refuses.
    """

    def __init__(self, address: str, *, tls: TlsFiles | None = None) -> None:
        """Makes the connection's object; it connects at the first call.

        Args:
            address: "HOST:PORT" of the gRPC port.
            tls: None for a connection without TLS.
        """
        self._address = address
        if tls is None:
            self._channel = grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, tls.credentials(), options=_CHANNEL_OPTIONS)
        self._get_model_status = self._call(
            f"{_MODEL_SERVICE}/GetModelStatus",
            serving_pb2.GetModelStatusRequest.SerializeToString,
            serving_pb2.GetModelStatusResponse.FromString,
        )
        self._handle_reload_config = self._call(
            f"{_MODEL_SERVICE}/HandleReloadConfigRequest",
            serving_pb2.ReloadConfigRequest.SerializeToString,
            serving_pb2.ReloadConfigResponse.FromString,
        )
        self._get_model_metadata = self._call(
            f"{_PREDICTION_SERVICE}/GetModelMetadata",
            serving_pb2.GetModelMetadataRequest.SerializeToString,
            serving_pb2.GetModelMetadataResponse.FromString,
        )
        self._predict = self._call(
            f"{_PREDICTION_SERVICE}/Predict",
            serving_pb2.PredictRequest.SerializeToString,
            serving_pb2.PredictResponse.FromString,
        )

    def __enter__(self) -> ModelService:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls in flight fail."""
        self._channel.close()

    def answers(self, *, timeout_s: float) -> bool:
        """Whether a TensorFlow Serving answers, whatever it serves."""
        try:
            self.get_model_status(ModelName("-"), timeout_s=timeout_s)
        except ServerRefusedError as error:
            # Something else that speaks gRPC has no such method.
            return error.code != "UNIMPLEMENTED"
        except ServerUnavailableError:
            return False
        return True

    def get_model_status(self, model: ModelName, *, timeout_s: float) -> tuple[VersionStatus, ...]:
        """Returns every version of `model` that the server has seen since its start, descending; () if none."""
        request = serving_pb2.GetModelStatusRequest(model_spec=serving_pb2.ModelSpec(name=model))
        try:
            with server_errors(self._address, timeout_s=timeout_s):
                response = self._get_model_status(request, timeout=timeout_s)
        except ServerRefusedError as error:
            # A configured model has no version yet, or the server does not know the name: it says the same of both.
            if error.code == "NOT_FOUND":
                return ()
            raise
        statuses = (_version_status(status) for status in response.model_version_status)
        return tuple(sorted(statuses, key=lambda status: status.version, reverse=True))

    def handle_reload_config(self, config: ServingConfig, *, timeout_s: float) -> None:
        """Replaces all that the server serves; returning means that it will, not that it does.

        The server answers only when every model name that is new to it has loaded or failed, and a passed
        deadline does not end its own waiting: later reloads wait too (tensorflow/serving#1447).
        """
        request = serving_pb2.ReloadConfigRequest(config=to_proto(config))
        with server_errors(self._address, timeout_s=timeout_s):
            response = self._handle_reload_config(request, timeout=timeout_s)
        if response.status.error_code:
            code = serving_pb2.Code.Name(response.status.error_code)
            raise ServerRefusedError(self._address, code, " ".join(response.status.error_message.split()))

    def get_model_metadata(
        self, spec: ServedSpec, *, timeout_s: float
    ) -> tuple[VersionNumber, Mapping[str, Signature]]:
        """Returns the version that answers a call to `spec`, and its signatures in name order."""
        request = serving_pb2.GetModelMetadataRequest(model_spec=model_spec(spec), metadata_field=[_SIGNATURES_FIELD])
        with server_errors(self._address, timeout_s=timeout_s):
            response = self._get_model_metadata(request, timeout=timeout_s)
        # Not Any.Unpack: it compares the type's name, which is TensorFlow Serving's here.
        signatures = serving_pb2.SignatureDefMap.FromString(response.metadata[_SIGNATURES_FIELD].value)
        return (
            VersionNumber(response.model_spec.version.value),
            {name: _signature(definition) for name, definition in sorted(signatures.signature_def.items())},
        )

    def predict(
        self, spec: ServedSpec, signature: str, inputs: Mapping[str, tensor_pb2.TensorProto], *, timeout_s: float
    ) -> tuple[VersionNumber, dict[str, tensor_pb2.TensorProto]]:
        """Returns the version that answered, and its outputs by name."""
        request = serving_pb2.PredictRequest(model_spec=model_spec(spec, signature), inputs=inputs)
        with server_errors(self._address, timeout_s=timeout_s):
            response = self._predict(request, timeout=timeout_s)
        return VersionNumber(response.model_spec.version.value), dict(response.outputs)

    def _call(
        self, path: str, serialize: Callable[[Request], bytes], deserialize: Callable[[bytes], Response]
    ) -> _Call[Request, Response]:
        call: _Call[Request, Response] = self._channel.unary_unary(path, serialize, deserialize)
        return call


@contextmanager
def server_errors(address: str, *, timeout_s: float) -> Iterator[None]:
    """Raises this program's errors in place of those that a gRPC call to `address` raises."""
    try:
        yield
    except grpc.RpcError as error:
        raise _translated(address, error, timeout_s=timeout_s) from error
    except ValueError as error:
        # "Cannot invoke RPC on closed channel!": another thread has stopped the server.
        raise ServerUnavailableError(f"the connection to {address} is closed") from error


def model_spec(spec: ServedSpec, signature: str = "") -> serving_pb2.ModelSpec:
    """Returns the message for `spec`; without version or label it means the highest loaded version."""
    message = serving_pb2.ModelSpec(name=spec.model, signature_name=signature)
    if spec.version is not None:
        message.version.value = spec.version
    elif spec.label is not None:
        message.version_label = spec.label
    return message


def dtype_name(dtype: int) -> str:
    """Returns TensorFlow's name (`tf.DType.name`) for a value of the DataType enum, even one unknown here."""
    if dtype not in tensor_pb2.DataType.values():
        return f"dtype {dtype}"
    name = tensor_pb2.DataType.Name(dtype)
    return _DTYPE_NAMES.get(name, name.removeprefix("DT_").lower())


def _translated(address: str, error: grpc.RpcError, *, timeout_s: float) -> ServerError:
    # Every error that a unary call raises is a grpc.Call too.
    code: grpc.StatusCode = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    words = " ".join(((error.details() if isinstance(error, grpc.Call) else None) or str(code.name)).split())
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerTimedOutError(f"the model server at {address} did not answer within {timeout_s:g} s")
    if code in _UNAVAILABLE:
        return ServerUnavailableError(f"nothing answers at {address}: {words}")
    return ServerRefusedError(address, code.name, words)


def _version_status(status: serving_pb2.ModelVersionStatus) -> VersionStatus:
    state = int(status.state)
    # TensorFlow's messages may have several lines; every report of ours is one.
    error = " ".join(status.status.error_message.split())
    if status.status.error_code and not error:
        error = serving_pb2.Code.Name(status.status.error_code)
    known = state in VersionState.__members__.values()
    return VersionStatus(VersionNumber(status.version), VersionState(state if known else 0), error)


def _signature(definition: saved_model_pb2.SignatureDef) -> Signature:
    return Signature(
        definition.method_name,
        {name: _tensor_spec(info) for name, info in sorted(definition.inputs.items())},
        {name: _tensor_spec(info) for name, info in sorted(definition.outputs.items())},
        frozenset(definition.defaults),
    )


def _tensor_spec(info: saved_model_pb2.TensorInfo) -> TensorSpec:
    shape = info.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if axis.size < 0 else axis.size for axis in shape.dim)
    return TensorSpec(dtype_name(info.dtype), sizes, info.name)
