"""A hot rollback from the command's start to its verified exit, while a client calls without pause."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from bench.measurement import Measurement
from bench.project import HALF_PLUS_THREE, HALF_PLUS_TWO, Project, scratch_project

_ROLLBACKS = 10


class Client(threading.Thread):
    """Calls the label `stable` over and over; 2.0 gives 3.0 or 4.0, and all else is a failure.

    Without a pause between calls it keeps a processor busy.
    """

    def __init__(self, endpoint: str, *, pause_s: float = 0.0) -> None:
        super().__init__(name="client", daemon=True)
        self._pause_s = pause_s
        self._address = urlsplit(endpoint)
        self._ending = threading.Event()
        self.requests = 0
        self.failures: list[str] = []

    def run(self) -> None:
        connection = self._connect()
        while not self._ending.wait(self._pause_s):
            self.requests += 1
            try:
                answer = self._ask(connection)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failures.append(repr(error))
                connection = self._connect()
            else:
                if answer not in ({"predictions": [3.0]}, {"predictions": [4.0]}):
                    self.failures.append(str(answer))

    def end(self) -> None:
        self._ending.set()
        self.join(timeout=60)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=30)

    def _ask(self, connection: http.client.HTTPConnection) -> Any:
        connection.request("POST", "/v1/models/half/labels/stable:predict", json.dumps({"instances": [2.0]}))
        return json.loads(connection.getresponse().read())


def run() -> list[Measurement]:
    """Measures rollbacks between two loaded versions; the promotion that leads back is not timed."""
    with scratch_project() as project, _serving(project) as client:
        took = []
        for _ in range(_ROLLBACKS):
            project.run("promote", "half@2")
            took.append(project.run("rollback", "half"))
    note = f"{len(client.failures)} of {client.requests} requests failed"
    if client.failures:
        note += f", the first with {client.failures[0]}"
    return [Measurement("hot rollback, start to exit", median(took), 0.6, failures=len(client.failures), note=note)]


@contextmanager
def _serving(project: Project) -> Iterator[Client]:
    for export in (HALF_PLUS_TWO, HALF_PLUS_THREE):
        project.run("publish", str(export), "--model", "half")
    project.run("up")
    project.run("promote", "half@1")
    status = json.loads(project.output("status", "-o", "json"))
    client = Client(status["targets"][0]["endpoints"]["rest"])
    client.start()
    try:
        yield client
    finally:
        client.end()
