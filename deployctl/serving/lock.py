"""A lock on a target that ends with the process that holds it, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deployctl.domain.event import Actor
from deployctl.errors import StorageError
from deployctl.files import file_lock
from deployctl.serving.interface import TargetLock


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
        holder = f"{self._actor} (pid {os.getpid()}): {purpose}"
        what = f"target {self._path.parent.name}"
        with ExitStack() as held:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(file_lock(self._path, what=what, holder=holder, timeout_s=timeout_s))
            except OSError as error:
                raise StorageError(f"cannot lock {self._path}: {error.strerror}") from error
            yield
