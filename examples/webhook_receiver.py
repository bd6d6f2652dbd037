"""A receiver of deployctl's notifications: believes only what is signed, recent and new. Needs nothing but Python.

    WEBHOOK_SECRET=… python examples/webhook_receiver.py [--port 8520]

Prints one line for each notification. What to take over into a receiver of your own is `Verifier`.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WINDOW_S = 300
MAX_BODY_BYTES = 1 << 20
_REMEMBERED = 10_000


class Verifier:
    """Says whether a request may be believed.

    Args:
        key: the secret that deployctl signs with.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._signatures: dict[str, float] = {}
        self._ids: dict[str, None] = {}

    def check(self, headers: Mapping[str, str], body: bytes, *, now: float) -> tuple[int, str]:
        """Returns the status to answer with, and why: 200 new, 208 known already, 401 not believed, 409 replayed."""
        timestamp = headers.get("Deployctl-Timestamp", "")
        in_seconds = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 16
        if not in_seconds or abs(now - int(timestamp)) > WINDOW_S:
            return 401, "the timestamp is missing, or more than five minutes away"
        signed = timestamp.encode() + b"." + body
        expected = "v1=" + hmac.new(self._key, signed, hashlib.sha256).hexdigest()
        given = headers.get("Deployctl-Signature", "")
        # In constant time: a comparison that ends early tells how much of a guess was right.
        if not hmac.compare_digest(expected.encode(), given.encode("utf-8", "replace")):
            return 401, "the signature is wrong"
        with self._lock:
            self._forget(now)
            # A request that comes twice is somebody's recording of it: each attempt of deployctl's has its own time.
            if given in self._signatures:
                return 409, "this request was here before"
            self._signatures[given] = now
            # The same id again is deployctl's: it did not hear that we took it. The id is believed from the body only,
            # since the headers but for the time are not signed.
            return (208, "known already") if self._known(str(_parsed(body).get("id"))) else (200, "new")

    def _known(self, identity: str) -> bool:
        known = identity in self._ids
        self._ids[identity] = None
        while len(self._ids) > _REMEMBERED:
            del self._ids[next(iter(self._ids))]
        return known

    def _forget(self, now: float) -> None:
        # Twice the window: a request may come with a time that is as far ahead of ours.
        for signature in [each for each, at in self._signatures.items() if now - at > 2 * WINDOW_S]:
            del self._signatures[signature]


class Receiver(ThreadingHTTPServer):
    """Listens on `port` of this machine, 0 for a free one."""

    def __init__(self, port: int, key: bytes) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.verifier = Verifier(key)

    def accept(self, document: dict[str, Any]) -> None:
        """Acts on a notification."""
        print(f"{document.get('event')}: {document.get('summary', document.get('text'))}", flush=True)


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = 30

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            self._answer(413)
            return
        body = self.rfile.read(int(length))
        status, why = self.server.verifier.check(self.headers, body, now=time.time())  # type: ignore[arg-type]
        if status == 200:
            self.server.accept(_parsed(body))
        elif status >= 400:
            print(f"refused: {why}", file=sys.stderr, flush=True)
        self._answer(status)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing of each request."""


def _parsed(body: bytes) -> dict[str, Any]:
    document = json.loads(body)
    return document if isinstance(document, dict) else {}


def main() -> None:
    """Runs the receiver until it is interrupted."""
    parser = argparse.ArgumentParser(description="Receive deployctl's notifications.")
    parser.add_argument("--port", type=int, default=8520)
    key = os.environ.get("WEBHOOK_SECRET", "").encode()
    if not key:
        sys.exit("WEBHOOK_SECRET is not set")
    receiver = Receiver(parser.parse_args().port, key)
    print(f"listening at http://127.0.0.1:{receiver.server_port}", flush=True)
    try:
        receiver.serve_forever()
    except KeyboardInterrupt:
        receiver.server_close()


if __name__ == "__main__":
    main()
