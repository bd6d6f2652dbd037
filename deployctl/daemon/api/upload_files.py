"""Files that clients have sent: each known by its SHA-256, whole or not yet, and apart for each token."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from deployctl.errors import DiskFullError, LockedError, PreconditionError, StorageError, UsageError
from deployctl.repository.tree import MAX_FILES, is_restorable

# How long after its last use a file that a client has sent is kept, whole or not.
KEPT_S = 24 * 3600.0
_CHUNK = 1 << 20
# What stays free of the disk, for those who publish what is sent.
_RESERVE_BYTES = 64 << 20
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class SentFile:
    """One file of what is sent.

    Attributes:
        path: where it belongs, POSIX separators; "" where a file is sent by itself.
        sha256: in hexadecimal.
        size: in bytes.
    """

    path: str
    sha256: str
    size: int


def parse_files(document: Any) -> tuple[SentFile, ...]:
    """Returns the files of a JSON list of objects with `path`, `sha256` and `size`.

    Raises:
        UsageError: it is no such list, a path could lead out of where it belongs, or one is there twice.
    """
    if not isinstance(document, list) or len(document) > MAX_FILES:
        raise UsageError(f"the files are no list of at most {MAX_FILES}")
    files = tuple(_parse_file(each) for each in document)
    paths = {each.path for each in files}
    if len(paths) != len(files) or any(str(parent) in paths for path in paths for parent in _parents(path)):
        raise UsageError("a path is there twice among the files, or is both a file and a directory")
    return files


def _parse_file(document: Any) -> SentFile:
    if not isinstance(document, dict) or set(document) != {"path", "sha256", "size"}:
        raise UsageError("a file is no object with path, sha256 and size")
    path, sha256, size = document["path"], document["sha256"], document["size"]
    if not isinstance(path, str) or not is_within(path):
        raise UsageError(f"the path {path!r} leads out of where it belongs, or cannot be kept")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise UsageError(f"the size {size!r} of {path!r} is no number of bytes")
    return SentFile(path, check_sha256(sha256), size)


def is_within(path: str) -> bool:
    """Whether a path stays below the directory that it is joined to, and can be kept as it is."""
    parts = path.split("/") if path else []
    return len(path) <= 4096 and all(
        part not in {"", ".", ".."} and len(part.encode(errors="surrogatepass")) <= 255 and is_restorable(part)
        for part in parts
    )


def _parents(path: str) -> Iterator[PurePosixPath]:
    yield from (parent for parent in PurePosixPath(path).parents if str(parent) != ".")


def check_sha256(text: Any) -> str:
    """Returns a SHA-256 in lower-case hexadecimal.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(text, str) or len(text) != 64 or not set(text) <= _HEX:
        raise UsageError(f"{text!r} is no SHA-256 in lower-case hexadecimal")
    return text


class Uploads:
    """What one token has sent.

    Args:
        directory: the token's own; made when something is sent.
        max_bytes: of one file and of one export; 0 for no bound.
    """

    def __init__(self, directory: Path, *, max_bytes: int) -> None:
        self._whole = directory / "whole"
        self._parts = directory / "parts"
        self._max_bytes = max_bytes

    def lacking(self, files: Sequence[SentFile]) -> dict[str, int]:
        """Returns how many bytes are there already of each file that is not there whole, by its SHA-256.

        Raises:
            UsageError: they are larger than one export may be.
            DiskFullError: there is no room for them.
        """
        total = sum(each.size for each in files)
        if self._max_bytes and total > self._max_bytes:
            raise UsageError(
                f"{total} bytes are more than the {self._max_bytes} that one upload may have",
                hint="deployctl config show",
            )
        found = {each.sha256: self._have(each) for each in files if not self.holds(each)}
        sizes = {each.sha256: each.size for each in files}
        self._check_room(sum(sizes[sha256] - have for sha256, have in found.items()))
        return found

    def holds_good(self, file: SentFile) -> bool:
        """Whether a file is there whole, with the bytes that it had when it came; one with others is forgotten."""
        path = self._whole / file.sha256
        with suppress(OSError):
            if os.stat(path).st_size == file.size:
                with path.open("rb") as stream:
                    if hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256:
                        return True
            path.unlink()
        return False

    def holds(self, file: SentFile) -> bool:
        """Whether a file is there whole."""
        with suppress(OSError):
            return os.stat(self._whole / file.sha256).st_size == file.size
        return False

    def offer(self, file: SentFile, path: Path) -> bool:
        """Takes a file of this machine that should have the bytes of `file`; returns whether it has.

        It is read whole, since what is published must be what the client has.
        """
        temporary = self._parts / f"{file.sha256}.{os.getpid()}.offered"
        try:
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size != file.size:
                    return False
                if hashlib.file_digest(stream, "sha256").hexdigest() != file.sha256:
                    return False
            self._make()
            temporary.unlink(missing_ok=True)
            _link_or_copy(path, temporary)
            os.replace(temporary, self._whole / file.sha256)
        except OSError:
            return False
        return True

    @contextmanager
    def receiving(self, file: SentFile, offset: int) -> Iterator[Receiver]:
        """Gives what takes the bytes of a file from `offset` on; what has come stays for the next try.

        Raises:
            LockedError: the same file is being sent already.
            PreconditionError: `offset` is not how much of it is there.
            UsageError: the file is larger than it may be.
            StorageError: it cannot be written.
        """
        if self._max_bytes and file.size > self._max_bytes:
            raise UsageError(f"{file.size} bytes are more than the {self._max_bytes} that one upload may have")
        try:
            self._make()
            part = self._parts / file.sha256
            with part.open("a+b") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise LockedError(f"the file {file.sha256} is being sent already") from error
                have = os.fstat(stream.fileno()).st_size
                if offset != have:
                    raise PreconditionError(f"{have} bytes of {file.sha256} are there, not {offset}")
                stream.seek(0)
                receiver = Receiver(stream, file, hashlib.file_digest(stream, "sha256"), have)
                yield receiver
                if receiver.ended():
                    os.replace(part, self._whole / file.sha256)
                    _sync_directory(self._whole)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise DiskFullError(f"there is no room for the file {file.sha256}: {error.strerror}") from error
            raise StorageError(f"cannot keep the file {file.sha256}: {error.strerror}") from error

    def build(self, files: Sequence[SentFile], destination: Path) -> None:
        """Makes the files at their paths below `destination`, or as `destination` where the path is "".

        Raises:
            UsageError: one of them is not there whole; it is to be sent first.
            StorageError: it cannot be made.
        """
        try:
            if not any(each.path == "" for each in files):
                destination.mkdir(parents=True)
            for each in files:
                if not self.holds(each):
                    raise UsageError(f"the file {each.sha256} ({each.path or destination.name}) was not sent whole")
                path = destination / each.path if each.path else destination
                path.parent.mkdir(parents=True, exist_ok=True)
                _link_or_copy(self._whole / each.sha256, path)
        except OSError as error:
            raise StorageError(f"cannot make {destination}: {error.strerror}") from error

    def discard_old(self, *, kept_s: float = KEPT_S) -> None:
        """Removes what nobody has used for `kept_s` seconds."""
        for directory in (self._whole, self._parts):
            with suppress(OSError), os.scandir(directory) as entries:
                for entry in entries:
                    # Making another name for a file counts as use: it changes the inode (inode(7), st_ctime).
                    with suppress(OSError):
                        if time.time() - entry.stat(follow_symlinks=False).st_ctime > kept_s:
                            os.unlink(entry.path)

    def _have(self, file: SentFile) -> int:
        try:
            return min(os.stat(self._parts / file.sha256).st_size, file.size)
        except OSError:
            return 0

    def _make(self) -> None:
        for directory in (self._whole, self._parts):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _check_room(self, wanted: int) -> None:
        place = next(each for each in (self._parts, *self._parts.parents) if each.exists())
        free = shutil.disk_usage(place).free
        if wanted and wanted + _RESERVE_BYTES > free:
            raise DiskFullError(f"{wanted} bytes are to be sent, and {free} are free in {place}")


class Receiver:
    """Takes the bytes of one file as they come."""

    def __init__(self, stream: Any, file: SentFile, digest: Any, have: int) -> None:
        self._stream = stream
        self._file = file
        self._digest = digest
        self._have = have

    def take(self, data: bytes) -> None:
        """Writes the next bytes.

        Raises:
            UsageError: they are more than the file has.
        """
        if self._have + len(data) > self._file.size:
            raise UsageError(f"more than the {self._file.size} bytes of {self._file.sha256} were sent")
        self._stream.write(data)
        self._digest.update(data)
        self._have += len(data)

    def ended(self) -> bool:
        """Returns whether the file is whole and durable; one whose bytes are not those of its name is forgotten.

        Raises:
            UsageError: the bytes are other ones.
        """
        self._stream.flush()
        if self._have < self._file.size:
            return False
        os.fsync(self._stream.fileno())
        found = self._digest.hexdigest()
        if found != self._file.sha256:
            os.truncate(self._stream.fileno(), 0)
            raise UsageError(f"what was sent as {self._file.sha256} has the SHA-256 {found}")
        return True


def _link_or_copy(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination)
    except OSError as error:
        if error.errno not in {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP}:
            raise
        shutil.copyfile(source, destination)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def by_sha256(files: Sequence[SentFile]) -> Mapping[str, SentFile]:
    """Returns one file for each content."""
    return {each.sha256: each for each in files}
