"""Processes that stand still for a while."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TIMEOUT_S = 60.0


@contextmanager
def halted(pid: int) -> Iterator[None]:
    """Halts a process, if it has not ended, while the block runs; what is signalled there stays pending.

    A signal is taken when the process is next at work, those of small numbers first: one that had not come to its halt
    would take an interrupt before it.
    """
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while _state(pid) not in ("T", "Z", ""):
            assert time.monotonic() < deadline, pid
            threading.Event().wait(0.005)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> str:
    """Returns the letter of a process's state (proc_pid_stat(5)), "" for one that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""
