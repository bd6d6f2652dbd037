"""The REST front: an HTTP server in a thread of its own over `rest_routes`.

uvicorn keeps the connections, which `rest_protocol` speaks HTTP on, in a uvloop. A call of a model that has lately
been quick runs on the event loop itself, since handing it to a thread would take longer than the call; all else runs
on a pool of threads.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from deployctl.errors import PortTakenError, ServerStartError
from deployctl.modelserver.costs import RecentCosts
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.metrics import Metrics
from deployctl.modelserver.rest_protocol import Application, HttpProtocol, Request
from deployctl.modelserver.rest_routes import (
    CORS_HEADERS,
    Reply,
    RestRoutes,
    Route,
    error_reply,
    html_reply,
    is_api_path,
    parse_route,
    preflight_reply,
    uncompressed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import uvicorn
    from uvicorn.server import ServerState

    from deployctl.modelserver.interface import ServerCore

logger = logging.getLogger(__name__)

# The methods that upstream lets through to its handler; libevent answers the others itself.
_METHODS = frozenset(("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"))
# Only to tell kinds of calls apart before the body is parsed; a wrong guess costs time, not truth.
_SIGNATURE_NAME = re.compile(rb'"signature_name"\s*:\s*"([^"]*)"')
_INLINE_BODY_BYTES = 64 << 10
_START_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 50.0
# Clients choose the paths.
_MOST_KNOWN_ROUTES = 1000
# Reading and writing of a call that waits for its batch; a thread that does so waits with it.
_QUICK_BESIDE_BATCHES = 0.002


@dataclass(frozen=True, slots=True)
class RestOptions:
    """How to serve.

    Attributes:
        host: an address to bind; "" means every address, IPv6 and IPv4.
        port: 0 takes any free port.
        num_threads: size of the pool that runs slow calls.
        timeout_s: limit of one call inside TensorFlow; None, zero or less for none.
        cors: whether to answer preflights and allow every origin.
        metrics_path: where Prometheus reads, None for nowhere.
        max_body_bytes: longest request body, and longest body after unpacking.
        inline: whether quick calls may run on the event loop. Not when requests are batched: a batch forms only
            from calls that wait at the same time. Then the event loop reads and writes, and waits for none.
    """

    host: str
    port: int
    num_threads: int
    timeout_s: float | None
    cors: bool
    metrics_path: str | None
    max_body_bytes: int
    inline: bool = True


class RestServer:
    """A running REST front."""

    def __init__(self, server: uvicorn.Server, listener: socket.socket, pool: ThreadPoolExecutor) -> None:
        self._server = server
        self._listener = listener
        self._pool = pool
        self._thread = threading.Thread(target=self._serve, name="rest", daemon=True)
        self._failure: BaseException | None = None
        self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Returns once requests are accepted.

        Raises:
            ServerStartError: the server's thread ended at once.
        """
        self._thread.start()
        deadline = time.monotonic() + _START_SECONDS
        while not self._server.started:
            self._thread.join(0.005)
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise ServerStartError("the REST server did not start") from self._failure

    def stop(self, grace_s: float) -> None:
        """Stops accepting, lets requests in flight finish for `grace_s` seconds, then drops them."""
        self._server.config.timeout_graceful_shutdown = grace_s  # type: ignore[assignment]
        self._server.should_exit = True
        self._thread.join(grace_s + 5.0)
        if self._thread.is_alive():
            logger.error("the REST server's thread did not end within %.1f s", grace_s + 5.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=_new_loop) as runner:
                runner.run(self._server.serve(sockets=[self._listener]))
        except (Exception, SystemExit) as failure:  # noqa: BLE001 - kept for start(), and logged
            self._failure = failure
            logger.exception("the REST server ended")
        finally:
            self._listener.close()


def serve_rest(core: ServerCore, options: RestOptions, *, metrics: Metrics | None = None) -> RestServer:
    """Binds, starts the server's thread and returns once it accepts requests.

    Raises:
        PortTakenError: another program listens on the port.
        ServerStartError: the address cannot be bound.
    """
    import uvicorn

    listener = _bind(options.host, options.port)
    pool = ThreadPoolExecutor(options.num_threads, thread_name_prefix="rest-call")
    application = _Application(core, options, metrics or Metrics(), pool)
    config = uvicorn.Config(
        # Only the protocol knows the application.
        application,  # type: ignore[arg-type]
        http=partial(_connection, application),  # type: ignore[arg-type]
        interface="asgi3",
        loop="none",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    server = RestServer(uvicorn.Server(config), listener, pool)
    try:
        server.start()
    except ServerStartError:
        pool.shutdown(wait=False)
        raise
    return server


def _connection(application: Application, *, server_state: ServerState, **_: object) -> HttpProtocol:
    """Makes what uvicorn makes for each connection."""
    return HttpProtocol(application, server_state, _KEEP_ALIVE_SECONDS)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _bind(host: str, port: int) -> socket.socket:
    """As upstream: every address through IPv6, or through IPv4 where there is no IPv6."""
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if not host and family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise _bind_error(host, port, error) from error
    return listener


def _bind_error(host: str, port: int, error: OSError) -> PortTakenError | ServerStartError:
    import errno

    if error.errno == errno.EADDRINUSE:
        return PortTakenError(f"port {port} is in use by another program", hint=f"ss -ltnp 'sport = :{port}'")
    return ServerStartError(f"cannot listen on {host or '*'}:{port}: {error.strerror}")


class _Application(Application):
    """Replies to requests."""

    def __init__(self, core: ServerCore, options: RestOptions, metrics: Metrics, pool: ThreadPoolExecutor) -> None:
        self._routes = RestRoutes(core, metrics, timeout_s=options.timeout_s if (options.timeout_s or 0) > 0 else None)
        self._options = options
        self._metrics = metrics
        self._pool = pool
        self._costs = RecentCosts() if options.inline else RecentCosts(quick_seconds=_QUICK_BESIDE_BATCHES)
        self._known: dict[tuple[str, bytes], Route] = {}

    def refusal(self, request: Request, body_bytes: int) -> Reply | None:
        """See `Application.refusal`."""
        limit = self._options.max_body_bytes
        if body_bytes <= limit:
            return None
        too_large = error_reply(Code.INVALID_ARGUMENT, f"The request body is longer than {limit} bytes")
        return self._finished(Reply(413, too_large.body, (*too_large.headers, (b"connection", b"close"))))

    def answer(self, request: Request) -> Reply | Coroutine[Any, Any, Reply]:
        """See `Application.answer`."""
        route = self._known.get((request.method, request.target)) or self._route(request)
        if isinstance(route, Reply):
            return self._finished(route)
        body = request.body
        if b"content-encoding" in request.headers and b"gzip" in request.headers[b"content-encoding"]:
            try:
                body = uncompressed(body, limit=self._options.max_body_bytes)
            except OverflowError:
                return self.refusal(request, self._options.max_body_bytes + 1) or html_reply(501, "Not Implemented")
            except StatusError as error:
                return self._finished(error_reply(error.code, error.message))
        answer = self._answer(route, body)
        if not self._options.cors:
            return answer
        return self._finished(answer) if isinstance(answer, Reply) else self._finished_soon(answer)

    def _finished(self, reply: Reply) -> Reply:
        return replace(reply, headers=(*reply.headers, *CORS_HEADERS)) if self._options.cors else reply

    async def _finished_soon(self, answer: Coroutine[Any, Any, Reply]) -> Reply:
        return self._finished(await answer)

    def _route(self, request: Request) -> Route | Reply:
        """What is asked for, or the reply where nothing is."""
        method = request.method
        # Upstream matches the query as part of the path.
        whole = request.target.decode("utf-8", "surrogateescape")
        path = whole.partition("?")[0]
        if method not in _METHODS:
            return html_reply(501, "Not Implemented")
        if path == self._options.metrics_path:
            return self._metrics_reply(whole)
        if not is_api_path(whole):
            return html_reply(404, "Not Found")
        if method == "OPTIONS" and self._options.cors:
            return preflight_reply(request.headers.get(b"origin", b"").decode("latin-1"))
        try:
            route = parse_route(method, whole)
        except StatusError as error:
            return error_reply(error.code, error.message)
        if len(self._known) < _MOST_KNOWN_ROUTES:
            self._known[method, request.target] = route
        return route

    def _metrics_reply(self, path: str) -> Reply:
        plain = ((b"content-type", b"text/plain"),)
        if path != self._options.metrics_path:
            text = f"Unexpected path: {path}. Should be {self._options.metrics_path}"
            return Reply(400, text.encode("utf-8", "surrogateescape"), plain)
        return Reply(200, self._metrics.render(), plain)

    def _answer(self, route: Route, body: bytes) -> Reply | Coroutine[Any, Any, Reply]:
        if not route.api:
            return self._in_pool(partial(self._routes.answer, route, body))
        signature = _SIGNATURE_NAME.search(body) if len(body) <= _INLINE_BODY_BYTES else None
        key = (route, signature and signature[1], len(body).bit_length())
        if len(body) <= _INLINE_BODY_BYTES and self._costs.quick(key):
            if self._options.inline:
                return self._timed_answer(key, route, body, inline=True)
            if route.call == "predict":
                return self._soon(key, route, body)
        return self._in_pool(partial(self._timed_answer, key, route, body, inline=False))

    async def _in_pool(self, call: Callable[[], Reply]) -> Reply:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    async def _soon(self, key: object, route: Route, body: bytes) -> Reply:
        reply, busy = await self._routes.predict_soon(route, body, self._pool)
        self._costs.record(key, busy, inline_busy=busy)
        return reply

    def _timed_answer(self, key: object, route: Route, body: bytes, *, inline: bool) -> Reply:
        started, busy_before = time.perf_counter(), time.thread_time()
        reply = self._routes.answer(route, body)
        if reply.status == 200 or inline:
            busy = time.thread_time() - busy_before
            # What waits for a batch keeps nobody from working.
            seconds = time.perf_counter() - started if self._options.inline else busy
            self._costs.record(key, seconds, inline_busy=busy if inline else None)
        return reply
