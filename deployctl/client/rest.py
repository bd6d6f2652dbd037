"""Predictions by REST (https://www.tensorflow.org/tfx/serving/api_rest), over connections that are kept."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import queue
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from deployctl.client.call import Array, Call, Transport, Types
from deployctl.client.errors import (
    BadRequestError,
    DeadlineError,
    NotServedError,
    PredictionError,
    UnavailableError,
)
from deployctl.client.types import NUMPY_NAMES

_OVERLOADED = (429, 502, 503, 504)


class RestTransport(Transport):
    """Carries calls as JSON, in TensorFlow Serving's column format.

    JSON says nothing of types, so that each signature's are asked for once.
    """

    def __init__(self, host: str, port: int | None, *, secure: bool) -> None:
        self._place = (host, port)
        self._connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._idle: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()
        self._types: dict[tuple[Any, ...], Types] = {}

    def predict(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Returns the outputs by name."""
        body: dict[str, Any] = {"inputs": _inputs(call)}
        if call.signature:
            body["signature_name"] = call.signature
        answer = self._ask("POST", f"{_path(call)}:predict", _json(body), timeout_s)
        types = self._types_of(call, timeout_s).outputs
        values = answer.get("outputs")
        # A single output comes without its name.
        bare = not isinstance(values, dict) or set(values) == {"b64"}
        named = {next(iter(types), "outputs"): values} if bare else values
        if not set(named) <= set(types):
            # Another version, with other outputs, answers under this label by now.
            del self._types[call.servable]
            types = self._types_of(call, timeout_s).outputs
        found = {name: _array(value, types.get(name)) for name, value in named.items()}
        missing = [name for name in call.outputs if name not in found]
        if missing:
            raise BadRequestError(f"{call.model} has no output {missing[0]!r}, only {', '.join(found)}")
        return {name: found[name] for name in call.outputs or found}

    async def predict_async(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Does what `predict` does, in a thread."""
        return await asyncio.to_thread(self.predict, call, timeout_s=timeout_s)

    def close(self) -> None:
        """Closes the idle connections."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return

    def _types_of(self, call: Call, timeout_s: float) -> Types:
        if call.servable not in self._types:
            document = self._ask("GET", f"{_path(call)}/metadata", None, timeout_s)
            signatures = document["metadata"]["signature_def"]["signature_def"]
            signature = signatures[call.signature or "serving_default"]
            sides = ({name: _type(info) for name, info in signature[side].items()} for side in ("inputs", "outputs"))
            self._types[call.servable] = Types(*sides)
        return self._types[call.servable]

    def _ask(self, method: str, path: str, body: bytes | None, timeout_s: float) -> Any:
        status, content = self._sent(method, path, body, timeout_s)
        if status == http.HTTPStatus.OK:
            try:
                return json.loads(content)
            except ValueError as error:
                raise PredictionError(f"the server's answer is no JSON: {error}") from error
        raise _error(status, content)

    def _sent(self, method: str, path: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
        host, port = self._place
        while True:
            try:
                connection, kept = self._idle.get_nowait(), True
            except queue.Empty:
                connection, kept = self._connect(host, port), False
            connection.timeout = max(timeout_s, 0.001)
            if connection.sock is not None:
                connection.sock.settimeout(connection.timeout)
            try:
                connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
                response = connection.getresponse()
                found = response.status, response.read()
            except TimeoutError as error:
                connection.close()
                raise DeadlineError(f"{host}:{port} did not answer within {timeout_s:.3g} s") from error
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                if kept:
                    # The server closed it while it was idle; the others may be closed too.
                    continue
                raise UnavailableError(f"{host}:{port} does not answer: {error}") from error
            self._idle.put(connection)
            return found


def _path(call: Call) -> str:
    path = f"/v1/models/{quote(call.model, safe='')}"
    if call.version is not None:
        return f"{path}/versions/{call.version}"
    return f"{path}/labels/{quote(call.label, safe='')}" if call.label is not None else path


def _inputs(call: Call) -> Any:
    if isinstance(call.inputs, Mapping):
        return {name: _plain(np.asarray(value)) for name, value in call.inputs.items()}
    return _plain(np.asarray(call.inputs))


def _plain(array: Array) -> Any:
    if array.dtype.kind in "OSU":
        flat = np.empty(array.size, dtype=object)
        flat[:] = [_string(item) for item in array.ravel().tolist()]
        return flat.reshape(array.shape).tolist()
    if array.dtype.kind not in "fiub":
        raise BadRequestError(f"JSON has no {array.dtype}: use gRPC")
    if array.dtype in (np.float32, np.float16):
        # The shortest decimal number of each, in place of the long one of the same double.
        return array.astype(str).astype(np.float64).tolist() if array.size < _SHORTEN else array.tolist()
    return array.tolist()


# Shortening takes a microsecond a number; beyond this, sending longer text is quicker.
_SHORTEN = 4096


def _string(item: Any) -> Any:
    return {"b64": base64.b64encode(item).decode()} if isinstance(item, bytes) else str(item)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _type(info: Mapping[str, Any]) -> str:
    return NUMPY_NAMES.get(str(info.get("dtype", "")), "")


def _array(value: Any, dtype: str | None) -> Array:
    if dtype == "object":
        return _strings(value)
    return np.asarray(value, dtype=dtype or None)


def _strings(value: Any) -> Array:
    shape: list[int] = []
    inner = value
    while isinstance(inner, list):
        shape.append(len(inner))
        if not inner:
            break
        inner = inner[0]
    flat = np.empty(int(np.prod(shape)), dtype=object)
    flat[:] = [_bytes(item) for item in _leaves(value)]
    return flat.reshape(shape)


def _leaves(value: Any) -> list[Any]:
    return [leaf for each in value for leaf in _leaves(each)] if isinstance(value, list) else [value]


def _bytes(item: Any) -> bytes:
    return base64.b64decode(item["b64"]) if isinstance(item, dict) else str(item).encode()


def _error(status: int, content: bytes) -> PredictionError:
    try:
        words = str(json.loads(content)["error"])
    except (ValueError, KeyError, TypeError):
        words = content.decode(errors="replace").strip()[:500] or f"HTTP status {status}"
    if status == http.HTTPStatus.BAD_REQUEST:
        return BadRequestError(words)
    if status == http.HTTPStatus.NOT_FOUND:
        return NotServedError(words)
    return UnavailableError(words) if status in _OVERLOADED else PredictionError(words)
