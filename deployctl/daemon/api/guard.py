"""What every request passes: whose it is, how large it may be, and how often an address may be wrong."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from deployctl.daemon.api.failures import failure, refusal
from deployctl.domain.authority import Authority
from deployctl.errors import DeployctlError, UnauthenticatedError
from deployctl.operations.tokens import authenticate

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from deployctl.daemon.interface import Work

# Answered without a token: whether the process lives, and whether it could work.
OPEN = frozenset({"/healthz", "/readyz"})
# Bodies of requests are small documents; files of exports come by their own routes, which count for themselves.
MAX_BODY = 1 << 20
MAX_HEADERS = 16 << 10
BODY_TIMEOUT_S = 15.0
_TOO_LARGE = f"the body is larger than {MAX_BODY} bytes"
_FILES = "/v1/uploads/"
_MAX_FAILURES, _WINDOW_S, _MAX_ADDRESSES = 20, 60.0, 4096
_SCHEME = "bearer "
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class FailureCounter:
    """How often each address has lately come with a token that opens nothing."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str) -> float:
        """Returns after how many seconds `address` is heard again, 0.0 for now."""
        with self._lock:
            failures = self._failures.get(address)
            if failures is None or len(failures) < _MAX_FAILURES:
                return 0.0
            return max(0.0, failures[0] + _WINDOW_S - self._now())

    def failed(self, address: str) -> None:
        """Notes a failure; what is older than the last twenty of an address is forgotten."""
        with self._lock:
            failures = self._failures.setdefault(address, deque(maxlen=_MAX_FAILURES))
            failures.append(self._now())
            self._failures.move_to_end(address)
            while len(self._failures) > _MAX_ADDRESSES:
                self._failures.popitem(last=False)


class _HeadersTooLargeError(Exception):
    """The headers are larger than any of our clients'."""


class _TooLargeError(Exception):
    """A body says that it is larger than it may be."""


class Guard:
    """Lets through to `app` what a token opens, with `request.state.authority` set; everything else ends here."""

    def __init__(self, app: ASGIApp, work: Work) -> None:
        self._app = app
        self._work = work
        self._failures = FailureCounter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            await self._admit(scope)
            await self._app(scope, self._bounded(scope, receive), hardened)
        except UnauthenticatedError as error:
            await self._refuse(scope, receive, hardened, error)
        except DeployctlError as error:
            await failure(error)(scope, receive, hardened)
        except _HeadersTooLargeError:
            await refusal(431, f"the headers are larger than {MAX_HEADERS} bytes")(scope, receive, hardened)
        except _TooLargeError:
            await refusal(413, _TOO_LARGE)(scope, receive, hardened)

    async def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
            raise _HeadersTooLargeError
        client = scope.get("client")
        address = client[0] if client else ""
        state = scope.setdefault("state", {})
        state["authority"] = None
        said = headers.getlist("authorization")
        if not said and scope["path"] in OPEN:
            return
        if self._failures.wait_s(address) > 0:
            raise UnauthenticatedError("too many requests with tokens that open nothing came from this address")
        if len(said) != 1 or not said[0].lower().startswith(_SCHEME):
            # Nothing was tried: a client that has no token yet is not counted.
            raise UnauthenticatedError(
                "the header 'Authorization: Bearer TOKEN' is missing", hint="deployctl token create NAME --role viewer"
            )
        try:
            state["authority"] = await run_in_threadpool(self._authority, said[0][len(_SCHEME) :].strip(), address)
        except UnauthenticatedError:
            self._failures.failed(address)
            raise
        length = headers.get("content-length", "0")
        if not scope["path"].startswith(_FILES) and length.isdecimal() and int(length[:20]) > MAX_BODY:
            raise _TooLargeError

    def _authority(self, secret: str, address: str) -> Authority:
        shared = self._work.shared
        return authenticate(shared.lineage, secret, address, shared.context.clock.now())

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        limited = not scope["path"].startswith(_FILES)
        taken, whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:
                # What comes after the body is that the client has gone, and may be waited for.
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), BODY_TIMEOUT_S)
            except TimeoutError as error:
                words = f"the body did not come within {BODY_TIMEOUT_S:g} s"
                raise HTTPException(408, words, {"Connection": "close"}) from error
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if limited and taken > MAX_BODY:
                raise HTTPException(413, _TOO_LARGE)
            return message

        return bounded

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: UnauthenticatedError) -> None:
        client = scope.get("client")
        wait_s = self._failures.wait_s(client[0] if client else "")
        if wait_s > 0:
            words = "too many requests with tokens that open nothing came from this address"
            answer = refusal(429, words, headers={"Retry-After": str(int(wait_s) + 1)})
        else:
            answer = failure(error)
        await answer(scope, receive, send)
