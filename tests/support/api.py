"""A client of the daemon's API, with a token of its own."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.support.daemon import RunningDaemon, daemon
from tests.support.workspace import HALF_PLUS_TWO, Workspace

_TIMEOUT_S = 60.0
_SAYS = "answering at "


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class ApiClient:
    """Sends what it is told to, unchanged, each time over a new connection."""

    host: str
    port: int
    token: str = ""
    source: str = "127.0.0.1"

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = HTTPConnection(self.host, self.port, timeout=_TIMEOUT_S, source_address=(self.source, 0))
        said = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        content = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        if content is not None:
            said["Content-Type"] = "application/json"
        try:
            connection.request(method, path, content, {**said, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status == 200, answer
        return answer.json

    def post(self, path: str, body: object, *, status: int = 200) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status == status, answer
        return answer.json


def eventually(look: Callable[[], Any]) -> Any:
    """Returns the first answer of `look` that is true."""
    until, pause = time.monotonic() + _TIMEOUT_S, threading.Event()
    while not (found := look()):
        assert time.monotonic() < until, found
        pause.wait(0.05)
    return found


def api_of(running: RunningDaemon, token: str = "") -> ApiClient:
    """Returns a client of a daemon, once it answers."""
    line = running.await_line(_SAYS)
    host, _, port = line["message"].removeprefix(_SAYS).partition("://")[2].rpartition(":")
    return ApiClient(host, int(port), token)


def new_token(workspace: Workspace, name: str, role: str, *words: str) -> str:
    return workspace.ok("token", "create", name, "--role", role, *words).strip()


@contextmanager
def api_alone(place: Path) -> Iterator[ApiClient]:
    """Runs a daemon beside a repository with one model, `half`, and no server; gives its API to an admin."""
    workspace = Workspace.make(place)
    workspace.publish("half", HALF_PLUS_TWO)
    token = new_token(workspace, "root", "admin")
    with daemon(workspace) as running:
        yield api_of(running, token)
        assert running.stop() == 0
        assert not [line for line in running.lines() if "trace" in line]
        assert not running.errors()


def metrics(api: ApiClient) -> dict[str, float]:
    """Returns what the page for Prometheus says, by name and labels as they are written there."""
    answer = api.ask("GET", "/metrics")
    assert answer.status == 200, answer
    lines = (line.rpartition(" ") for line in answer.body.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
