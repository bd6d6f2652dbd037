"""Which tasks run together, when, and who is told."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest

from deployctl.modelserver.batch_scheduler import Batch, BatchQueue, BatchScheduler, Task, Waiting, Waker
from deployctl.modelserver.interface import Code, StatusError

# Nothing here takes a second, unless it never ends.
TIMEOUT_S = 30.0
LONG_S = 3600.0


class Counting(Waker):
    """Counts how often it is told, and of how many tasks."""

    def __init__(self, tasks: int) -> None:
        self.told: list[int] = []
        self.all_told = threading.Event()
        self._tasks = tasks

    def wake(self, tasks: Sequence[Task]) -> None:
        self.told.append(len(tasks))
        if sum(self.told) == self._tasks:
            self.all_told.set()


def task(waker: Waker, *, rows: int = 1, key: str = "k") -> Task:
    return Task({"x:0": np.zeros(rows, np.float32)}, rows, key, None, waker)


def echo(batch: Batch) -> None:
    for each in batch.tasks:
        each.outputs = each.values


def queue(scheduler: BatchScheduler, *, size: int, timeout_s: float = LONG_S, most: int = 10) -> BatchQueue:
    return scheduler.add_queue(echo, ["x:0"], batch_size=size, timeout_s=timeout_s, max_batches=most)


def test_whoever_waits_for_several_tasks_of_a_batch_is_told_once() -> None:
    scheduler, waker = BatchScheduler(threads=2), Counting(8)
    batches = queue(scheduler, size=8)
    tasks = [task(waker) for _ in range(8)]
    for each in tasks:
        scheduler.submit(batches, [each])
    assert waker.all_told.wait(TIMEOUT_S)
    assert waker.told == [8]
    assert all(each.result() is each.values for each in tasks)


def test_a_full_batch_of_one_queue_does_not_keep_another_from_its_time() -> None:
    # The thread that knew when the lone task was due is the one that takes the full batch.
    scheduler = BatchScheduler(threads=2)
    held, entered = threading.Event(), threading.Event()

    def hold(batch: Batch) -> None:
        entered.set()
        assert held.wait(TIMEOUT_S)
        echo(batch)

    slow = scheduler.add_queue(hold, ["x:0"], batch_size=1, timeout_s=LONG_S, max_batches=10)
    timed = queue(scheduler, size=100, timeout_s=0.2)
    alone, other = Counting(1), Counting(1)
    scheduler.submit(timed, [task(alone)])
    scheduler.submit(slow, [task(other)])
    assert entered.wait(TIMEOUT_S)
    assert alone.all_told.wait(TIMEOUT_S)
    held.set()
    assert other.all_told.wait(TIMEOUT_S)


@pytest.mark.parametrize("threads", [1, 3])
def test_every_task_of_many_queues_and_threads_is_told(threads: int) -> None:
    scheduler = BatchScheduler(threads=threads)
    queues = [queue(scheduler, size=size, timeout_s=timeout_s) for size, timeout_s in ((1, 0.0), (3, 0.001), (7, 0.01))]

    def clients(number: int) -> None:
        for turn in range(100):
            waiting = Waiting(1)
            asked = task(waiting, key=f"shape {turn % 2}")
            scheduler.submit(queues[number % 3], [asked])
            waiting.wait()
            assert asked.result() is asked.values

    running = [threading.Thread(target=clients, args=(number,), daemon=True) for number in range(6)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()


def test_tasks_of_other_shapes_do_not_run_together() -> None:
    scheduler, waker = BatchScheduler(threads=1), Counting(4)
    batches = queue(scheduler, size=2)
    for key in ("a", "b", "a", "b"):
        scheduler.submit(batches, [task(waker, key=key)])
    assert waker.all_told.wait(TIMEOUT_S)
    assert waker.told == [2, 2]


def test_a_task_that_finds_no_room_takes_none_of_its_parts_with_it() -> None:
    scheduler, waker = BatchScheduler(threads=1), Counting(2)
    batches = queue(scheduler, size=2, most=1)
    with pytest.raises(StatusError) as refused:
        scheduler.submit(batches, [task(waker, rows=2), task(waker, rows=2)])
    assert refused.value.code is Code.RESOURCE_EXHAUSTED
    scheduler.submit(batches, [task(waker), task(waker)])
    assert waker.all_told.wait(TIMEOUT_S)


def test_a_fault_is_told_to_every_task_of_its_batch() -> None:
    def fail(_: Batch) -> None:
        raise StatusError(Code.INTERNAL, "broken")

    scheduler = BatchScheduler(threads=1)
    batches = scheduler.add_queue(fail, ["x:0"], batch_size=2, timeout_s=LONG_S, max_batches=10)
    waiting = Waiting(2)
    tasks = [task(waiting), task(waiting)]
    scheduler.submit(batches, tasks)
    waiting.wait()
    for each in tasks:
        with pytest.raises(StatusError, match="broken"):
            each.result()
