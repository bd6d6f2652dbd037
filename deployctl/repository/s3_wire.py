"""HTTP/1.1 on connections that the SDK opens, as much of it as small requests to an object store need.

The SDK's way of a request takes several times as long as the request itself: a pool, a parser made for e-mail, and
dictionaries that ignore letter case. It still makes the connections, since proxies, certificates and addresses are its
business.
"""

from __future__ import annotations

import select
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_PIECE = 1 << 18
_LONGEST_HEAD = 1 << 16

# What of the SDK's session is used here and promised by nobody.
_PRIVATE = ("_proxy_config", "_get_connection_manager", "_setup_ssl_cert", "_verify")


@dataclass(frozen=True, slots=True)
class Answer:
    """One response; names of headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class ProtocolError(OSError):
    """What came is no whole answer."""


class Wire:
    """Connections to one host; may be used by many threads.

    Args:
        session: the SDK's HTTP session.
        url: of the host, with its scheme.
        timeout_s: how long an answer's next byte may take.
        check_deadline: called while an answer arrives; raises when that takes too long.
    """

    def __init__(self, session: Any, url: str, timeout_s: float, check_deadline: Callable[[], None]) -> None:
        self._session = session
        self._url = url
        self._timeout_s = timeout_s
        self._check_deadline = check_deadline
        self._idle: deque[_Connection] = deque()
        weakref.finalize(self, _close_all, self._idle)

    def works(self) -> bool:
        """Whether requests can go this way.

        Not through a proxy, which the SDK speaks to in its own way, nor with an SDK that has changed inside.
        """
        if not all(hasattr(self._session, name) for name in _PRIVATE):
            return False
        return not self._session._proxy_config.proxy_url_for(self._url)

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Sends a request and returns its answer.

        Raises:
            OSError, urllib3's HTTPError: there is none, or no whole one.
        """
        connection = self._connection()
        try:
            lines = [f"{method} {target} HTTP/1.1", *[f"{name}: {value}" for name, value in headers.items()]]
            if body or method == "PUT":
                lines.append(f"content-length: {len(body)}")
            connection.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n", body)
            answer = connection.answer(self._check_deadline)
        except BaseException:
            connection.close()
            raise
        if connection.stays_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def _connection(self) -> _Connection:
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:  # another thread took the last one
                break
            if connection.is_quiet():
                return connection
            connection.close()
        return _Connection(self._opened(), self._timeout_s)

    def _opened(self) -> Any:
        """A connection of urllib3's as the SDK has it made."""
        pool = self._session._get_connection_manager(self._url).connection_from_url(self._url)
        self._session._setup_ssl_cert(pool, self._url, self._session._verify)
        try:
            connection = pool._new_conn()
        except AttributeError as error:
            raise OSError("urllib3 makes its connections in another way") from error
        connection.connect()
        return connection


class _Connection:
    """One connection; `stays_open` says whether the other side keeps it after the last answer."""

    def __init__(self, connection: Any, timeout_s: float) -> None:
        self._connection = connection
        self._socket = connection.sock
        self._socket.settimeout(timeout_s)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._received = b""
        self.stays_open = True

    def close(self) -> None:
        self._connection.close()

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer; an end would."""
        return not self._received and not self._poll.poll(0)

    def send(self, head: bytes, body: bytes) -> None:
        if len(body) < _PIECE:
            self._socket.sendall(head + body)
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)

    def answer(self, check_deadline: Callable[[], None]) -> Answer:
        while True:
            status, headers = self._head(check_deadline)
            if status >= 200:
                break
        if status in {204, 304}:
            return Answer(status, headers, b"")
        if "transfer-encoding" in headers:
            return Answer(status, headers, self._chunks(check_deadline))
        length = headers.get("content-length", "")
        if not length.isdigit():
            raise ProtocolError("an answer of no length")
        return Answer(status, headers, self._exactly(int(length), check_deadline))

    def _head(self, check_deadline: Callable[[], None]) -> tuple[int, dict[str, str]]:
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            if len(self._received) > _LONGEST_HEAD:
                raise ProtocolError("an answer of headers only")
            self._more(check_deadline)
        lines = self._received[:end].decode("latin-1").split("\r\n")
        self._received = self._received[end + 4 :]
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise ProtocolError(f"no HTTP: {lines[0][:80]!r}")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self.stays_open = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return int(rest[:3]), headers

    def _exactly(self, length: int, check_deadline: Callable[[], None]) -> bytes:
        pieces, size = [self._received], len(self._received)
        self._received = b""
        while size < length:
            self._more(check_deadline)
            pieces.append(self._received)
            size += len(self._received)
            self._received = b""
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if size > length:
            whole, self._received = whole[:length], whole[length:]
        return whole

    def _chunks(self, check_deadline: Callable[[], None]) -> bytes:
        pieces = []
        while True:
            size = self._line(check_deadline).partition(b";")[0].strip()
            try:
                length = int(size, 16)
            except ValueError as error:
                raise ProtocolError(f"a chunk of size {size[:20]!r}") from error
            if length < 0:
                raise ProtocolError(f"a chunk of size {length}")
            if not length:
                break
            pieces.append(self._exactly(length, check_deadline))
            self._line(check_deadline)
        while self._line(check_deadline):
            pass
        return b"".join(pieces)

    def _line(self, check_deadline: Callable[[], None]) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            if len(self._received) > _LONGEST_HEAD:
                raise ProtocolError("a chunk of no size")
            self._more(check_deadline)
        line, self._received = self._received[:end], self._received[end + 2 :]
        return line

    def _more(self, check_deadline: Callable[[], None]) -> None:
        piece = self._socket.recv(_PIECE)
        if not piece:
            raise ProtocolError("the connection was closed before the end of the answer")
        check_deadline()
        self._received = self._received + piece if self._received else piece


def _close_all(connections: deque[_Connection]) -> None:
    while connections:
        connections.pop().close()
