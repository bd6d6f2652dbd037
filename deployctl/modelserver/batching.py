"""Runs requests of one signature together: tensorflow_serving/batching/batching_session.cc over one shared scheduler.

Unlike there, only requests of the same element types and row shapes share a batch (unless inputs are padded), so
that a malformed request fails alone.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import logging
import time
from collections.abc import Awaitable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deployctl.modelserver.batch_scheduler import Batch, BatchQueue, BatchScheduler, Task, Waiting, Waker
from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.runner import Runner

if TYPE_CHECKING:
    from deployctl.modelserver.interface import Tensor
    from deployctl.modelserver.signatures import LoadedSignatures

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchingOptions:
    """BatchingParameters, with the defaults of SharedBatchScheduler.

    Attributes:
        max_batch_size: rows of a request, and of a batch.
        batch_timeout_s: how long an open batch may wait for more.
        max_enqueued_batches: batches of one signature that wait or fill up; beyond that requests are refused.
        allowed_batch_sizes: ascending; batches are filled up to one of these with repeated rows.
        pad_variable_length_inputs: make rows of different shapes equal with each tensor's first value.
        split_large: spread a larger request over several batches instead of refusing it.
        max_execution_batch_size: rows of a batch when requests are split; 0 means max_batch_size.
    """

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    allowed_batch_sizes: tuple[int, ...] = field(default=())
    pad_variable_length_inputs: bool = False
    split_large: bool = False
    max_execution_batch_size: int = 0

    def __post_init__(self) -> None:
        """Checks what TensorFlow Serving checks when it makes a queue.

        Raises:
            StatusError: INVALID_ARGUMENT.
        """
        if self.max_batch_size < 1 or self.max_enqueued_batches < 1 or self.batch_timeout_s < 0:
            raise StatusError(Code.INVALID_ARGUMENT, f"Batching parameters out of range: {self}")
        sizes = self.allowed_batch_sizes
        if list(sizes) != sorted(sizes):
            raise StatusError(Code.INVALID_ARGUMENT, "allowed_batch_sizes entries must be monotonically increasing")
        if sizes and sizes[-1] != self.execution_size:
            raise StatusError(
                Code.INVALID_ARGUMENT,
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{sizes[-1]}; expected {self.execution_size}",
            )

    @property
    def execution_size(self) -> int:
        """The most rows that run together."""
        if self.split_large and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size


class BatchingRunner(Runner):
    """Puts a batch queue for each signature before a session."""

    def __init__(self, session: Runner, scheduler: BatchScheduler, options: BatchingOptions) -> None:
        self._session = session
        self._scheduler = scheduler
        self._options = options
        self._queues: dict[tuple[frozenset[str], frozenset[str]], BatchQueue] = {}
        self._waker: _LoopWaker | None = None
        for signature in session.signatures.signatures.values():
            inputs = frozenset(spec.tensor for spec in signature.inputs.values())
            outputs = frozenset(spec.tensor for spec in signature.outputs.values())
            self._queues[inputs, outputs] = scheduler.add_queue(
                self._run_batch,
                sorted(outputs),
                batch_size=options.execution_size,
                timeout_s=options.batch_timeout_s,
                max_batches=options.max_enqueued_batches,
            )

    @property
    def signatures(self) -> LoadedSignatures:
        """The signatures of the graph."""
        return self._session.signatures

    def run(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> list[Tensor]:
        """Runs the graph in a batch; calls that fit no signature, with an output filter for one, run alone."""
        values = dict(feeds)
        queue = self._queues.get((frozenset(values), frozenset(fetches)))
        if queue is None:
            return self._session.run(feeds, fetches, timeout_s=timeout_s)
        parts = self._parts(values)
        waiting = Waiting(len(parts))
        tasks = self._tasks(parts, timeout_s, waiting)
        self._scheduler.submit(queue, tasks)
        waiting.wait()
        return _joined(tasks, fetches)

    def run_soon(
        self, feeds: Sequence[tuple[str, Tensor]], fetches: Sequence[str], *, timeout_s: float | None
    ) -> Awaitable[list[Tensor]] | None:
        """Puts the call into a batch; None for calls that run alone."""
        values = dict(feeds)
        queue = self._queues.get((frozenset(values), frozenset(fetches)))
        if queue is None:
            return None
        loop = asyncio.get_running_loop()
        waker = self._waker
        if waker is None or waker.loop is not loop:
            waker = self._waker = _LoopWaker(loop)
        tasks = self._tasks(self._parts(values), timeout_s, waker)
        done = [waker.expect(task) for task in tasks]
        try:
            self._scheduler.submit(queue, tasks)
        except StatusError:
            waker.forget(tasks)
            raise

        async def results() -> list[Tensor]:
            for future in done:
                await future
            return _joined(tasks, fetches)

        return results()

    def _parts(self, values: dict[str, Tensor]) -> list[tuple[dict[str, Tensor], int]]:
        """Splits a call into what may run together; each part with its number of rows."""
        size = _row_count(values)
        limit = self._options.max_batch_size
        if size > limit and not self._options.split_large:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"Task size {size} is larger than maximum input batch size {limit}"
            )
        step = self._options.execution_size
        if size <= step:
            return [(values, size)]
        return [(_rows(values, start, start + step), min(step, size - start)) for start in range(0, size, step)]

    def _tasks(
        self, parts: Sequence[tuple[dict[str, Tensor], int]], timeout_s: float | None, waker: Waker
    ) -> list[Task]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return [Task(values, size, self._key(values), deadline, waker) for values, size in parts]

    def close(self) -> None:
        """Frees the session."""
        for queue in self._queues.values():
            self._scheduler.remove_queue(queue)
        self._session.close()

    def _key(self, values: dict[str, Tensor]) -> Hashable:
        padded = self._options.pad_variable_length_inputs
        return tuple(
            [
                (name, value.dtype.str, value.dtype.names, value.ndim if padded else value.shape[1:])
                for name, value in (sorted(values.items()) if len(values) > 1 else values.items())
            ]
        )

    def _run_batch(self, batch: Batch) -> None:
        """Runs the tasks of `batch` as one call and gives each its rows."""
        tasks = batch.tasks
        padding = self._padded_size(batch.size) - batch.size
        names = list(tasks[0].values)
        feeds = [(name, self._merged([task.values[name] for task in tasks], padding)) for name in names]
        fetches = batch.queue.fetches
        results = self._session.run(feeds, fetches, timeout_s=batch.time_left())
        for name, result in zip(fetches, results, strict=True):
            if result.ndim == 0:
                raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
            if result.shape[0] != batch.size + padding:
                raise StatusError(
                    Code.FAILED_PRECONDITION,
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
                    f"the input tensors ({name})",
                )
        start = 0
        for task in tasks:
            end = start + task.size
            task.outputs = {name: result[start:end] for name, result in zip(fetches, results, strict=True)}
            start = end

    def _padded_size(self, size: int) -> int:
        allowed = self._options.allowed_batch_sizes
        index = bisect.bisect_left(allowed, size)
        return allowed[index] if index < len(allowed) else size

    def _merged(self, values: list[Tensor], padding: int) -> Tensor:
        if self._options.pad_variable_length_inputs:
            values = _padded_rows(values)
        if padding:
            # A row of the last request is certainly a valid row.
            values = [*values, *[values[-1][:1]] * padding]
        return values[0] if len(values) == 1 else np.concatenate(values)


def _joined(tasks: Sequence[Task], fetches: Sequence[str]) -> list[Tensor]:
    outputs = [task.result() for task in tasks]
    return [
        outputs[0][name] if len(outputs) == 1 else np.concatenate([output[name] for output in outputs])
        for name in fetches
    ]


class _LoopWaker(Waker):
    """Lets an event loop wait for tasks; it is woken once for all tasks of a batch."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._expected: dict[Task, asyncio.Future[None]] = {}

    def expect(self, task: Task) -> asyncio.Future[None]:
        """Returns a future that is done when the task has its result; in the loop's thread."""
        future = self._expected[task] = self.loop.create_future()
        return future

    def forget(self, tasks: Sequence[Task]) -> None:
        """Expects no results of `tasks`; in the loop's thread."""
        for task in tasks:
            self._expected.pop(task, None)

    def wake(self, tasks: Sequence[Task]) -> None:
        """See `Waker.wake`."""
        with contextlib.suppress(RuntimeError):  # The server has ended, and with it whoever waited.
            self.loop.call_soon_threadsafe(self._settle, tasks)

    def _settle(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            future = self._expected.pop(task, None)
            if future is not None and not future.done():
                future.set_result(None)


def _row_count(values: dict[str, Tensor]) -> int:
    if not values:
        raise StatusError(Code.INVALID_ARGUMENT, "Batching Run() must have at least one input tensor")
    sizes = set()
    for value in values.values():
        if value.ndim == 0:
            raise StatusError(Code.INVALID_ARGUMENT, "Batching Run() input tensors must have at least one dimension")
        sizes.add(value.shape[0])
    if len(sizes) > 1:
        raise StatusError(Code.INVALID_ARGUMENT, "Batching Run() input tensors must have equal 0th-dimension size")
    count: int = sizes.pop()
    return count


def _rows(values: dict[str, Tensor], start: int, end: int) -> dict[str, Tensor]:
    return {name: value[start:end] for name, value in values.items()}


def _padded_rows(values: list[Tensor]) -> list[Tensor]:
    widest = np.max([value.shape[1:] for value in values], axis=0)
    padded = []
    for value in values:
        missing = [(0, 0), *((0, int(size) - have) for size, have in zip(widest, value.shape[1:], strict=True))]
        if any(after for _, after in missing) and value.size:
            value = np.pad(value, missing, constant_values=value.reshape(-1)[0])
        padded.append(value)
    return padded
