"""A lock on a target that ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from time import monotonic

from deployctl.domain.event import Actor
from deployctl.errors import LockedError, StorageError
from deployctl.serving.interface import TargetLock

_PAUSE_S = 0.02


class FileTargetLock(TargetLock):
    """flock(2) on `path`: the kernel releases it at exit, crash or kill -9, so no stale lock is ever left.

    It keeps apart the operations of one machine, which is where a process target's server and its state are.
    """

    def __init__(self, path: Path, actor: Actor) -> None:
        self._path = path
        self._actor = actor

    @contextmanager
    def hold(self, *, purpose: str, timeout_s: float) -> Iterator[None]:
        """Holds the lock while the block runs; see TargetLock."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"cannot lock {self._path}: {error.strerror}") from error
        try:
            self._acquire(descriptor, timeout_s)
            # A full disk is no reason not to roll back: who holds the lock is only told to those who wait.
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{self._actor} (pid {os.getpid()}): {purpose}".encode(), 0)
            yield
        finally:
            os.close(descriptor)

    def _acquire(self, descriptor: int, timeout_s: float) -> None:
        deadline = monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if monotonic() >= deadline:
                    holder = os.pread(descriptor, 500, 0).decode(errors="replace") or "another operation"
                    raise LockedError(
                        f"target {self._path.parent.name} is in use by {holder}", hint="deployctl status"
                    ) from error
                Event().wait(_PAUSE_S)
            else:
                return
