"""Small files that several programs use at once: replaced whole, or held as a lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from deployctl.errors import LockedError

_POLL_S = 0.02
# No writer takes so long: what is older was left by one that was killed.
_OLD_S = 3600.0


def write_durably(path: Path, text: str) -> None:
    """Replaces `path` by `text`: a reader, and a machine that stops at any moment, finds the old text or the new.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    _replace(path, text, durable=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def replace_text(path: Path, text: str) -> None:
    """Replaces `path` by `text` as `write_durably` does, but for a machine that stops: for what ends with it.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    _replace(path, text, durable=False)


def _replace(path: Path, text: str, *, durable: bool) -> None:
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            # A server that runs as another user reads it through its mount.
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        # An interrupt may come when it has its name already, and is not to be taken for a file that is missing.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sweep(path: Path) -> None:
    """Removes what writers of `path` that were killed left beside it; none may be writing it now."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)


def sweep_directory(directory: Path) -> None:
    """Removes what writers that were killed left in `directory`, unless somebody may be writing it still.

    What cannot be removed stays: no operation fails for it.
    """
    now = time.time()
    with contextlib.suppress(OSError):
        for left in directory.glob(".*"):
            if now - left.stat().st_mtime > _OLD_S:
                left.unlink()


@contextlib.contextmanager
def file_lock(path: Path, *, what: str, holder: str, timeout_s: float) -> Iterator[None]:
    """Holds the flock(2) of `path` while the block runs; the kernel lets it go at exit, crash or kill -9.

    Args:
        path: made where it is missing; its directory must be there.
        what: what is kept apart by it, e.g. "target local".
        holder: who holds it and what for; told to whoever waits in vain.
        timeout_s: how long to wait for another process, or another thread.

    Raises:
        LockedError: it was still held then.
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _acquired(descriptor, timeout_s=timeout_s):
            found = os.pread(descriptor, 500, 0).decode(errors="replace") or "another process"
            raise LockedError(f"{what} is in use by {found}, still after {timeout_s:g} s", hint="deployctl status")
        # A full disk is no reason not to roll back: who holds the lock is only told to those who wait.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        # The file stays: removing it would let two processes lock two files of one name.
        os.close(descriptor)


def _acquired(descriptor: int, *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            pause.wait(_POLL_S)
        else:
            return True
