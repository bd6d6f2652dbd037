"""Files by their sha256, each stored once however many versions have it, fetched in ranges and resumed.

<directory>/<2 digits>/<sha256>          a verified file; versions are hard links to it
<directory>/<2 digits>/<sha256>.part     what has arrived so far; locked by who fetches it
<directory>/<2 digits>/<sha256>.*.part   a small file while it is written
<directory>/<2 digits>/<sha256>.ranges   one line for each range that has arrived
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.manifest import FileEntry
from deployctl.errors import DamagedTransferError
from deployctl.repository.copying import Work
from deployctl.repository.durable import write_all

if TYPE_CHECKING:
    from deployctl.domain.clock import Observer

Read = Callable[[str, int, int], bytes]
"""Returns bytes of the file at a path of the version: path, start, length."""

# https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html: ranges of 8 to 16 MB.
RANGE = 8 << 20
_HASH_PIECE = 1 << 20
_TRIES = 2


@dataclass(frozen=True, slots=True)
class FileStore:
    """Verified files by their sha256."""

    directory: Path

    def path(self, sha256: str) -> Path:
        """Returns where the file of that sha256 is, or would be."""
        return self.directory / sha256[:2] / sha256

    def has(self, entry: FileEntry) -> bool:
        """Whether the file is here whole; it was verified before it got its name."""
        try:
            return self.path(entry.sha256).stat().st_size == entry.size
        except FileNotFoundError:
            return False

    def fetch(self, entries: list[FileEntry], read: Read, observer: Observer, *, workers: int) -> None:
        """Fetches the files that are not here, each content once, going on where an earlier attempt was interrupted.

        Raises:
            DamagedTransferError: what arrives does not have the sha256 that it should have.
        """
        wanted = {entry.sha256: entry for entry in sorted(entries, reverse=True) if not self.has(entry)}
        work = Work(observer, sum(entry.size for entry in wanted.values()))
        for directory in {self.path(sha256).parent for sha256 in wanted}:
            directory.mkdir(parents=True, exist_ok=True)
        small = [entry for entry in wanted.values() if entry.size <= RANGE]
        # In one order for all, so that two that want the same large files do not wait for each other.
        large = sorted((entry for entry in wanted.values() if entry.size > RANGE), key=lambda entry: entry.sha256)
        with ExitStack() as stack:
            partial = [stack.enter_context(_Partial(self.path(entry.sha256), entry)) for entry in large]
            for _ in range(_TRIES):
                unfinished = [each for each in partial if not each.is_done()]
                pieces = [piece for each in unfinished for piece in each.missing(work)]
                work.each(lambda piece: piece[0].fetch(piece[1], read, work), pieces, workers=workers)
                work.each(lambda each: each.settle(), unfinished)
            for each in partial:
                each.require_done()
            work.each(lambda entry: self._fetch_small(entry, read, work), small, workers=workers)

    def _fetch_small(self, entry: FileEntry, read: Read, work: Work) -> None:
        """Fetches a file in one piece; two processes that do so at once put the same bytes in the same place."""
        bodies = (read(entry.path, 0, entry.size) if entry.size else b"" for _ in range(_TRIES))
        body = next((each for each in bodies if _sha256(each) == entry.sha256), None)
        if body is None:
            raise _wrong(entry)
        final = self.path(entry.sha256)
        part = f"{final}.{os.getpid()}-{threading.get_ident()}.part"
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o444)
        try:
            write_all(descriptor, memoryview(body))
        finally:
            os.close(descriptor)
        os.rename(part, final)
        work.advance(entry.size)


class _Partial:
    """One large file on its way, locked for us."""

    def __init__(self, final: Path, entry: FileEntry) -> None:
        self.entry = entry
        self._final = final
        self._part = final.with_name(f"{entry.sha256}.part")
        self._ranges = final.with_name(f"{entry.sha256}.ranges")
        self._descriptor = -1
        self._journal = -1

    def __enter__(self) -> _Partial:
        self._descriptor = _locked(self._part)
        self._journal = os.open(self._ranges, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if self.is_done():  # another process finished it while we waited for the lock
            self._forget()
        else:
            os.ftruncate(self._descriptor, self.entry.size)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        os.close(self._journal)

    def is_done(self) -> bool:
        """Whether the file is verified and has its name."""
        return self._final.exists()

    def missing(self, work: Work) -> list[tuple[_Partial, int]]:
        """Returns the starts of the ranges that have not arrived."""
        done = {int(line) for line in os.pread(self._journal, 1 << 24, 0).split(b"\n")[:-1] if line.isdigit()}
        starts = range(0, self.entry.size, RANGE)
        work.advance(sum(self._length(start) for start in starts if start in done))
        return [(self, start) for start in starts if start not in done]

    def fetch(self, start: int, read: Read, work: Work) -> None:
        """Fetches one range."""
        body = read(self.entry.path, start, self._length(start))
        write_at(self._descriptor, body, start)
        os.write(self._journal, b"%d\n" % start)
        work.advance(len(body))

    def settle(self) -> None:
        """Gives the file its name if its bytes are right, or forgets all that has arrived."""
        digest = hashlib.sha256()
        offset = 0
        while piece := os.pread(self._descriptor, _HASH_PIECE, offset):
            digest.update(piece)
            offset += len(piece)
        if digest.hexdigest() == self.entry.sha256:
            os.fchmod(self._descriptor, 0o444)
            os.rename(self._part, self._final)
            self._ranges.unlink(missing_ok=True)
        else:
            os.ftruncate(self._journal, 0)

    def require_done(self) -> None:
        """Raises DamagedTransferError unless the file is here."""
        if not self.is_done():
            self._forget()
            raise _wrong(self.entry)

    def _forget(self) -> None:
        self._part.unlink(missing_ok=True)
        self._ranges.unlink(missing_ok=True)

    def _length(self, start: int) -> int:
        return min(RANGE, self.entry.size - start)


def _locked(part: Path) -> int:
    """Opens `part`, alone among processes and threads; waits for another that has it."""
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # The one we waited for may have given the file its name, or removed it.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(part), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def write_at(descriptor: int, body: bytes, start: int) -> None:
    """Writes all of `body` at `start` of the open file, however many calls that takes."""
    view = memoryview(body)
    while view:
        written = os.pwrite(descriptor, view, start)
        view, start = view[written:], start + written


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _wrong(entry: FileEntry) -> DamagedTransferError:
    return DamagedTransferError(
        f"{entry.path} arrives with other bytes than its manifest records (sha256 {entry.sha256})",
        hint="deployctl doctor",
    )
