"""REST requests to calls of the core, as upstream's http_rest_api_handler.cc and http_rest_api_util.cc route them.

Everything here is synchronous and knows nothing of sockets; `rest` runs it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote

from deployctl.domain.saved_model import DEFAULT_SIGNATURE
from deployctl.modelserver.interface import Code, ModelSpec, StatusError
from deployctl.modelserver.json_outputs import (
    classify_json,
    error_json,
    metadata_json,
    predict_json,
    regress_json,
    status_json,
)
from deployctl.modelserver.json_tensors import ExamplesRequest, PredictRequest
from deployctl.modelserver.json_walk import invalid
from deployctl.modelserver.metrics import UNKNOWN_MODEL

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping
    from concurrent.futures import Executor

    from deployctl.domain.saved_model import TensorSpec
    from deployctl.modelserver.interface import Servable, ServerCore, Tensor
    from deployctl.modelserver.metrics import Metrics

Header = tuple[bytes, bytes]

logger = logging.getLogger(__name__)

JSON_TYPE: Header = (b"content-type", b"application/json")
CORS_HEADERS: tuple[Header, ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)
HTTP_STATUS: Mapping[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_API_PATH = re.compile(r"(?i)/v1/.*")
_WHICH = r"(?:(?:/versions/([0-9]+))|(?:/labels/([^/:]+)))?"
_PREDICTION = re.compile(rf"(?i)/v1/models/([^/:]+){_WHICH}:(classify|regress|predict)")
_STATUS = re.compile(rf"(?i)/v1/models(?:/([^/:]+))?{_WHICH}(?:/(metadata))?")
_LARGEST_VERSION = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Route:
    """What a path asks for.

    Attributes:
        call: "classify", "regress", "predict", "status" or "metadata".
    """

    call: str
    spec: ModelSpec

    @property
    def api(self) -> str:
        """The method as the latency metric names it; "" for the reads."""
        return self.call if self.call in ("classify", "regress", "predict") else ""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response without its protocol parts."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (JSON_TYPE,)


def is_api_path(path: str) -> bool:
    """Whether the path belongs to the API; upstream leaves all others to libevent's own 404 page."""
    return _API_PATH.fullmatch(path) is not None


def html_reply(status: int, reason: str) -> Reply:
    """The error page that libevent sends by itself."""
    page = f"<HTML><HEAD>\n<TITLE>{status} {reason}</TITLE>\n</HEAD><BODY>\n<H1>{reason}</H1>\n</BODY></HTML>\n"
    return Reply(status, page.encode(), ((b"content-type", b"text/html"), (b"connection", b"close")))


def error_reply(code: Code, message: str) -> Reply:
    """An error in upstream's form."""
    return Reply(HTTP_STATUS[code], error_json(message))


def preflight_reply(origin: str) -> Reply:
    """The answer to OPTIONS when CORS is on."""
    if "http://" in origin or "https://" in origin:
        return Reply(200, b"", ())
    return error_reply(Code.FAILED_PRECONDITION, "Origin header is missing in CORS preflight")


def parse_route(method: str, path: str) -> Route:
    """Reads the path, its query included, as it stands in the request line.

    Letter case counts only where upstream compares words again: `:PREDICT` is no method and `/METADATA` means status.

    Raises:
        StatusError: INVALID_ARGUMENT, "Malformed request: ..." and such.
    """
    match = None
    if method == "POST":
        match = _PREDICTION.fullmatch(path)
    elif method == "GET":
        match = _STATUS.fullmatch(path)
    if not match:
        invalid(f"Malformed request: {method} {path}")
    name, version, label, last = match.groups()
    if version and (len(version.lstrip("0")) > 19 or int(version) > _LARGEST_VERSION):
        invalid(f"Failed to convert version: {version} to numeric.")
    spec = ModelSpec(_decoded(name or ""), int(version) if version else None, _decoded(label) if label else None)
    if method == "POST":
        if last not in ("classify", "regress", "predict"):
            invalid(f"Malformed request: {method} {path}")
        return Route(last, spec)
    if not spec.name:
        invalid("Missing model name in request.")
    return Route("metadata" if last == "metadata" else "status", spec)


def _decoded(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def uncompressed(body: bytes, *, limit: int) -> bytes:
    """Unpacks a gzip body of at most `limit` bytes.

    Raises:
        StatusError: INVALID_ARGUMENT when it is no gzip; upstream goes on with an empty body.
        OverflowError: it is longer than `limit`.
    """
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error as error:
        raise StatusError(Code.INVALID_ARGUMENT, "Failed to uncompress the gzipped body") from error
    if len(unpacked) > limit:
        raise OverflowError(limit)
    if not unpacker.eof:
        raise StatusError(Code.INVALID_ARGUMENT, "Failed to uncompress the gzipped body")
    return unpacked


class RestRoutes:
    """Answers requests from a core."""

    def __init__(self, core: ServerCore, metrics: Metrics, *, timeout_s: float | None) -> None:
        self._core = core
        self._metrics = metrics
        self._timeout_s = timeout_s

    def answer(self, route: Route, body: bytes) -> Reply:
        """Runs one request and counts it; every StatusError becomes a reply."""
        started = time.perf_counter()
        try:
            reply = Reply(200, self._run(route, body))
        except Exception as error:  # noqa: BLE001 - one request's fault must not end the connection without an answer
            return self._failed(route, error)
        self._succeeded(route, started)
        return reply

    async def predict_soon(self, route: Route, body: bytes, pool: Executor) -> tuple[Reply, float]:
        """Answers a predict request as `answer` does, and leaves the event loop to others while a batch runs.

        Calls that get into no batch run in `pool`. Also returns for how many seconds the event loop was busy.
        """
        started, busy = time.perf_counter(), _Busy()
        try:
            reply = Reply(200, await self._predict_soon(route.spec, body, pool, busy))
        except Exception as error:  # noqa: BLE001 - as in `answer`
            return self._failed(route, error), busy.seconds()
        self._succeeded(route, started)
        return reply, busy.seconds()

    def _succeeded(self, route: Route, started: float) -> None:
        if route.api:
            micros = (time.perf_counter() - started) * 1e6
            self._metrics.request_timed(route.spec.name, api=route.api, entrypoint="REST", micros=micros)
        self._metrics.request_answered(route.spec.name, Code.OK)

    def _failed(self, route: Route, error: Exception) -> Reply:
        if not isinstance(error, StatusError):
            logger.error("%s of %s failed", route.call, route.spec.name, exc_info=error)
            error = StatusError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        name = route.spec.name
        self._metrics.request_answered(name if self._core.knows(name) else UNKNOWN_MODEL, error.code)
        return error_reply(error.code, error.message)

    def _run(self, route: Route, body: bytes) -> bytes:
        spec = route.spec
        if route.call == "predict":
            return self._predict(spec, body)
        if route.call == "classify":
            request = ExamplesRequest.parse(body)
            with self._core.servable(spec) as servable:
                classes = servable.classify(request.signature_name, request.examples, timeout_s=self._timeout_s)
            return classify_json(classes)
        if route.call == "regress":
            request = ExamplesRequest.parse(body)
            with self._core.servable(spec) as servable:
                values = servable.regress(request.signature_name, request.examples, timeout_s=self._timeout_s)
            return regress_json(values)
        if route.call == "metadata":
            with self._core.servable(spec) as servable:
                return metadata_json(spec.name, servable.version, servable.signature_def_map)
        # Upstream looks at the version alone here: the status of a label is that of all versions.
        return status_json(self._core.model_status(spec.name, spec.version))

    def _predict(self, spec: ModelSpec, body: bytes) -> bytes:
        request = PredictRequest.parse(body)
        with self._core.servable(spec) as servable:
            tensors = request.tensors(_inputs(servable, request.signature_name))
            outputs = servable.predict(request.signature_name, tensors, (), timeout_s=self._timeout_s)
            return predict_json(outputs, by_row=request.by_row)

    async def _predict_soon(self, spec: ModelSpec, body: bytes, pool: Executor, busy: _Busy) -> bytes:
        request = PredictRequest.parse(body)
        with self._core.servable(spec) as servable:
            tensors = request.tensors(_inputs(servable, request.signature_name))
            call: Awaitable[dict[str, Tensor]] | None
            call = servable.predict_soon(request.signature_name, tensors, (), timeout_s=self._timeout_s)
            if call is None:
                predict = partial(servable.predict, request.signature_name, tensors, (), timeout_s=self._timeout_s)
                call = asyncio.get_running_loop().run_in_executor(pool, predict)
            busy.pause()
            try:
                outputs = await call
            finally:
                busy.go_on()
            return predict_json(outputs, by_row=request.by_row)


class _Busy:
    """The time of the calling thread but for what it did for others in pauses."""

    def __init__(self) -> None:
        self._spent = 0.0
        self._since = time.thread_time()

    def pause(self) -> None:
        self._spent += time.thread_time() - self._since

    def go_on(self) -> None:
        self._since = time.thread_time()

    def seconds(self) -> float:
        return self._spent + time.thread_time() - self._since


def _inputs(servable: Servable, signature_name: str) -> Mapping[str, TensorSpec]:
    signature = servable.signatures.get(signature_name or DEFAULT_SIGNATURE)
    if signature is None:
        invalid(f'Serving signature name: "{signature_name or DEFAULT_SIGNATURE}" not found in signature def')
    return signature.inputs
