"""What survives a crash: synced files and directories, renames that never replace, locks that die with their holder."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from deployctl.errors import DiskFullError, LockedError, StorageError

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock

# EFBIG: a file size limit (ulimit -f, or the file system's own) stops a write just as a full disk does.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_LOCK_POLL_S = 0.02

# linux/fs.h, linux/fcntl.h
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_SYNC_FILE_RANGE_WRITE = 2


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Raises our error in place of any OSError raised while `action` (a verb phrase) is done at `path`.

    Raises:
        DiskFullError: there is no room, or a quota or size limit was met.
        StorageError: anything else.
    """
    try:
        yield
    except OSError as error:
        raise storage_error(action, path, error) from error


def storage_error(action: str, path: Path, error: OSError) -> DiskFullError | StorageError:
    """Returns our error for `error`, which stopped `action` at `path`."""
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return DiskFullError(f"cannot {action}: {path}: {reason}", hint=f"df -h {quote(str(path))}")
    return StorageError(f"cannot {action}: {path}: {reason}", hint=f"ls -ld {quote(str(path))}")


def sync_file(path: Path) -> None:
    """Waits until the bytes and size of the file at `path` are on the disk."""
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW)


def sync_directory(path: Path) -> None:
    """Waits until the names in the directory at `path` are on the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_file_system(path: Path) -> None:
    """Waits until all that was written to the file system of the directory `path` is on the disk.

    For very many files this takes a small part of the time of syncing each.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs = _libc_function("syncfs")
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Asks the kernel to begin writing a range out, so that a later fsync finds little left; only a hint."""
    sync_file_range = _libc_function("sync_file_range")
    if sync_file_range is not None:
        sync_file_range(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def make_directory(path: Path) -> None:
    """Makes the directory at `path`, whose parent exists, durably; does nothing where it stands already."""
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_dir():
            return
        raise
    sync_directory(path.parent)


def write_new_file(path: Path, content: bytes) -> None:
    """Writes `content` to the file at `path`, replacing what is there, and waits until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        write_all(descriptor, memoryview(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: memoryview) -> None:
    """Writes all of `content`, however many calls that takes."""
    while content:
        content = content[os.write(descriptor, content) :]


def rename_without_replacing(source: Path, target: Path) -> None:
    """Renames `source` to `target` in one step.

    rename(2) alone replaces an empty directory, so this asks renameat2(2) not to; where the file system or
    the C library lacks it, `target` is looked for first.

    Raises:
        FileExistsError: something of that name is there, be it an empty directory.
    """
    renameat2 = _libc_function("renameat2")
    if renameat2 is not None:
        failed = renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE)
        if not failed:
            return
        code = ctypes.get_errno()
        if code not in {errno.ENOSYS, errno.EINVAL, errno.EPERM}:
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


@contextmanager
def exclusive_lock(path: Path, clock: Clock, *, timeout_s: float, what: str) -> Iterator[None]:
    """Holds the lock file at `path` until the block ends or the process dies; the file stays.

    Raises:
        LockedError: another process holds it for longer than `timeout_s`; `what` says what it is.
    """
    descriptor = _open_lock_file(path)
    try:
        deadline = clock.monotonic() + timeout_s
        while not try_lock(descriptor):
            if clock.monotonic() >= deadline:
                raise LockedError(
                    f"{what} is still locked by another process after {timeout_s:g} s: {path}",
                    hint=f"fuser -v {quote(str(path))}",
                )
            clock.pause(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Locks the open file for this process alone, or returns False where another holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock_file(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except PermissionError:
        # Made by another user of a shared repository; reading is enough for flock(2).
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _libc_function(name: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None, use_errno=True), name, None)
