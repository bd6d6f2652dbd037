"""A receiver of webhooks on loopback that answers as a test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Received:
    path: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.body)
        return document


class Receiver(ThreadingHTTPServer):
    """Answers with `statuses`, one after the other, and then with 200; while `held`, it does not answer."""

    daemon_threads = True

    def __init__(self, *statuses: int, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.statuses = list(statuses)
        self.always: int | None = None
        self.headers: dict[str, str] = {}
        self.answering = threading.Event()
        self.answering.set()
        self.requests: list[Received] = []
        self.grown = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def taken(self) -> list[Received]:
        """The requests that were answered with 200."""
        with self.grown:
            return [each for each in self.requests if each.status == 200]

    def hold(self) -> None:
        """Leaves whoever calls without an answer from now on."""
        self.answering.clear()

    def await_requests(self, count: int) -> list[Received]:
        """Returns all requests as soon as there are `count`."""
        with self.grown:
            self.grown.wait_for(lambda: len(self.requests) >= count, TIMEOUT_S)
            assert len(self.requests) >= count, f"only {len(self.requests)} requests: {self.requests}"
            return list(self.requests)

    def await_taken(self, count: int) -> list[Received]:
        """Returns the requests that were answered with 200 as soon as there are `count`."""
        with self.grown:
            self.grown.wait_for(lambda: len(self.taken()) >= count, TIMEOUT_S)
        found = self.taken()
        assert len(found) >= count, f"only {len(found)} of {count} taken: {self.requests}"
        return found


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        receiver = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with receiver.grown:
            status = receiver.statuses.pop(0) if receiver.statuses else (receiver.always or 200)
            kept = status if receiver.answering.is_set() else 0
            receiver.requests.append(Received(self.path, dict(self.headers), body, kept))
            receiver.grown.notify_all()
        if not receiver.answering.wait(TIMEOUT_S) or not kept:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in receiver.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of each request."""


@contextmanager
def receiver(*statuses: int, port: int = 0) -> Iterator[Receiver]:
    """Runs a receiver while the block runs."""
    with Receiver(*statuses, port=port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.answering.set()
            server.shutdown()
            thread.join(TIMEOUT_S)


@contextmanager
def raw_receiver(answer: bytes, *, every_s: float = 0.0) -> Iterator[str]:
    """Runs a server that sends `answer` as it is, or letter by letter with a pause after each; gives its URL."""
    ended = threading.Event()

    def serve() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                _answer(connection)

    def _answer(connection: socket.socket) -> None:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.recv(65536)
            for start in range(0, len(answer), 1 if every_s else len(answer)):
                connection.sendall(answer[start : start + (1 if every_s else len(answer))])
                if ended.wait(every_s):
                    return
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(TIMEOUT_S)
