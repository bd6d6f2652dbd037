"""Operations that clients began over HTTP: run in a bounded number of threads, remembered for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from deployctl.daemon.logs import LogObserver
from deployctl.domain.event import Actor
from deployctl.domain.operation import OperationRecord, OperationRequest, OperationState, Phase
from deployctl.errors import DeployctlError, LockedError

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.daemon.interface import Work
    from deployctl.domain.authority import Authority

_log = logging.getLogger(__name__)
# The journal and the database tell of operations for longer; this is for their steps and documents.
_KEPT, _KEPT_STEPS = 200, 200
_RUNNING = 8
_BEGIN_TIMEOUT_S = 10.0
_SLICE_S = 0.25


class BusyError(LockedError):
    """As many operations run for clients as may at once."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that an operation did, or warned of; `number` counts from 1."""

    number: int
    kind: str
    name: str
    text: str
    at: datetime


@dataclass(slots=True)
class Job:
    """One operation.

    Attributes:
        document: what came of it, None before its end or where it failed.
        error: why it failed, None where it did not.
        key: the client's Idempotency-Key, "" without one.
        said: what the client asked for, to tell another request with the same key from the same one.
    """

    request: OperationRequest
    actor: Actor
    owner: str
    key: str
    said: object
    began: datetime
    operation: str = ""
    document: dict[str, Any] | None = None
    error: DeployctlError | None = None
    ended: datetime | None = None
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=_KEPT_STEPS))
    begun: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)

    def record(self) -> OperationRecord:
        """Returns what is known of it, as the journal would tell of one that never got as far as the journal."""
        state = OperationState.RUNNING
        if self.done.is_set():
            state = OperationState.FAILED if self.error else OperationState.DONE
        return OperationRecord(
            id=self.operation,
            request=self.request,
            actor=str(self.actor),
            host="",
            pid=0,
            state=state,
            phases=((Phase.CHECK, self.began),),
            ended_at=self.ended,
            exit_code=None if self.ended is None else (self.error.exit_code if self.error else 0),
            outcome=str(self.error) if self.error else "",
        )


class _JobObserver(LogObserver):
    def __init__(self, job: Job, now: Callable[[], datetime]) -> None:
        self._job = job
        self._now = now
        self._count = 0

    def step(self, name: str, text: str) -> None:
        """Keeps, and logs, one finished step."""
        super().step(name, text)
        self._keep("step", name, text)

    def warn(self, text: str) -> None:
        """Keeps, and logs, a warning."""
        super().warn(text)
        self._keep("warning", "", text)

    def _keep(self, kind: str, name: str, text: str) -> None:
        self._count += 1
        self._job.steps.append(Step(self._count, kind, name, text, self._now()))


class Jobs:
    """What runs, and what ran lately."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(_RUNNING)
        self._jobs: OrderedDict[str, Job] = OrderedDict()

    def find(self, operation: str) -> Job | None:
        """Returns a job by its operation's id, None where it is not one of ours or too long ago."""
        with self._lock:
            return self._jobs.get(operation)

    def begun(self, authority: Authority, key: str) -> Job | None:
        """Returns the job that the same token began with the same key, None without one."""
        with self._lock:
            mine = (job for job in self._jobs.values() if key and (job.owner, job.key) == (authority.id, key))
            return next(mine, None)

    def begin(
        self,
        request: OperationRequest,
        act: Callable[[Deployment], dict[str, Any]],
        *,
        authority: Authority,
        command: str,
        key: str = "",
        said: object = None,
    ) -> Job:
        """Begins an operation and returns once it has an id.

        Raises:
            BusyError: too many run already.
        """
        if not self._free.acquire(blocking=False):
            raise BusyError(f"{_RUNNING} operations run already for clients of the API", hint="deployctl op list")
        clock = self._work.shared.context.clock
        actor = Actor(authority.name, authority.address, "", command)
        job = Job(request, actor, authority.id, key, said, clock.now())
        threading.Thread(target=self._run, args=(job, act, authority), name=f"api {request.verb}", daemon=True).start()
        job.begun.wait(_BEGIN_TIMEOUT_S)
        return job

    def wait(self, job: Job, timeout_s: float) -> bool:
        """Returns whether the job has ended, after `timeout_s` or when the daemon ends at the latest."""
        until = time.monotonic() + timeout_s
        while not job.done.is_set() and not self._work.stopping.is_set() and time.monotonic() < until:
            job.done.wait(min(_SLICE_S, max(0.0, until - time.monotonic())))
        return job.done.is_set()

    def finish(self, timeout_s: float) -> None:
        """Waits for what runs; what is longer is parked."""
        until = time.monotonic() + timeout_s
        with self._lock:
            running = [job for job in self._jobs.values() if not job.done.is_set()]
        for job in running:
            job.done.wait(max(0.0, until - time.monotonic()))

    def _run(self, job: Job, act: Callable[[Deployment], dict[str, Any]], authority: Authority) -> None:
        clock = self._work.shared.context.clock
        observer = _JobObserver(job, clock.now)
        try:
            command = job.actor.command
            with self._work.operation(command, actor=job.actor, observer=observer, authority=authority) as deployment:
                job.operation = deployment.context.operation
                self._keep(job)
                job.begun.set()
                # Of what the record does not tell of, such as gc, this is what is left.
                _log.info("%s for %s", job.actor.command, job.actor)
                job.document = act(deployment)
        except DeployctlError as error:
            job.error = error
            _log.warning("%s by %s failed: %s", job.request, job.actor, error)
        except Exception:  # noqa: BLE001 - a bug ends this operation only; its trace is told here, and to nobody else
            job.error = DeployctlError("this is a bug of deployctl; its trace is in the daemon's log")
            _log.exception("%s by %s ended by a bug", job.request, job.actor)
        finally:
            job.ended = clock.now()
            job.done.set()
            job.begun.set()
            self._free.release()

    def _keep(self, job: Job) -> None:
        with self._lock:
            self._jobs[job.operation] = job
            over = len(self._jobs) - _KEPT
            for operation in [name for name, each in self._jobs.items() if each.done.is_set()][: max(0, over)]:
                del self._jobs[operation]
