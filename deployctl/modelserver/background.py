"""Work that stands back for requests when there are not processors enough for both."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

# About a tenth of the processor time of a thread with the usual 0, when both want all of it.
_NICENESS = 10


def in_background(work: Callable[[], Result]) -> Result:
    """Returns what `work` returns, or raises what it raises; it runs in a thread of low priority, which ends with it.

    A thread of its own, since only a privileged one may raise its priority again. Threads that it starts are of low
    priority too.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        # On Linux a thread has a niceness of its own; elsewhere the load just competes with the requests.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="background")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
