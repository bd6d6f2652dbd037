"""A proxy on loopback in front of an object store, which breaks what it is told to break."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import assert_never
from urllib.parse import urlsplit

_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})
_STORE_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Refuse:
    """The store answers with an error of its own."""

    status: int
    code: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset, before or after the store has done what it was asked."""

    after: bool = False


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing is answered."""


@dataclass(frozen=True, slots=True)
class CutShort:
    """The body of the answer ends half-way."""


@dataclass(frozen=True, slots=True)
class WrongBytes:
    """A byte in the middle of the body is another: of the request if `sent`, of the answer otherwise."""

    sent: bool = False


@dataclass(frozen=True, slots=True)
class Drip:
    """The body of the answer comes a byte at a time, `pause_s` apart."""

    pause_s: float = 0.05


@dataclass(frozen=True, slots=True)
class Page:
    """What answers is no store: a web page, or a redirect to `location`."""

    status: int = 200
    body: bytes = b"<!DOCTYPE html><html><head><meta charset=utf-8></head><body>Sign in<br></body></html>"
    location: str = ""


Fault = Page | Refuse | Reset | Silence | CutShort | WrongBytes | Drip


@dataclass(slots=True)
class Rule:
    """Which requests meet a fault.

    Attributes:
        request: searched for in "METHOD /path?query".
        times: how many of them; None: all.
        skip: how many pass before.
    """

    fault: Fault
    request: re.Pattern[str]
    times: int | None
    skip: int


@dataclass(slots=True)
class Proxy:
    """What is to be broken, and what was asked.

    Attributes:
        requests: "METHOD /path?query", in the order of their arrival.
        headers: of each of the requests, names in small letters.
    """

    endpoint: str
    requests: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    _rules: list[Rule] = field(default_factory=list)
    _deciding: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def inject(self, fault: Fault, request: str = "", *, times: int | None = None, skip: int = 0) -> None:
        """Lets requests that contain the pattern `request` meet `fault`."""
        self._rules.append(Rule(fault, re.compile(request), times, skip))

    def mend(self) -> None:
        """Lets all requests pass again."""
        self._rules.clear()

    def fault_for(self, request: str, headers: dict[str, str]) -> Fault | None:
        """Returns what this request meets."""
        with self._deciding:
            self.requests.append(request)
            self.headers.append(headers)
            for rule in self._rules:
                if rule.times == 0 or not rule.request.search(request):
                    continue
                if rule.skip:
                    rule.skip -= 1
                    continue
                if rule.times is not None:
                    rule.times -= 1
                return rule.fault
        return None

    def wait(self, seconds: float) -> bool:
        """Waits; True once the proxy is being closed."""
        return self._closing.wait(seconds)

    def close(self) -> None:
        """Ends all waiting."""
        self._closing.set()


@contextmanager
def running_proxy(store: str) -> Iterator[Proxy]:
    """Runs a proxy in front of the store at the URL `store` while the block runs."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.store = urlsplit(store).netloc
    server.proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server.proxy
    finally:
        server.proxy.close()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    store: str
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that give up are what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Keeps quiet."""

    def _handle(self) -> None:
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy.fault_for(
            f"{self.command} {self.path}", {name.lower(): value for name, value in self.headers.items()}
        )
        match fault:
            case Refuse():
                self._refuse(fault)
            case Page():
                self._show(fault)
            case Silence():
                self.server.proxy.wait(_STORE_TIMEOUT_S)
                self._reset()
            case Reset():
                if fault.after:
                    self._ask(body)
                self._reset()
            case WrongBytes(sent=True):
                self._answer(*self._ask(_bent(body)), None)
            case None | CutShort() | WrongBytes() | Drip():
                self._answer(*self._ask(body), fault)
            case _:
                assert_never(fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - named by http.server

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(self.server.store, timeout=_STORE_TIMEOUT_S)
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in {"expect", "connection"}
            }
            store.request(self.command, self.path, body, headers)
            answer = store.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            store.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, fault: Fault | None) -> None:
        length = len(body)
        if isinstance(fault, WrongBytes):
            body = _bent(body)
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(fault, CutShort):
            self.wfile.write(body[: length // 2])
            self.close_connection = True
        elif isinstance(fault, Drip):
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                if self.server.proxy.wait(fault.pause_s):
                    break
        else:
            self.wfile.write(body)

    def _refuse(self, fault: Refuse) -> None:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{fault.code}</Code>'
            f"<Message>as the test wants it</Message></Error>"
        ).encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def _show(self, page: Page) -> None:
        self.send_response_only(page.status)
        self.send_header("Content-Type", "text/html")
        if page.location:
            self.send_header("Location", page.location)
        self.send_header("Content-Length", str(len(page.body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else page.body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def _bent(body: bytes) -> bytes:
    """Returns `body` with one bit in the middle flipped."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else body
