"""Predictions by gRPC (tensorflow_serving/apis/prediction_service.proto)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np

from deployctl.client.call import Array, Call, Transport, Types
from deployctl.client.deadline import left
from deployctl.client.errors import (
    BadRequestError,
    DeadlineError,
    NotServedError,
    PredictionError,
    UnavailableError,
)
from deployctl.client.types import NUMPY_NAMES, from_tensor, to_tensor
from deployctl.client.values import UnfitError, as_array, cast

if TYPE_CHECKING:
    from deployctl.protos import serving_pb2, tensor_pb2

_SERVICE = "/tensorflow.serving.PredictionService"
# Images and word vectors are larger than gRPC's 4 MB.
_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
_MALFORMED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE)
_OVERLOADED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class GrpcTransport(Transport):
    """Carries calls over one channel."""

    def __init__(self, address: str, *, secure: bool) -> None:
        from deployctl.protos import serving_pb2

        self._channel = (
            grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)
            if secure
            else grpc.insecure_channel(address, options=_OPTIONS)
        )
        self._address = address
        self._predict = self._channel.unary_unary(
            f"{_SERVICE}/Predict",
            request_serializer=serving_pb2.PredictRequest.SerializeToString,
            response_deserializer=serving_pb2.PredictResponse.FromString,
        )
        self._metadata = self._channel.unary_unary(
            f"{_SERVICE}/GetModelMetadata",
            request_serializer=serving_pb2.GetModelMetadataRequest.SerializeToString,
            response_deserializer=serving_pb2.GetModelMetadataResponse.FromString,
        )
        self._types: dict[tuple[Any, ...], Types] = {}
        self._lock = threading.Lock()

    def predict(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Returns the outputs by name."""
        deadline = time.monotonic() + timeout_s
        try:
            return self._predicted(call, deadline)
        except BadRequestError:
            if not self._types_changed(call, deadline):
                raise
            return self._predicted(call, deadline)

    async def predict_async(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Does what `predict` does; gRPC's own threads wait for the answer."""
        deadline = time.monotonic() + timeout_s
        try:
            return await self._predicted_async(call, deadline)
        except BadRequestError:
            if not await asyncio.to_thread(self._types_changed, call, deadline):
                raise
            return await self._predicted_async(call, deadline)

    def _predicted(self, call: Call, deadline: float) -> dict[str, Array]:
        request = self._request(call, deadline)
        with self._errors(deadline):
            return _outputs(self._predict(request, timeout=left(deadline)))

    async def _predicted_async(self, call: Call, deadline: float) -> dict[str, Array]:
        loop = asyncio.get_running_loop()
        if isinstance(call.inputs, Mapping):
            request = self._request(call, deadline)
        else:
            # Its input's name may have to be asked for.
            request = await asyncio.to_thread(self._request, call, deadline)
        done = loop.create_future()

        def wake() -> None:
            if not done.done():
                done.set_result(None)

        def tell(_: Any) -> None:
            loop.call_soon_threadsafe(wake)

        with self._errors(deadline):
            under_way = self._predict.future(request, timeout=left(deadline))
            under_way.add_done_callback(tell)
            try:
                await done
                return _outputs(under_way.result())
            except asyncio.CancelledError:
                under_way.cancel()
                raise

    def close(self) -> None:
        """Closes the channel."""
        self._channel.close()

    def _request(self, call: Call, deadline: float) -> serving_pb2.PredictRequest:
        from deployctl.protos import serving_pb2

        if isinstance(call.inputs, Mapping):
            named = dict(call.inputs)
            types: Mapping[str, str] = {}
        else:
            types = self._types_of(call, deadline).inputs
            if len(types) != 1:
                raise BadRequestError(f"name the inputs: the signature takes {', '.join(types)}")
            named = {next(iter(types)): call.inputs}
        request = serving_pb2.PredictRequest(model_spec=_spec(call), output_filter=call.outputs)
        for name, value in named.items():
            try:
                request.inputs[name].CopyFrom(_tensor(name, value, types.get(name)))
            except ValueError as error:
                # UnfitError, and protobuf's for a name that is no text.
                raise BadRequestError(f"the input {name!r} {error}") from error
        return request

    def _types_changed(self, call: Call, deadline: float) -> bool:
        """Whether what an unnamed input was sent as is not of the version that is served by now."""
        if call.is_pinned or isinstance(call.inputs, Mapping):
            return False
        with self._lock:
            before = self._types.pop(call.servable, None)
        return self._types_of(call, deadline) != before

    def _types_of(self, call: Call, deadline: float) -> Types:
        from deployctl.protos import saved_model_pb2, serving_pb2, tensor_pb2

        with self._lock:
            if call.servable in self._types:
                return self._types[call.servable]
            request = serving_pb2.GetModelMetadataRequest(model_spec=_spec(call), metadata_field=["signature_def"])
            with self._errors(deadline):
                answer = self._metadata(request, timeout=left(deadline))
            signatures = serving_pb2.SignatureDefMap.FromString(answer.metadata["signature_def"].value).signature_def
            key = call.signature or "serving_default"
            signature = signatures.get(key, saved_model_pb2.SignatureDef())
            sides = (
                {
                    name: NUMPY_NAMES.get(tensor_pb2.DataType.Name(info.dtype), "float32")
                    for name, info in sorted(side.items())
                }
                for side in (signature.inputs, signature.outputs)
            )
            self._types[call.servable] = Types(*sides)
            return self._types[call.servable]

    @contextmanager
    def _errors(self, deadline: float) -> Iterator[None]:
        """Raises a PredictionError in place of what gRPC raises."""
        timeout_s = deadline - time.monotonic()
        try:
            yield
        except grpc.RpcError as error:
            raise self._error(error, timeout_s) from error
        except TimeoutError as error:
            raise DeadlineError(f"{self._address} did not answer in time") from error
        except ValueError as error:
            # A call on a channel that is closed raises this.
            raise PredictionError(f"the call was not made: {error}") from error

    def _error(self, error: grpc.RpcError, timeout_s: float) -> PredictionError:
        code, words = error.code(), error.details() or ""
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineError(f"{self._address} did not answer within {timeout_s:.3g} s")
        if code is grpc.StatusCode.NOT_FOUND:
            return NotServedError(words)
        if code in _MALFORMED:
            return BadRequestError(words)
        if code in _OVERLOADED:
            return UnavailableError(f"{self._address} does not answer: {words}")
        return PredictionError(f"{code.name}: {words}")


def _spec(call: Call) -> serving_pb2.ModelSpec:
    from google.protobuf.wrappers_pb2 import Int64Value

    from deployctl.protos import serving_pb2

    spec = serving_pb2.ModelSpec(name=call.model, signature_name=call.signature)
    if call.version is not None:
        spec.version.CopyFrom(Int64Value(value=call.version))
    elif call.label is not None:
        spec.version_label = call.label
    return spec


def _tensor(name: str, value: Any, wanted: str | None) -> tensor_pb2.TensorProto:
    """`value` as the type `wanted`, or where that is None as its own; lists are float32 or int32, as in TensorFlow.

    Raises:
        UnfitError: that would change a value.
        BadRequestError: TensorFlow has no such type.
    """
    array = as_array(value)
    usual = {"f": "float32", "i": "int32"} if not isinstance(value, np.ndarray | np.generic) else {}
    dtype = wanted or usual.get(array.dtype.kind)
    if wanted == "object" and array.dtype.kind not in "OSU" and array.size:
        raise UnfitError(f"is string, and the value is {array.dtype}")
    if wanted == "object":
        return to_tensor(name, array.astype(object))
    if dtype is None:
        return to_tensor(name, array)
    return to_tensor(name, cast(value, dtype))


def _outputs(response: serving_pb2.PredictResponse) -> dict[str, Array]:
    return {name: from_tensor(name, tensor) for name, tensor in sorted(response.outputs.items())}
