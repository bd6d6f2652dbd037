"""Collects tasks into batches and runs them in a few threads shared by all models.

tensorflow/core/kernels/batching_util/shared_batch_scheduler.h
"""

from __future__ import annotations

import abc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployctl.modelserver.interface import Code, StatusError

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor

logger = logging.getLogger(__name__)


class Waker(abc.ABC):
    """Tells whoever waits for tasks; one for many tasks, which then costs one switch of threads for a batch."""

    @abc.abstractmethod
    def wake(self, tasks: Sequence[Task]) -> None:
        """Called in a thread of the scheduler with tasks of one batch that have their results."""


class Waiting(Waker):
    """Lets a thread wait for its tasks."""

    def __init__(self, tasks: int) -> None:
        self._left = tasks
        self._lock = threading.Lock()
        self._done = threading.Event()

    def wake(self, tasks: Sequence[Task]) -> None:
        """See `Waker.wake`."""
        with self._lock:
            self._left -= len(tasks)
            if self._left <= 0:
                self._done.set()

    def wait(self) -> None:
        """Returns when all tasks have their results."""
        self._done.wait()


@dataclass(slots=True, eq=False)
class Task:
    """One request's rows.

    Attributes:
        values: by tensor name, each with `size` rows.
        key: tasks of equal keys may share a batch.
        deadline: by time.monotonic(), or None.
        waker: told when the task has its result.
        outputs: set by the queue's function.
    """

    values: dict[str, Tensor]
    size: int
    key: Hashable
    deadline: float | None
    waker: Waker
    outputs: dict[str, Tensor] | None = None
    error: StatusError | None = None

    def result(self) -> dict[str, Tensor]:
        """Returns the outputs or raises the batch's error, once the waker has been told."""
        if self.error is not None:
            raise StatusError(self.error.code, self.error.message)
        assert self.outputs is not None
        return self.outputs


@dataclass(slots=True, eq=False)
class Batch:
    """Tasks that run together."""

    queue: BatchQueue
    key: Hashable
    opened: float
    tasks: list[Task] = field(default_factory=list)
    size: int = 0
    closed: bool = False

    def time_left(self) -> float | None:
        """Seconds until the last of the deadlines; None when a task has none."""
        deadlines = [task.deadline for task in self.tasks]
        if any(deadline is None for deadline in deadlines):
            return None
        return max(deadline for deadline in deadlines if deadline is not None) - time.monotonic()


@dataclass(slots=True, eq=False)
class BatchQueue:
    """The batches of one signature, oldest first; those not closed may grow. `fetches` are its output tensors."""

    run: Callable[[Batch], None]
    fetches: Sequence[str]
    batch_size: int
    timeout_s: float
    max_batches: int
    batches: deque[Batch] = field(default_factory=deque)


class BatchScheduler:
    """Threads that run batches of many queues in turn."""

    def __init__(self, *, threads: int) -> None:
        self._condition = threading.Condition()
        self._queues: list[BatchQueue] = []
        self._next = 0
        for index in range(max(1, threads)):
            threading.Thread(target=self._work, name=f"batch {index}", daemon=True).start()

    def add_queue(
        self,
        run: Callable[[Batch], None],
        fetches: Sequence[str],
        *,
        batch_size: int,
        timeout_s: float,
        max_batches: int,
    ) -> BatchQueue:
        """Adds a queue whose batches `run` is called with; it sets each task's outputs or raises StatusError."""
        queue = BatchQueue(run, fetches, batch_size, timeout_s, max_batches)
        with self._condition:
            self._queues.append(queue)
        return queue

    def remove_queue(self, queue: BatchQueue) -> None:
        """Removes an empty queue."""
        with self._condition:
            self._queues.remove(queue)

    def submit(self, queue: BatchQueue, tasks: Sequence[Task]) -> None:
        """Puts `tasks` into batches, all or none.

        Raises:
            StatusError: RESOURCE_EXHAUSTED when there is no room.
        """
        with self._condition:
            placed: list[tuple[Batch, Task]] = []
            for task in tasks:
                batch = self._open_batch(queue, task)
                if batch is None:
                    self._take_back(queue, placed)
                    raise StatusError(
                        Code.RESOURCE_EXHAUSTED,
                        "The batch scheduling queue to which this task was submitted is full; currently "
                        f"{len(queue.batches)} batches enqueued and max_enqueued_batches is {queue.max_batches}",
                    )
                batch.tasks.append(task)
                batch.size += task.size
                batch.closed = batch.size >= queue.batch_size
                placed.append((batch, task))
            if any(batch.closed or len(batch.tasks) == 1 for batch, _ in placed):
                # A task that joins others changes nothing for the threads: one of them knows when the batch is due.
                self._condition.notify()

    def _open_batch(self, queue: BatchQueue, task: Task) -> Batch | None:
        """The batch that takes `task`: an open one with room, a new one, or None."""
        for batch in reversed(queue.batches):
            if not batch.closed and batch.key == task.key:
                if batch.size + task.size <= queue.batch_size:
                    return batch
                batch.closed = True
                break
        if len(queue.batches) >= queue.max_batches:
            return None
        batch = Batch(queue, task.key, time.monotonic())
        queue.batches.append(batch)
        return batch

    def _take_back(self, queue: BatchQueue, placed: list[tuple[Batch, Task]]) -> None:
        for batch, task in placed:
            batch.tasks.remove(task)
            batch.size -= task.size
            if not batch.tasks:
                queue.batches.remove(batch)

    def _work(self) -> None:
        while True:
            with self._condition:
                batch = self._take()
            _run(batch)

    def _take(self) -> Batch:
        """Waits for a batch that is full or has waited long enough, going round the queues."""
        while True:
            now = time.monotonic()
            wait: float | None = None
            for offset in range(len(self._queues)):
                queue = self._queues[(self._next + offset) % len(self._queues)]
                for batch in queue.batches:
                    left = 0.0 if batch.closed else batch.opened + queue.timeout_s - now
                    if left <= 0:
                        queue.batches.remove(batch)
                        self._next = (self._next + offset + 1) % len(self._queues)
                        if any(each.batches for each in self._queues):
                            self._condition.notify()
                        return batch
                    wait = left if wait is None else min(wait, left)
            self._condition.wait(wait)


def _run(batch: Batch) -> None:
    error: StatusError | None = None
    left = batch.time_left()
    if left is not None and left <= 0:
        error = StatusError(Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue")
    else:
        try:
            batch.queue.run(batch)
        except StatusError as raised:
            error = raised
        except Exception as raised:
            logger.exception("a batch of %d rows failed by a fault", batch.size)
            error = StatusError(Code.INTERNAL, f"{type(raised).__name__}: {raised}")
    waiting: dict[Waker, list[Task]] = {}
    for task in batch.tasks:
        task.error = error
        waiting.setdefault(task.waker, []).append(task)
    for waker, tasks in waiting.items():
        waker.wake(tasks)
