"""One operation, as it is and as it goes on: what was begun here, by a command, or by the daemon itself."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from deployctl.daemon.api.endpoints import document_answer
from deployctl.daemon.api.failures import refusal
from deployctl.daemon.api.jobs import Job, Jobs
from deployctl.documents.operations import operation_document
from deployctl.documents.text import as_text
from deployctl.domain.operation import OperationRecord, OperationState
from deployctl.errors import OperationNotFoundError, UsageError
from deployctl.lineage.guarded import GuardedJournal

if TYPE_CHECKING:
    from deployctl.daemon.interface import Work
    from deployctl.domain.authority import Authority

_STREAMS = 64
_LOOK_S = 0.2
# Proxies end what is silent for longer.
_BEAT_S = 10.0
_LAST = re.compile(r"(\d{1,6})\.(\d{1,9})", re.ASCII)


def operation_routes(work: Work, jobs: Jobs) -> Iterator[Route]:
    """Yields the routes of one operation."""
    free = threading.BoundedSemaphore(_STREAMS)

    async def show(request: Request) -> Response:
        found = _Watched(work, jobs, request.state.authority, request.path_params["operation"])
        return document_answer("operation", operation_document(await run_in_threadpool(found.look)))

    async def stream(request: Request) -> Response:
        found = _Watched(work, jobs, request.state.authority, request.path_params["operation"])
        said = request.headers.get("last-event-id", "")
        last = _LAST.fullmatch(said)
        if said and last is None:
            raise UsageError(f"the Last-Event-ID {said[:80]!r} is none of ours")
        await run_in_threadpool(found.look)
        if not free.acquire(blocking=False):
            return refusal(503, f"{_STREAMS} streams of events are open already", headers={"Retry-After": "10"})
        events = _events(work, found, int(last[1]) if last else 0, int(last[2]) if last else 0)

        async def counted() -> AsyncIterator[str]:
            try:
                async for event in events:
                    yield event
            finally:
                free.release()

        return StreamingResponse(counted(), media_type="text/event-stream")

    yield Route("/v1/operations/{operation}", show, methods=["GET"], name="getOperation")
    yield Route("/v1/operations/{operation}/events", stream, methods=["GET"], name="streamOperation")


class _Watched:
    """An operation that is looked at again and again."""

    def __init__(self, work: Work, jobs: Jobs, authority: Authority, operation: str) -> None:
        self._journal = GuardedJournal(work.shared.context.journal, authority)
        self._jobs = jobs
        self._authority = authority
        self._operation = operation

    def job(self) -> Job | None:
        """Returns the job, None where it was not begun over HTTP lately."""
        return self._jobs.find(self._operation)

    def look(self) -> OperationRecord:
        """Returns what is known of it now.

        Raises:
            OperationNotFoundError: nothing, or nothing that the token may see.
        """
        job = self.job()
        try:
            return self._journal.operation(self._operation)
        except OperationNotFoundError:
            # What is refused before it begins, and what is done at once, is in no journal.
            request = job.request if job else None
            if job is None or request is None or not self._authority.sees(request.target, request.model):
                raise
            return job.record()

    def is_over(self, record: OperationRecord) -> bool:
        """Whether nothing more will be told."""
        job = self.job()
        return record.state is not OperationState.RUNNING and (job is None or job.done.is_set())


async def _events(work: Work, found: _Watched, phases: int, steps: int) -> AsyncIterator[str]:
    """Yields what is new since so many phases and steps, then the outcome."""
    heard = time.monotonic()
    while not work.stopping.is_set():
        # Looked at before its steps: what ended has told all of them.
        record = await run_in_threadpool(found.look)
        over = found.is_over(record)
        # One that is in no journal has no phases of its own.
        for phase, at in record.phases[phases:] if record.pid else ():
            phases += 1
            yield _event("phase", f"{phases}.{steps}", {"phase": phase.value, "at": at})
            heard = time.monotonic()
        job = found.job()
        for step in [each for each in (list(job.steps) if job else []) if each.number > steps]:
            steps = step.number
            told = {"name": step.name, "text": step.text, "at": step.at}
            yield _event(step.kind, f"{phases}.{steps}", told)
            heard = time.monotonic()
        if over:
            yield _event("outcome", f"{phases}.{steps}", operation_document(await run_in_threadpool(found.look)))
            return
        if time.monotonic() - heard > _BEAT_S:
            yield ": still there\n\n"
            heard = time.monotonic()
        await asyncio.sleep(_LOOK_S)


def _event(kind: str, key: str, document: dict[str, object]) -> str:
    return f"event: {kind}\nid: {key}\ndata: {as_text(f'operation-{kind}', document)}\n\n"
