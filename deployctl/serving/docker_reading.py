"""Reading from an engine on this machine without Docker's SDK, whose loading takes a sixth of a rollback's time."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import closing
from typing import Any
from urllib.parse import quote, urlencode

_PIECE_BYTES = 1 << 16


def read(path_of_socket: str, path: str, query: Mapping[str, str], *, timeout_s: float) -> Any:
    """Returns the JSON of one GET, None where the answer is not a plain 200.

    The SDK then asks again, and says what is wrong.

    Without a version in its path the engine answers as its newest does. In HTTP/1.0 the end of the connection is that
    of the answer (RFC 1945, section 7.2.2), so that nothing else of the protocol is needed.

    Args:
        path_of_socket: of the engine.
        path: without a version, not escaped.
        query: by name.
        timeout_s: for each piece of the answer.

    Raises:
        TimeoutError: the engine took the connection, and says nothing.
    """
    target = quote(path, safe="/:@") + ("?" + urlencode(query) if query else "")
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
            connection.settimeout(timeout_s)
            connection.connect(path_of_socket)
            connection.sendall(f"GET {target} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
            answer = b"".join(iter(lambda: connection.recv(_PIECE_BYTES), b""))
    except TimeoutError:
        raise
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if status != [b"200"] or b"\r\ntransfer-encoding:" in head.lower():
        return None
    try:
        return json.loads(body)
    except ValueError:
        return None
