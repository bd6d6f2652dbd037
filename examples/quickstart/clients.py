"""Clients that call a model without pause, and count what they get."""

from __future__ import annotations

import http.client
import threading
from dataclasses import dataclass
from types import TracebackType

_TIMEOUT_S = 10.0


@dataclass
class Tally:
    """What the clients got."""

    answered: int = 0
    failed: int = 0


class ClosedLoop:
    """While the block runs, `clients` threads each send the same request again as soon as it is answered."""

    def __init__(self, address: str, path: str, body: str, *, clients: int) -> None:
        self.tally = Tally()
        self._address, self._path, self._body = address, path, body
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._first = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._call_on) for _ in range(clients)]

    def __enter__(self) -> ClosedLoop:
        for thread in self._threads:
            thread.start()
        for _ in self._threads:
            self._first.acquire(timeout=_TIMEOUT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(_TIMEOUT_S)

    def _call_on(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=_TIMEOUT_S)
        while not self._stop.is_set():
            answered = self._call(connection)
            with self._lock:
                self.tally.answered += answered
                self.tally.failed += not answered
            self._first.release()
        connection.close()

    def _call(self, connection: http.client.HTTPConnection) -> bool:
        try:
            connection.request("POST", self._path, self._body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return response.status == 200
