"""Prediction calls as clients make them: TensorFlow Serving's REST predict, and the same over gRPC.

The two give equal answers to one request: the gRPC side turns row and column requests into tensors, and tensors into
JSON, as the server's REST side does (tensorflow_serving/util/json_tensor.cc).
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from deployctl.domain.printable import printable
from deployctl.domain.saved_model import DEFAULT_SIGNATURE, Signature
from deployctl.errors import (
    DeployctlError,
    InvalidRequestError,
    NotFoundError,
    ServerError,
    ServerRefusedError,
    ServerUnavailableError,
)
from deployctl.serving.interface import Prediction, PredictionRequest, ServedSpec

if TYPE_CHECKING:
    from deployctl.protos import tensor_pb2
    from deployctl.serving.model_service import ModelService

# What TensorFlow Serving's REST side answers with 400 (http_server.cc, ToHTTPStatusCode).
_MALFORMED = frozenset({"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"})


def predict_by_rest(endpoint: str, request: PredictionRequest, *, timeout_s: float) -> Prediction:
    """Returns what the server at `endpoint` ("http://HOST:PORT") answers; no proxy is ever asked.

    Raises:
        InvalidRequestError: the server refused the request as malformed.
        NotFoundError: the server has no such model, version or label.
        ServerUnavailableError: nothing answered in time.
        ServerError: any other failure; all with the server's own words.
    """
    status, body = _post(endpoint, _path(request.spec), _rest_body(request), timeout_s=timeout_s)
    if status != http.HTTPStatus.OK:
        raise _rest_error(endpoint, status, body)
    answer = _json(endpoint, body)
    key = "predictions" if request.instances is not None else "outputs"
    if not isinstance(answer, dict) or key not in answer:
        raise ServerError(f"the model server at {endpoint} answered without {key!r}")
    return Prediction(None, answer[key])


def predict_by_grpc(service: ModelService, request: PredictionRequest, *, timeout_s: float) -> Prediction:
    """Returns what `service` answers, in the JSON values that the REST side would give; errors as `predict_by_rest`.

    The signature comes from the server, in a call of its own; both calls have the deadline.
    """
    _check_one_form(request)
    try:
        _, signatures = service.get_model_metadata(request.spec, timeout_s=timeout_s)
        signature = _signature(signatures, request.signature)
        inputs = request_tensors(signature, request)
        version, outputs = service.predict(request.spec, request.signature, inputs, timeout_s=timeout_s)
    except ServerRefusedError as error:
        raise request_error(error) from error
    if request.instances is not None:
        return Prediction(version, _rows(outputs))
    return Prediction(version, _columns(outputs))


def request_error(error: ServerRefusedError) -> DeployctlError:
    """Returns what `error` says of a call to a servable: malformed, not there, or else `error` itself."""
    if error.code in _MALFORMED:
        return InvalidRequestError(f"the model server refused the request: {error.words}")
    if error.code == "NOT_FOUND":
        return NotFoundError(f"the model server has nothing to answer with: {error.words}")
    return error


def _check_one_form(request: PredictionRequest) -> None:
    if (request.instances is None) == (request.inputs is None):
        raise InvalidRequestError("a prediction takes exactly one of instances (rows) and inputs (columns)")


def _path(spec: ServedSpec) -> str:
    path = f"/v1/models/{quote(spec.model, safe='')}"
    if spec.version is not None:
        path += f"/versions/{spec.version}"
    elif spec.label is not None:
        path += f"/labels/{quote(spec.label, safe='')}"
    return f"{path}:predict"


def _rest_body(request: PredictionRequest) -> bytes:
    _check_one_form(request)
    document: dict[str, Any] = {}
    if request.signature:
        document["signature_name"] = request.signature
    if request.instances is not None:
        document["instances"] = request.instances
    else:
        document["inputs"] = request.inputs
    try:
        return json.dumps(document).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the request cannot be written as JSON: {error}") from error


def get_page(endpoint: str, path: str, *, timeout_s: float) -> str:
    """Returns what the server at `endpoint` shows at `path`; errors as `predict_by_rest`."""
    status, body = _call(endpoint, "GET", path, None, timeout_s=timeout_s)
    if status != http.HTTPStatus.OK:
        raise ServerRefusedError(endpoint, f"HTTP {status}", f"there is no page {path}")
    return body.decode(errors="replace")


def _post(endpoint: str, path: str, body: bytes, *, timeout_s: float) -> tuple[int, bytes]:
    return _call(endpoint, "POST", path, body, timeout_s=timeout_s)


def _call(endpoint: str, method: str, path: str, body: bytes | None, *, timeout_s: float) -> tuple[int, bytes]:
    url = urlsplit(endpoint)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    # A timeout of 0 would mean a socket that never waits.
    connection = kind(url.hostname or "", url.port, timeout=max(timeout_s, 0.001))
    try:
        connection.request(method, url.path.rstrip("/") + path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    except TimeoutError as error:
        raise ServerUnavailableError(f"the model server at {endpoint} did not answer within {timeout_s:g} s") from error
    except OSError as error:
        raise ServerUnavailableError(f"nothing answers at {endpoint}: {error}") from error
    except http.client.HTTPException as error:
        words = printable(str(error).strip())
        raise ServerUnavailableError(f"what listens at {endpoint} does not speak HTTP: {words}") from error
    finally:
        connection.close()


def _rest_error(endpoint: str, status: int, body: bytes) -> DeployctlError:
    try:
        words = printable(str(json.loads(body)["error"]), keep="\n")
    except (ValueError, KeyError, TypeError):
        words = printable(body.decode(errors="replace").strip()[:500], keep="\n") or f"HTTP status {status}"
    if status == http.HTTPStatus.BAD_REQUEST:
        return InvalidRequestError(f"the model server refused the request: {words}")
    if status == http.HTTPStatus.NOT_FOUND:
        return NotFoundError(f"the model server has nothing to answer with: {words}")
    return ServerRefusedError(endpoint, f"HTTP {status}", words)


def _json(endpoint: str, body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise ServerError(f"the model server at {endpoint} answered with what is no JSON: {error}") from error


def _signature(signatures: Mapping[str, Signature], name: str) -> Signature:
    wanted = name or DEFAULT_SIGNATURE
    if wanted not in signatures:
        known = ", ".join(key for key in signatures if not key.startswith("__"))
        raise InvalidRequestError(f"the model has no signature {wanted!r}, only {known or 'none'}")
    return signatures[wanted]


def request_tensors(signature: Signature, request: PredictionRequest) -> dict[str, tensor_pb2.TensorProto]:
    """Returns the tensors of a row or column request by input.

    Raises:
        InvalidRequestError: the request does not fit the signature.
    """
    from deployctl.serving.tensors import to_tensor

    columns = (
        _columns_of_rows(signature, request.instances)
        if request.instances is not None
        else _named(signature, request.inputs)
    )
    return {name: to_tensor(name, signature.inputs[name].dtype, value) for name, value in columns.items()}


def _columns_of_rows(signature: Signature, instances: list[Any]) -> dict[str, Any]:
    if len({_names_inputs(instance) for instance in instances}) > 1:
        raise InvalidRequestError("some instances name their inputs and others do not")
    rows = [_named(signature, instance) for instance in instances]
    names = rows[0].keys() if rows else signature.inputs.keys()
    if any(row.keys() != names for row in rows):
        raise InvalidRequestError("the instances do not all give the same inputs")
    return {name: [row[name] for row in rows] for name in names}


def _named(signature: Signature, value: Any) -> dict[str, Any]:
    """Returns `value` by input name; the one input of a signature may stand without its name."""
    if _names_inputs(value):
        given, wanted = value.keys(), signature.inputs.keys()
        if given - wanted or wanted - given - signature.optional_inputs:
            raise InvalidRequestError(
                f"the signature takes {', '.join(wanted)}, but the request gives {', '.join(given) or 'nothing'}"
            )
        return dict(value)
    if len(signature.inputs) != 1:
        raise InvalidRequestError(f"name the inputs: the signature takes {', '.join(signature.inputs)}")
    return {next(iter(signature.inputs)): value}


def _names_inputs(value: Any) -> bool:
    from deployctl.serving.tensors import is_bytes_object

    return isinstance(value, dict) and not is_bytes_object(value)


def _rows(outputs: Mapping[str, tensor_pb2.TensorProto]) -> list[Any]:
    from deployctl.serving.tensors import from_tensor, shape_of

    counts = {shape_of(tensor)[:1] for tensor in outputs.values()}
    if len(counts) != 1 or () in counts:
        raise InvalidRequestError(
            "the outputs do not have one row for each instance: ask with inputs (columns) instead"
        )
    columns = {name: from_tensor(name, tensor) for name, tensor in sorted(outputs.items())}
    if len(columns) == 1:
        rows: list[Any] = next(iter(columns.values()))
        return rows
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _columns(outputs: Mapping[str, tensor_pb2.TensorProto]) -> Any:
    from deployctl.serving.tensors import from_tensor

    columns = {name: from_tensor(name, tensor) for name, tensor in sorted(outputs.items())}
    return next(iter(columns.values())) if len(columns) == 1 else columns
