"""What every request passes: whose it is, how large it may be, and how often an address may be wrong."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException

from deployctl.daemon.api.failures import failure, refusal
from deployctl.domain.authority import Authority, Token
from deployctl.errors import DeployctlError, UnauthenticatedError
from deployctl.operations.tokens import authenticate

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from deployctl.daemon.interface import Work

_log = logging.getLogger(__name__)
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
_TOO_MANY = "too many requests with tokens that open nothing came from this address"
# How old what is known of the tokens may be where an address has been wrong too often.
_FRESH_S = 1.0
_SHOWN = 200
_REFUSED = frozenset({401, 403, 429})
_SECRET = re.compile(r"dct_\S*")
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


class KnownTokens:
    """The tokens as they were a moment ago, so that who is refused costs the database nothing.

    Args:
        tokens: asks the database.
    """

    def __init__(self, tokens: Callable[[], tuple[Token, ...]], now: Callable[[], float] = time.monotonic) -> None:
        self._tokens = tokens
        self._now = now
        self._lock = threading.Lock()
        self._at = float("-inf")
        self._found: tuple[Token, ...] = ()

    def __call__(self) -> tuple[Token, ...]:
        """Returns the tokens."""
        with self._lock:
            if self._now() - self._at > _FRESH_S:
                self._found = self._tokens()
                self._at = self._now()
            return self._found


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
        self._noted = FailureCounter()
        self._known = KnownTokens(work.shared.lineage.tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def hardened(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] in _REFUSED:
                    self._note(scope, message["status"])
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
        # One client that is wrong must not shut out the others of its address, a proxy's for example.
        suspect = self._failures.wait_s(address) > 0
        if len(said) != 1 or not said[0].lower().startswith(_SCHEME):
            # Nothing was tried: a client that has no token yet is not counted.
            raise UnauthenticatedError(
                "the header 'Authorization: Bearer TOKEN' is missing", hint="deployctl token create NAME --role viewer"
            )
        try:
            secret = said[0][len(_SCHEME) :].strip()
            state["authority"] = await run_in_threadpool(self._authority, secret, address, suspect=suspect)
        except UnauthenticatedError:
            if not suspect:
                self._failures.failed(address)
            raise
        length = headers.get("content-length", "0")
        if not scope["path"].startswith(_FILES) and length.isdecimal() and int(length[:20]) > MAX_BODY:
            raise _TooLargeError

    def _authority(self, secret: str, address: str, *, suspect: bool) -> Authority:
        shared = self._work.shared
        if suspect:
            authenticate(self._known, secret, address, shared.context.clock.now())
        return authenticate(shared.lineage.tokens, secret, address, shared.context.clock.now())

    def _note(self, scope: Scope, status: int) -> None:
        """Logs a refusal; of one address so many only, that nobody fills the log."""
        client = scope.get("client")
        address = client[0] if client else ""
        if self._noted.wait_s(address) > 0:
            return
        self._noted.failed(address)
        state = scope.get("state", {})
        authority: Authority | None = state.get("authority")
        path = _SECRET.sub("dct_…", scope["path"])[:_SHOWN]
        bearer = f"token {authority.name}" if authority else "nobody known"
        why = f": {state['refused']}" if "refused" in state else ""
        _log.warning("%s %r by %s at %s was answered %d%s", scope["method"], path, bearer, address, status, why)

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        limited = not scope["path"].startswith(_FILES)
        taken, whole = 0, False
        until: float | None = None

        async def bounded() -> Message:
            nonlocal taken, whole, until
            if whole:
                # What comes after the body is that the client has gone, and may be waited for.
                return await receive()
            try:
                # A document comes as a whole in that time, so that nobody holds a connection with a byte now and then.
                if until is None or not limited:
                    until = time.monotonic() + BODY_TIMEOUT_S
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
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
            answer = refusal(429, _TOO_MANY, headers={"Retry-After": str(int(wait_s) + 1)})
        else:
            answer = failure(error)
        await answer(scope, receive, send)
