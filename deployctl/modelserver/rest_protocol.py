"""HTTP/1.1 for `rest`: one connection, parsed by httptools, with whole requests in and whole replies out.

ASGI costs as much processor time for a small request as all of the server's own work on it: a task, an event, and
dictionaries that nobody needs for bodies that are read and written whole.
"""

from __future__ import annotations

import abc
import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools

from deployctl.modelserver.rest_routes import Header, Reply

if TYPE_CHECKING:
    from uvicorn.server import ServerState

logger = logging.getLogger(__name__)

# Beyond this, a copy of the body into one piece with its head costs more than a second write.
_IN_ONE_PIECE_BYTES = 64 << 10
# Of the target and of all headers, each; what other servers take. The parser puts a header together piece by piece,
# which takes time by the square of its length.
MAX_HEAD_BYTES = 64 << 10
# How long a client that was refused may go on sending before it is cut off.
_LINGER_S = 5.0
_TEXT: tuple[Header, ...] = ((b"content-type", b"text/plain; charset=utf-8"),)
_OFFER = frozenset((b"connection", b"upgrade", b"http2-settings"))
_PHRASES: Mapping[int, bytes] = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass(slots=True, eq=False)
class Request:
    """One request.

    Attributes:
        method: in capitals.
        target: path and query as they were sent, without a host.
        headers: by name in small letters; of equal names the first counts.
        keeps_alive: whether the connection stays open after it.
        refusal: the reply to a request that is not to be read to its end.
    """

    method: str = ""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    keeps_alive: bool = True
    refusal: Reply | None = None


class Application(abc.ABC):
    """What answers requests, in the event loop's thread."""

    @abc.abstractmethod
    def refusal(self, request: Request, body_bytes: int) -> Reply | None:
        """Returns a reply where no more than `body_bytes` of the body should be read, None to go on."""

    @abc.abstractmethod
    def answer(self, request: Request) -> Reply | Coroutine[Any, Any, Reply]:
        """Returns the reply, or what will return it without holding up the event loop."""


class HttpProtocol(asyncio.Protocol):
    """One connection of a uvicorn server, which knows it by `shutdown`."""

    def __init__(self, application: Application, server_state: ServerState, keep_alive_s: float) -> None:
        self._application = application
        self._state = server_state
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading = Request()
        self._url = b""
        self._pieces: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._unread_bytes = 0
        self._heard = False
        self._deaf = False
        self._in_message = False
        self._waiting: deque[Request] = deque()
        self._answering = False
        self._writable = True
        self._stopping = False
        self._lingering = False
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ---- the transport's calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        # uvloop's transports are not of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._state.connections.add(cast("Any", self))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol; an answer under way is finished, and dropped."""
        self._state.connections.discard(cast("Any", self))
        self._transport = None
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._lingering or self._deaf:
            return
        self._heard = False
        try:
            self._parser.feed_data(data)
            self._unread_bytes = 0 if self._heard else self._unread_bytes + len(data)
            if self._unread_bytes > MAX_HEAD_BYTES and self._in_message:
                self._refuse_head(431)
        except httptools.HttpParserUpgrade as offer:
            rest = self._without_offer() + data[offer.args[0] :]
            self._parser = httptools.HttpRequestParser(self)
            self.data_received(rest)
            return
        except httptools.HttpParserError:
            if self._reading.refusal is None:
                logger.warning("invalid HTTP from a client")
                refused = Reply(400, b"Invalid HTTP request received.", _TEXT)
                self._waiting.append(Request(keeps_alive=False, refusal=refused))
        self._go_on()

    def pause_writing(self) -> None:
        """See asyncio.Protocol: no further request is answered before the client has read."""
        self._writable = False

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._writable = True
        self._go_on()

    def shutdown(self) -> None:
        """Closes the connection, or lets it be closed after the request that has begun."""
        self._stopping = True
        busy = self._in_message or self._waiting or self._answering
        if self._transport is not None and (self._lingering or not busy):
            self._transport.close()

    # ---- the parser's calls ----

    def on_message_begin(self) -> None:
        """Starts a request."""
        self._reading = Request()
        self._url = b""
        self._pieces = []
        self._size = 0
        self._head_bytes = 0
        self._heard = True
        self._in_message = True

    def on_url(self, url: bytes) -> None:
        """Takes a piece of the target."""
        self._heard = True
        if self._deaf:
            return
        self._url += url
        if len(self._url) > MAX_HEAD_BYTES:
            self._refuse_head(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes a header, or one that comes after a body in chunks."""
        self._heard = True
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse_head(431)
            return
        self._reading.headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        """Decides whether the body is wanted."""
        if self._deaf:
            return
        request = self._reading
        request.method = self._parser.get_method().decode("ascii")
        request.target = _target(self._url)
        if self._parser.should_upgrade():
            return
        request.keeps_alive = self._parser.should_keep_alive() and self._parser.get_http_version() != "1.0"
        declared = request.headers.get(b"content-length", b"0")
        # More digits than any size has; the parser takes no number beyond 64 bits either.
        self._refuse_beyond(int(declared) if declared.isdigit() and len(declared) < 20 else 0)
        wants_to_go_on = request.headers.get(b"expect", b"").lower() == b"100-continue"
        if wants_to_go_on and request.refusal is None and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self._heard = True
        if self._deaf or self._reading.refusal is not None:
            return
        self._pieces.append(body)
        self._size += len(body)
        self._refuse_beyond(self._size)

    def on_message_complete(self) -> None:
        """Lets the request be answered."""
        self._heard = True
        if self._deaf or self._parser.should_upgrade():
            return
        self._in_message = False
        request = self._reading
        if request.refusal is None:
            request.body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._waiting.append(request)
        self._pieces = []

    def _without_offer(self) -> bytes:
        """The head that was read, without the offer to go on in another protocol: Java's client begins with one.

        The parser takes such a head for the last of this protocol, and reads no body after it.
        """
        request = self._reading
        # Only CONNECT means it; nobody knows that method here.
        method = request.method if request.method != "CONNECT" else "TRACE"
        lines = [b"%s %s HTTP/%s" % (method.encode(), request.target or b"/", self._parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in request.headers.items() if header[0] not in _OFFER]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # ---- answers ----

    def _refuse_beyond(self, size: int) -> None:
        request = self._reading
        request.refusal = self._application.refusal(request, size)
        if request.refusal is not None:
            request.keeps_alive = False
            self._pieces = []
            self._waiting.append(request)

    def _refuse_head(self, status: int) -> None:
        """Ends the connection with this answer; nothing more of it is parsed."""
        if self._deaf:
            return
        self._deaf = True
        request = self._reading
        if request.refusal is None:
            request.keeps_alive = False
            request.refusal = Reply(status, b"More than %d bytes." % MAX_HEAD_BYTES, _TEXT)
            self._waiting.append(request)

    def _go_on(self) -> None:
        """Answers what has come whole, in its order, until it has to wait."""
        while self._waiting and not self._answering and self._writable and self._transport is not None:
            request = self._waiting.popleft()
            answer = request.refusal or self._application.answer(request)
            if isinstance(answer, Reply):
                self._send(request, answer)
                continue
            self._answering = True
            task = self._loop.create_task(self._answer(request, answer))
            self._state.tasks.add(task)
            task.add_done_callback(self._state.tasks.discard)
        if self._transport is not None and not self._transport.is_closing():
            # A client that sends more than it takes answers for has to wait.
            if self._waiting:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    async def _answer(self, request: Request, answer: Coroutine[Any, Any, Reply]) -> None:
        try:
            reply = await answer
        except asyncio.CancelledError:
            if self._transport is not None:
                self._transport.abort()
            raise
        except Exception:
            logger.exception("%s %r failed", request.method, request.target)
            reply = Reply(500, b"Internal Server Error", _TEXT)
        self._answering = False
        self._send(request, reply)
        if self._waiting:
            self._go_on()

    def _send(self, request: Request, reply: Reply) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        keeps_alive = request.keeps_alive and not self._stopping and not _closes(reply.headers)
        head = _head(reply, self._state.default_headers, keeps_alive=keeps_alive)
        body = b"" if request.method == "HEAD" else reply.body
        if len(body) <= _IN_ONE_PIECE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            transport.write(body)
        self._state.total_requests += 1
        if not keeps_alive:
            self._waiting.clear()
            if request.refusal is None:
                transport.close()
            else:
                self._linger(transport)
            return
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keep_alive_s, self._close_idle)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Closes in stages, as RFC 9112, 9.6 has it.

        To a client that still sends, a socket that is closed at once answers with a reset, which may overtake the
        reply.
        """
        if self._stopping or not transport.can_write_eof():
            transport.close()
            return
        self._lingering = True
        transport.write_eof()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_S, transport.close)

    def _close_idle(self) -> None:
        """Closes a connection on which nothing came since the last answer, or looks again when that may be."""
        if self._transport is None:
            return
        idle = not (self._in_message or self._waiting or self._answering)
        left = self._idle_since + self._keep_alive_s - self._loop.time() if idle else self._keep_alive_s
        if left <= 0:
            self._transport.close()
        else:
            self._timer = self._loop.call_later(left, self._close_idle)


def _target(url: bytes) -> bytes:
    """The path and query of what a request line names.

    Raises:
        httptools.HttpParserInvalidURLError: it is no URL.
    """
    if url.startswith(b"/") and b"#" not in url:
        return url
    parsed = httptools.parse_url(url)
    path: bytes = parsed.path or b""
    return path + b"?" + parsed.query if parsed.query else path


def _closes(headers: tuple[Header, ...]) -> bool:
    return len(headers) > 1 and (b"connection", b"close") in headers


def _head(reply: Reply, default_headers: list[Header], *, keeps_alive: bool) -> bytes:
    lines = [b"HTTP/1.1 %d %s" % (reply.status, _PHRASES.get(reply.status, b""))]
    lines += [b"%s: %s" % header for header in default_headers]
    lines += [b"%s: %s" % header for header in reply.headers]
    lines.append(b"content-length: %d" % len(reply.body))
    if not keeps_alive and not _closes(reply.headers):
        lines.append(b"connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"
