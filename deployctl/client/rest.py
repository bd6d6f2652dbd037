"""Predictions by REST (https://www.tensorflow.org/tfx/serving/api_rest), over connections that are kept."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import queue
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np

from deployctl.client.call import Array, Call, Transport, Types
from deployctl.client.deadline import TimelyResponse, left
from deployctl.client.errors import (
    BadRequestError,
    DeadlineError,
    NotServedError,
    PredictionError,
    UnavailableError,
)
from deployctl.client.json_outputs import named_arrays
from deployctl.client.types import NUMPY_NAMES
from deployctl.client.values import UnfitError, as_array, as_exact, as_texts

_OVERLOADED = (429, 502, 503, 504)
# How long the types of another version may be taken for those that are served, where the numbers do not tell.
_TYPES_LAST_S = 1.0
# Bytes; JSON's numbers are doubles or integers of 64 bits.
_LONGEST_NUMBER = 8


class RestTransport(Transport):
    """Carries calls as JSON, in TensorFlow Serving's column format.

    JSON says nothing of types, so that each signature's are asked for; a prediction does not say which version
    answered, so that those of whatever is served are asked for again after a while, or where an answer has others.

    Args:
        clock: seconds, as `time.monotonic` gives them; for the age of types alone.
    """

    def __init__(
        self, host: str, port: int | None, *, secure: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._place = (host, port)
        self._connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._idle: queue.SimpleQueue[http.client.HTTPConnection] = queue.SimpleQueue()
        self._types: dict[tuple[Any, ...], tuple[Types, float]] = {}
        self._clock = clock

    def predict(self, call: Call, *, timeout_s: float) -> dict[str, Array]:
        """Returns the outputs by name."""
        deadline = time.monotonic() + timeout_s
        body: dict[str, Any] = {"inputs": _inputs(call)}
        if call.signature:
            body["signature_name"] = call.signature
        answer = self._ask("POST", f"{_path(call)}:predict", _json(body), deadline)
        found = self._outputs(call, answer.get("outputs"), deadline)
        missing = [name for name in call.outputs if name not in found]
        if missing:
            raise BadRequestError(f"{call.model} has no output {missing[0]!r}, only {', '.join(found)}")
        return {name: found[name] for name in call.outputs or found}

    def _outputs(self, call: Call, values: Any, deadline: float) -> dict[str, Array]:
        try:
            return named_arrays(values, self._types_of(call, deadline).outputs)
        except UnfitError:
            # Another version, with other outputs, is served by now.
            self._types.pop(call.servable, None)
        try:
            return named_arrays(values, self._types_of(call, deadline).outputs)
        except UnfitError as error:
            raise UnavailableError(f"an output is not as its signature says, it may be changing: {error}") from error

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

    def _types_of(self, call: Call, deadline: float) -> Types:
        types, since = self._types.get(call.servable, (None, 0.0))
        now = self._clock()
        if types is None or (not call.is_pinned and now - since >= _TYPES_LAST_S):
            document = self._ask("GET", f"{_path(call)}/metadata", None, deadline)
            key = call.signature or "serving_default"
            try:
                signature = document["metadata"]["signature_def"]["signature_def"][key]
                sides = (
                    {name: _type(info) for name, info in signature[side].items()} for side in ("inputs", "outputs")
                )
                types = Types(*sides)
            except (KeyError, TypeError, AttributeError) as error:
                raise PredictionError(f"the server's metadata of {call.model} tells of no signature {key!r}") from error
            self._types[call.servable] = (types, now)
        return types

    def _ask(self, method: str, path: str, body: bytes | None, deadline: float) -> Any:
        status, content = self._sent(method, path, body, deadline)
        if status == http.HTTPStatus.OK:
            try:
                return json.loads(content)
            except ValueError as error:
                raise PredictionError(f"the server's answer is no JSON: {error}") from error
        raise _error(status, content)

    def _sent(self, method: str, path: str, body: bytes | None, deadline: float) -> tuple[int, bytes]:
        host, port = self._place
        timeout_s = deadline - time.monotonic()
        while True:
            try:
                connection, kept = self._idle.get_nowait(), True
            except queue.Empty:
                connection, kept = self._connect(host, port), False
            try:
                found = _exchanged(connection, method, path, body, deadline)
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


def _exchanged(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, deadline: float
) -> tuple[int, bytes]:
    connection.timeout = left(deadline)
    if connection.sock is not None:
        connection.sock.settimeout(connection.timeout)
    connection.response_class = partial(TimelyResponse, deadline=deadline)  # type: ignore[assignment]
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    response = connection.getresponse()
    return response.status, response.read()


def _path(call: Call) -> str:
    path = f"/v1/models/{quote(call.model, safe='')}"
    if call.version is not None:
        return f"{path}/versions/{call.version}"
    return f"{path}/labels/{quote(call.label, safe='')}" if call.label is not None else path


def _inputs(call: Call) -> Any:
    if not isinstance(call.inputs, Mapping):
        return _plain("the input", call.inputs)
    return {name: _plain(f"the input {name!r}", value) for name, value in call.inputs.items()}


def _plain(name: str, value: Any) -> Any:
    try:
        array = as_array(value)
        if array.dtype.kind in "OSU":
            flat = np.empty(array.size, dtype=object)
            flat[:] = [_string(item) for item in as_texts(array)]
            return flat.reshape(array.shape).tolist()
    except UnfitError as error:
        raise BadRequestError(f"{name} {error}") from error
    if array.dtype.kind not in "fiub" or array.dtype.itemsize > _LONGEST_NUMBER:
        raise BadRequestError(f"JSON has no {array.dtype}: use gRPC")
    if array.dtype in (np.float32, np.float16):
        # The shortest decimal number of each, in place of the long one of the same double.
        return array.astype(str).astype(np.float64).tolist() if array.size < _SHORTEN else array.tolist()
    return as_exact(value, array).tolist()


# Shortening takes a microsecond a number; beyond this, sending longer text is quicker.
_SHORTEN = 4096


def _string(item: str | bytes) -> Any:
    return {"b64": base64.b64encode(item).decode()} if isinstance(item, bytes) else str(item)


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _type(info: Mapping[str, Any]) -> str:
    return NUMPY_NAMES.get(str(info.get("dtype", "")), "")


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
