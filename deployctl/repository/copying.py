"""Copies and hashes the files of a tree in one pass, several at once."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deployctl.domain.manifest import FileEntry
from deployctl.errors import ExportChangedError, InvalidModelError, UnreadableExportError
from deployctl.repository.durable import start_writeback, storage_errors, sync_directory, sync_file, write_all
from deployctl.repository.tree import FoundFile, Tree, stamp_of

if TYPE_CHECKING:
    from deployctl.domain.clock import Observer

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK = 2 << 20
_BUFFERS = 3
# Below this a second thread costs more than it saves.
_PIPELINE_FROM = 16 << 20
_WRITEBACK_EVERY = 32 << 20
# linux/fs.h: _IOW(0x94, 9, int)
_FICLONE = 0x40049409


class Cancelled(Exception):  # noqa: N818 - a signal between threads, never seen by callers
    """Another file failed first."""


class Work:
    """One pass over many files: counts bytes for an observer, and stops early when a file fails."""

    def __init__(self, observer: Observer, total_bytes: int) -> None:
        self._observer = observer
        self._total = total_bytes
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def advance(self, count: int) -> None:
        """Counts `count` more bytes.

        Raises:
            Cancelled: the pass is being abandoned.
        """
        if self._stop.is_set():
            raise Cancelled
        with self._lock:
            self._done += count
            self._observer.progress(self._done, self._total)

    def each(
        self, action: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None
    ) -> tuple[Result, ...]:
        """Returns `action` of every item, in order, done by several threads; raises the first failure."""
        with ThreadPoolExecutor(workers or _workers(), thread_name_prefix="files") as pool:
            futures = [pool.submit(action, item) for item in items]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                _raise_first(futures)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            return tuple(future.result() for future in futures)


def copy_tree(tree: Tree, destination: Path, observer: Observer) -> tuple[FileEntry, ...]:
    """Copies `tree` into the empty directory `destination`, durably; returns its files hashed, sorted by path.

    The hash is of the bytes that were written, not of a second reading. Only contents are kept: files become
    0644 and directories 0755, less the umask.

    Raises:
        ExportChangedError: a file is not what it was when the tree was scanned.
        UnreadableExportError: a file cannot be read.
        DiskFullError: there is no room.
        StorageError: the destination refuses a write.
    """
    work = Work(observer, tree.size_bytes)
    with storage_errors("write the copy", destination):
        directories = _make_directories(tree, destination)
        with _directory(tree.root) as root:
            # Largest first: the last file to finish should be a small one.
            largest_first = sorted(tree.files, key=lambda file: -file.stamp.size)
            entries = work.each(lambda file: _copy_file(tree, root, file, destination, work), largest_first)
        work.each(sync_file, [destination / file.path for file in tree.files])
        for directory in reversed(directories):
            sync_directory(directory)
    return tuple(sorted(entries))


@contextmanager
def opened(tree: Tree, file: FoundFile) -> Iterator[int]:
    """Opens a file of `tree` for reading; at the end of the block it must still be what it was when it was found.

    Raises:
        ExportChangedError: it is not.
        UnreadableExportError: it cannot be read.
    """
    with _directory(tree.root) as root, _source(tree, root, file) as source:
        yield source
        _refuse_change(tree, file, os.fstat(source), file.stamp.size)


def hash_tree(tree: Tree, observer: Observer) -> tuple[FileEntry, ...]:
    """Returns the files of `tree` hashed, sorted by path.

    Raises:
        ExportChangedError: a file is not what it was when the tree was scanned.
        UnreadableExportError: a file cannot be read.
    """
    work = Work(observer, tree.size_bytes)
    with _directory(tree.root) as root:
        return work.each(lambda file: _hash_file(tree, root, file, work), tree.files)


def can_clone(tree: Tree, directory: Path) -> bool:
    """Whether the file system can copy the tree's largest file into `directory` without using room for it."""
    largest = max(tree.files, key=lambda file: file.stamp.size, default=None)
    if largest is None:
        return False
    probe = directory / "clone-probe"
    with _directory(tree.root) as root, _source(tree, root, largest) as source:
        target = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            return _clone(source, target)
        finally:
            os.close(target)
            probe.unlink()


def _make_directories(tree: Tree, destination: Path) -> list[Path]:
    """Makes the directories that the files need; returns them, `destination` first, each after its parent."""
    needed = {parent for file in tree.files for parent in Path(file.path).parents}
    directories = [destination / parent for parent in sorted(needed | {Path()})]
    for directory in directories[1:]:
        directory.mkdir(0o755)
    return directories


def _copy_file(tree: Tree, root: int, file: FoundFile, destination: Path, work: Work) -> FileEntry:
    with _source(tree, root, file) as source:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        target = os.open(destination / file.path, flags, 0o644)
        try:
            if _clone(source, target):
                size, sha256 = _digest(target, None, tree, file, work)
            else:
                size, sha256 = _digest(source, target, tree, file, work)
            _refuse_change(tree, file, os.fstat(source), size)
            start_writeback(target, 0, 0)
        finally:
            os.close(target)
    return FileEntry(file.path, size, sha256)


def _hash_file(tree: Tree, root: int, file: FoundFile, work: Work) -> FileEntry:
    with _source(tree, root, file) as source:
        size, sha256 = _digest(source, None, tree, file, work)
        _refuse_change(tree, file, os.fstat(source), size)
    return FileEntry(file.path, size, sha256)


def _digest(source: int, target: int | None, tree: Tree, file: FoundFile, work: Work) -> tuple[int, str]:
    """Reads `source` to its end, writes it to `target` if there is one; returns its size and sha256."""
    digest = hashlib.sha256()
    size = 0
    for chunk in _chunks(source, digest.update, tree, file):
        if target is not None:
            write_all(target, chunk)
            if (size + len(chunk)) // _WRITEBACK_EVERY != size // _WRITEBACK_EVERY:
                start_writeback(target, 0, 0)
        size += len(chunk)
        work.advance(len(chunk))
    return size, digest.hexdigest()


def _chunks(source: int, update: Callable[[memoryview], None], tree: Tree, file: FoundFile) -> Iterator[memoryview]:
    """Yields `source` piece by piece, each given to `update` in order; for a large file by a thread beside."""
    if file.stamp.size < _PIPELINE_FROM:
        buffer = memoryview(bytearray(min(_CHUNK, file.stamp.size + 1)))
        while count := _read(source, buffer, tree, file):
            update(buffer[:count])
            yield buffer[:count]
        return
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as beside:
        for buffer in cycle([memoryview(bytearray(_CHUNK)) for _ in range(_BUFFERS)]):
            if len(pending) == _BUFFERS:
                pending.popleft().result()
            count = _read(source, buffer, tree, file)
            if not count:
                break
            pending.append(beside.submit(update, buffer[:count]))
            yield buffer[:count]
        for update_done in pending:
            update_done.result()


def _read(source: int, buffer: memoryview, tree: Tree, file: FoundFile) -> int:
    try:
        return os.readv(source, [buffer])
    except OSError as error:
        raise _unreadable(tree, file, error) from error


@contextmanager
def _source(tree: Tree, root: int, file: FoundFile) -> Iterator[int]:
    """Opens `file` by its real path below `root`, following no symlink on the way, and checks that it is the same."""
    descriptor = root
    try:
        for depth, name in enumerate(file.real, start=1):
            # O_NONBLOCK: a FIFO put in the file's place must not hang us.
            flags = os.O_NONBLOCK if depth == len(file.real) else os.O_DIRECTORY
            parent = descriptor
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=parent)
            finally:
                if parent != root:
                    os.close(parent)
    except OSError as error:
        raise _unreadable(tree, file, error) from error
    try:
        _refuse_change(tree, file, os.fstat(descriptor), file.stamp.size)
        yield descriptor
    finally:
        os.close(descriptor)


def _refuse_change(tree: Tree, file: FoundFile, status: os.stat_result, size: int) -> None:
    if stamp_of(status) != file.stamp or size != file.stamp.size:
        raise ExportChangedError(str(tree.root), f"changed while it was read: {file.path!r}")


def _unreadable(tree: Tree, file: FoundFile, error: OSError) -> InvalidModelError:
    if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENOTDIR}:
        return ExportChangedError(str(tree.root), f"changed while it was read: {file.path!r}: {error.strerror}")
    return UnreadableExportError(str(tree.root), f"cannot be read at {file.path!r}: {error.strerror}")


def _clone(source: int, target: int) -> bool:
    """Makes `target` share the blocks of `source`; False where the file systems cannot."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM}:
            return False
        raise
    return True


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _raise_first(futures: list[Future[Result]]) -> None:
    failures = [future.exception() for future in futures if future.done() and not future.cancelled()]
    for failure in sorted((failure for failure in failures if failure), key=lambda each: isinstance(each, Cancelled)):
        raise failure


def _workers() -> int:
    """Threads for one pass: more than cores, since some of them wait for the disk."""
    return min(8, 2 * len(os.sched_getaffinity(0)))
