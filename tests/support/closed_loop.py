"""A client that asks one model over and over, and notes every answer that it does not get."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_TIMEOUT_S = 30.0
# A little thinking time leaves the machine's processors to what is tested.
_THINKING_S = 0.002


class ClosedLoop:
    """Posts `{"instances": [2.0]}` to `path` of the server at `url` over one connection.

    Attributes:
        answers: how often each first prediction came.
        failures: what came instead of one.
    """

    def __init__(self, url: str, path: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_TIMEOUT_S)
        self._path = path
        self._ending = threading.Event()
        self.answers: dict[float, int] = {}
        self.failures: list[str] = []

    @contextmanager
    def running(self) -> Iterator[ClosedLoop]:
        """Asks while the block runs."""
        thread = threading.Thread(target=self._ask_on)
        thread.start()
        try:
            yield self
        finally:
            self._ending.set()
            thread.join(_TIMEOUT_S * 2)
            self._connection.close()

    def _ask_on(self) -> None:
        while not self._ending.wait(_THINKING_S):
            try:
                self._connection.request("POST", self._path, json.dumps({"instances": [2.0]}))
                response = self._connection.getresponse()
                text = response.read().decode()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                self._connection.close()
                continue
            if response.status != 200:
                self.failures.append(text)
                continue
            answer = float(json.loads(text)["predictions"][0])
            self.answers[answer] = self.answers.get(answer, 0) + 1
