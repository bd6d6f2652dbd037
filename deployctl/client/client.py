"""The client: deadlines and retries around a transport."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from numpy.typing import ArrayLike

from deployctl.client.call import Array, Call, Transport
from deployctl.client.errors import BadRequestError, DeadlineError, PredictionError, UnavailableError
from deployctl.client.values import UnfitError, as_utf8

_LONGEST_PAUSE_S = 2.0
_VERSIONS = range(-(1 << 63), 1 << 63)


class Client:
    """Asks one server; may be used by many threads and event loops at once.

    Args:
        url: "http://HOST:PORT" or "https://…" for REST, "grpc://HOST:PORT" or "grpcs://…" for gRPC.
        timeout_s: the deadline of a prediction with all its attempts, where a call names no other.
        retries: attempts after the first one, where nothing answers or the server is overloaded. A prediction
            changes nothing, so that asking again is safe.
        pause_s: before the first retry, at the longest; it doubles with each.

    Raises:
        ValueError: the URL is of another form, or `retries` is negative.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, retries: int = 2, pause_s: float = 0.05) -> None:
        if retries < 0:
            raise ValueError(f"retries is {retries}: 0 is the least")
        self._transport = _transport(url)
        self._timeout_s = timeout_s
        self._retries = retries
        self._pause_s = pause_s
        self._closed = threading.Event()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; a call that waits for its next attempt fails at once."""
        self._closed.set()
        self._transport.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any] | ArrayLike,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Returns the outputs of one call by name; strings are object arrays of bytes.

        Args:
            model: its name.
            inputs: arrays by name, or one array for a signature of one input. Strings may be str or bytes.
            version: a number; excludes `label`.
            label: such as "stable". Without either, the server chooses.
            signature: "" is serving_default.
            outputs: only these, where any are named.
            timeout_s: the deadline of all attempts.

        Raises:
            BadRequestError: the inputs are not those of the signature.
            NotServedError: there is no such model, version or label.
            UnavailableError: nothing answered in any attempt.
            DeadlineError: there was no answer in time.
            PredictionError: the server failed otherwise, or the client is closed.
            ValueError: both a version and a label are given.
        """
        call = Call(model, inputs, version, label, signature, tuple(outputs))
        deadline = self._deadline(call, timeout_s)
        for attempt in range(self._retries + 1):
            try:
                return self._transport.predict(call, timeout_s=_left(deadline))
            except UnavailableError:
                pause = self._pause(attempt, deadline)
                if pause is None or self._closed.wait(pause):
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def predict_async(
        self,
        model: str,
        inputs: Mapping[str, Any] | ArrayLike,
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str = "",
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Does what `predict` does, as a coroutine: many calls can be under way at once."""
        call = Call(model, inputs, version, label, signature, tuple(outputs))
        deadline = self._deadline(call, timeout_s)
        for attempt in range(self._retries + 1):
            try:
                return await self._transport.predict_async(call, timeout_s=_left(deadline))
            except UnavailableError:
                pause = self._pause(attempt, deadline)
                if pause is None or self._closed.is_set():
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _deadline(self, call: Call, timeout_s: float | None) -> float:
        if call.version is not None and call.label is not None:
            raise ValueError("give a version or a label, not both")
        if self._closed.is_set():
            raise PredictionError("the client is closed")
        if call.version is not None and call.version not in _VERSIONS:
            raise BadRequestError(f"the version {call.version:.6g} is no number of 64 bits")
        for name in (call.model, call.label or "", call.signature, *call.outputs):
            try:
                as_utf8(name)
            except UnfitError as error:
                raise BadRequestError(f"a name {error}") from error
        return time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)

    def _pause(self, attempt: int, deadline: float) -> float | None:
        """Seconds until the next attempt; None where there is none."""
        if attempt >= self._retries:
            return None
        longest = min(self._pause_s * 2**attempt, _LONGEST_PAUSE_S)
        # Clients that failed together must not come again together.
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        return pause if time.monotonic() + pause < deadline else None


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError("there was no answer in time")
    return left


def _transport(url: str) -> Transport:
    parts = urlsplit(url)
    if not parts.hostname or parts.path.strip("/"):
        raise ValueError(f"{url!r} is not SCHEME://HOST:PORT")
    if parts.scheme in ("http", "https"):
        from deployctl.client.rest import RestTransport

        return RestTransport(parts.hostname, parts.port, secure=parts.scheme == "https")
    if parts.scheme in ("grpc", "grpcs"):
        from deployctl.client.grpc_transport import GrpcTransport

        return GrpcTransport(parts.netloc, secure=parts.scheme == "grpcs")
    raise ValueError(f"{url!r} begins with neither http:// nor grpc://")
