"""HTTP answers that come whole before a moment, however slowly their bytes arrive."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any


def left(deadline: float) -> float:
    """Seconds until `deadline`, a moment of `time.monotonic`.

    Raises:
        TimeoutError: it has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class TimelyResponse(http.client.HTTPResponse):
    """An answer that cannot be read after `deadline`: TimeoutError; a socket's own limit begins anew with each read."""

    def __init__(self, sock: socket.socket, *, deadline: float, **options: Any) -> None:
        super().__init__(sock, **options)
        self.fp.close()
        self.fp = io.BufferedReader(_TimelyReader(sock, deadline))


class _TimelyReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._deadline = deadline
        self._stream = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(left(self._deadline))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()
