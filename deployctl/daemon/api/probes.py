"""Whether the daemon lives and could work, and its metrics: what balancers, watchers and Prometheus ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from deployctl.daemon.api.failures import json_answer
from deployctl.daemon.metrics import metrics_page
from deployctl.domain.names import TargetName
from deployctl.domain.serving import ServerCondition
from deployctl.errors import DeployctlError

if TYPE_CHECKING:
    from deployctl.daemon.interface import Work
    from deployctl.domain.authority import Authority

_TIMEOUT_S = 3.0
# How long an answer is good for: asking often must not cost anything.
_FRESH_S = 2.0
_TARGET = "target "
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Check:
    """One thing that the daemon needs, asked in a thread of its own for as long as it takes, and never twice at once.

    Args:
        ask: returns what is wrong, "" for nothing.
    """

    def __init__(self, name: str, ask: Callable[[], str]) -> None:
        self.name = name
        self._ask = ask
        self._changed = threading.Condition()
        self._running = False
        self._answer = "it was not asked yet"
        self._at = float("-inf")

    def begin(self) -> None:
        """Asks, unless that is under way or was done a moment ago."""
        with self._changed:
            if not self._running and time.monotonic() - self._at > _FRESH_S:
                self._running = True
                threading.Thread(target=self._run, name=f"readyz {self.name}", daemon=True).start()

    def answer(self, until: float) -> str:
        """Returns what is wrong, at `until` on the monotonic clock at the latest."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._running, max(0.0, until - time.monotonic())):
                return f"it did not answer within {_TIMEOUT_S:g} s"
            return self._answer

    def _run(self) -> None:
        try:
            answer = self._ask()
        except DeployctlError as error:
            answer = str(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is wrong
            answer = f"{type(error).__name__}: {error}"
        with self._changed:
            self._answer, self._at, self._running = answer, time.monotonic(), False
            self._changed.notify_all()


def probe_routes(work: Work) -> Iterator[Route]:
    """Yields /healthz, /readyz and /metrics."""
    checks = list(_checks(work))

    async def healthz(_: Request) -> Response:
        return json_answer({"alive": True})

    async def readyz(request: Request) -> Response:
        answers = await run_in_threadpool(_asked, checks)
        ready = not any(answers.values())
        document = {"ready": ready, **_told(answers, request.state.authority)}
        return json_answer(document, status=200 if ready else 503)

    async def metrics(request: Request) -> Response:
        request.state.authority.require("metrics")
        return PlainTextResponse(await run_in_threadpool(metrics_page, work), media_type=_PROMETHEUS)

    yield Route("/healthz", healthz, methods=["GET"])
    yield Route("/readyz", readyz, methods=["GET"])
    yield Route("/metrics", metrics, methods=["GET"])


def _told(answers: dict[str, str], authority: Authority | None) -> dict[str, Any]:
    """Returns what may be told: names of targets, and what is wrong, are nobody's business who has no token."""
    if authority is None:
        checks = {"database": True, "store": True, "targets": True}
        for name, answer in answers.items():
            key = name if name in checks else "targets"
            checks[key] = checks[key] and not answer
        return {"checks": checks}
    seen = {
        name: answer
        for name, answer in answers.items()
        if not name.startswith(_TARGET) or authority.sees(TargetName(name.removeprefix(_TARGET)))
    }
    checks = {name: not answer for name, answer in seen.items()}
    return {"checks": checks, "problems": {name: answer for name, answer in seen.items() if answer}}


def _asked(checks: list[Check]) -> dict[str, str]:
    """Asks all at once, since each may take its time."""
    for check in checks:
        check.begin()
    until = time.monotonic() + _TIMEOUT_S
    return {check.name: check.answer(until) for check in checks}


def _checks(work: Work) -> Iterator[Check]:
    shared = work.shared

    def database() -> str:
        shared.lineage.folded_sequence()
        return ""

    def store() -> str:
        shared.repository.models()
        return ""

    yield Check("database", database)
    yield Check("store", store)
    for name in work.settings.targets:
        yield Check(f"{_TARGET}{name}", partial(_target_problem, work, name))


def _target_problem(work: Work, name: str) -> str:
    lineage = work.shared.lineage
    target = work.shared.target(name)
    if lineage.running(target.name) is False or not lineage.current(target.name):
        # Nothing is to be served there: that is as it should be.
        return ""
    condition = target.runtime.state(timeout_s=_TIMEOUT_S).condition
    return "" if condition is ServerCondition.READY else f"its server is {condition.value}"
