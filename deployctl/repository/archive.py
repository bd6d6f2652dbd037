"""Exports packed as tar (plain, gzip, bzip2, xz) or zip: unpacked so that nothing can be written beside them.

Files are written first, into directories that this module made; links are made last, when nothing is written
through them any more. What is unpacked is scanned like any other export afterwards.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from shlex import quote
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from deployctl.errors import ArchiveTooLargeError, MalformedArchiveError, UnreadableExportError, UnsafeArchiveError
from deployctl.repository.durable import storage_errors
from deployctl.repository.tree import MAX_DEPTH, MAX_FILES, is_restorable

if TYPE_CHECKING:
    from deployctl.domain.clock import Observer

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")

_CHUNK = 1 << 20
# How many directories of a path that is too deep are told.
_SHOWN_DEPTH = 3
_SAVED_MODEL_NAMES = ("saved_model.pb", "saved_model.pbtxt")
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an archive may unpack to.

    Attributes:
        max_bytes: of all files together.
        max_files: entries of any kind.
        max_ratio: bytes unpacked for each byte of the archive; deflate's own limit is 1,032.
        ratio_from_bytes: archives that unpack to less are never refused for their ratio.
    """

    max_bytes: int = 256 << 30
    max_files: int = MAX_FILES
    max_ratio: float = 200.0
    ratio_from_bytes: int = 64 << 20


def archive_name(name: str) -> str | None:
    """Returns `name` without the suffix of an archive, None where it has none."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return None


def listing_of(location: str) -> str:
    """Returns the command that lists what is in the archive at a path or URL."""
    if "://" in location:
        return f"aws s3 ls {quote(location)}"
    return f"{'unzip -l' if location.lower().endswith('.zip') else 'tar -tvf'} {quote(location)}"


def unpack(
    archive: Path, directory: Path, observer: Observer, *, shown_as: str = "", limits: Limits | None = None
) -> Path:
    """Unpacks `archive` into the empty directory `directory`; returns where in it the export is.

    An export may be at the top of the archive or in directories that hold nothing else.

    Raises:
        UnsafeArchiveError: an entry would be outside of the archive, or is a device, a FIFO or a link that leaves it.
        ArchiveTooLargeError: it unpacks to more than `limits` allow.
        MalformedArchiveError: it is no archive, cut short, damaged or encrypted.
        UnreadableExportError: it cannot be read.
        DiskFullError: there is no room.
    """
    shown = shown_as or str(archive)
    try:
        packed = archive.open("rb")
    except OSError as error:
        raise UnreadableExportError(shown, f"cannot be read: {error.strerror}") from error
    with packed:
        unpacking = _Unpacking(shown, directory, limits or Limits(), observer, os.fstat(packed.fileno()).st_size)
        with _damage(shown):
            if zipfile.is_zipfile(packed):
                _unpack_zip(packed, unpacking)
            else:
                packed.seek(0)
                _unpack_tar(packed, unpacking)
        unpacking.link()
    return _export_in(directory)


@dataclass(slots=True)
class _Unpacking:
    """One archive on its way into a directory."""

    shown: str
    directory: Path
    limits: Limits
    observer: Observer
    packed_bytes: int
    entries: int = 0
    written: int = 0
    links: list[tuple[str, str, bool]] = field(default_factory=list)

    def add_directory(self, name: str) -> None:
        self._count()
        path = self._path(name)
        if path:
            self._make_directories(path)

    def add_file(self, name: str, content: IO[bytes]) -> None:
        self._count()
        path = self._path(name)
        if not path:
            raise self.unsafe(name, "names the directory itself as a file")
        self._make_directories(str(PurePosixPath(path).parent))
        target = self.directory / path
        try:
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            raise self.unsafe(name, "is there twice") from None
        with os.fdopen(descriptor, "wb") as file:
            while chunk := content.read(_CHUNK):
                self.written += len(chunk)
                self.check_size(self.written)
                with storage_errors("unpack", target):
                    file.write(chunk)
                self.observer.progress(self.written, max(self.written, self.packed_bytes))
            with storage_errors("unpack", target):
                file.flush()

    def add_link(self, name: str, to: str, *, hard: bool) -> None:
        self._count()
        path = self._path(name)
        if not path:
            raise self.unsafe(name, "is a link in the place of the directory itself")
        self.links.append((path, to, hard))

    def link(self) -> None:
        """Makes the links, each to something within the archive."""
        for path, to, hard in self.links:
            self._make_directories(str(PurePosixPath(path).parent))
            self._check_target(path, to, hard=hard)
            with storage_errors("unpack", self.directory / path):
                try:
                    if hard:
                        os.link(self.directory / self._path(to), self.directory / path, follow_symlinks=False)
                    else:
                        (self.directory / path).symlink_to(to)
                except FileExistsError:
                    raise self.unsafe(path, "is there twice") from None
                except FileNotFoundError:
                    raise self.unsafe(path, f"is a link to what is not in the archive: {to!r}") from None
        # A link may lead elsewhere since a later one was made on its way.
        for path, to, hard in self.links:
            self._check_target(path, to, hard=hard)

    def check_size(self, unpacked: int) -> None:
        """Raises ArchiveTooLargeError where `unpacked` bytes are more than there may be."""
        if unpacked > self.limits.max_bytes:
            raise self.too_large(f"unpacks to more than {self.limits.max_bytes} bytes")
        if unpacked > self.limits.ratio_from_bytes and unpacked > self.limits.max_ratio * self.packed_bytes:
            raise self.too_large(
                f"has {self.packed_bytes} bytes and unpacks to more than {self.limits.max_ratio:g} times that"
            )

    def unsafe(self, name: str, reason: str) -> UnsafeArchiveError:
        return UnsafeArchiveError(self.shown, f"cannot be unpacked: {name!r} {reason}", hint=listing_of(self.shown))

    def too_large(self, reason: str) -> ArchiveTooLargeError:
        return ArchiveTooLargeError(self.shown, reason, hint=listing_of(self.shown))

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self.limits.max_files:
            raise self.too_large(f"holds more than {self.limits.max_files} entries")

    def _path(self, name: str) -> str:
        """Returns the plain relative path of an entry, "" for the top."""
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if name.startswith("/"):
            raise self.unsafe(name, "is an absolute path")
        if ".." in parts:
            raise self.unsafe(name, "leads out of the archive")
        if not all(is_restorable(part) for part in parts):
            raise self.unsafe(name, "is a name that a manifest cannot hold")
        if len(parts) - 1 > MAX_DEPTH:
            raise self.unsafe(f"{'/'.join(parts[:_SHOWN_DEPTH])}/…", f"is more than {MAX_DEPTH} directories deep")
        return "/".join(parts)

    def _make_directories(self, path: str) -> None:
        """Makes the directories of `path`; nothing but a directory may stand there, a link least of all."""
        here = self.directory
        for part in PurePosixPath(path).parts:
            here /= part
            with storage_errors("unpack", here):
                try:
                    here.mkdir(0o755)
                except FileExistsError:
                    if not stat.S_ISDIR(here.lstat().st_mode):
                        raise self.unsafe(path, "is below something that is no directory") from None

    def _check_target(self, path: str, to: str, *, hard: bool) -> None:
        target = self.directory / self._path(to) if hard else (self.directory / path).parent / to
        try:
            resolved = target.resolve()
        except (OSError, RuntimeError):  # both RecursionError and what `resolve` raises for a loop are RuntimeErrors
            raise self.unsafe(path, f"is a link that leads round, or over too many others: {to!r}") from None
        if not resolved.is_relative_to(self.directory.resolve()):
            raise self.unsafe(path, f"is a link that leaves the archive: {to!r}")


class _Metered:
    """What a decompressor gives, counted, so that no header can make us read more than the limits allow."""

    def __init__(self, stream: IO[bytes], unpacking: _Unpacking) -> None:
        self._stream = stream
        self._unpacking = unpacking
        self._read = 0

    def read(self, size: int = -1) -> bytes:
        """Returns the next `size` bytes."""
        piece = self._stream.read(size)
        self._read += len(piece)
        self._unpacking.check_size(self._read)
        return piece


def _unpack_tar(packed: BinaryIO, unpacking: _Unpacking) -> None:
    with _decompressed(packed) as stream:
        metered = cast("IO[bytes]", _Metered(stream, unpacking))
        # "r|" reads forward only, as a hostile archive's offsets then lead nowhere.
        with tarfile.open(fileobj=metered, mode="r|", errorlevel=2) as tar:
            for member in tar:
                _add_member(tar, member, unpacking)
        while metered.read(_CHUNK):  # a stream that is cut short says so at its very end
            pass


def _add_member(tar: tarfile.TarFile, member: tarfile.TarInfo, unpacking: _Unpacking) -> None:
    if member.isdir():
        unpacking.add_directory(member.name)
    elif member.isreg():
        content = tar.extractfile(member)
        if content is None:
            raise unpacking.unsafe(member.name, "has no content")
        unpacking.add_file(member.name, content)
    elif member.issym() or member.islnk():
        unpacking.add_link(member.name, member.linkname, hard=member.islnk())
    else:
        kind = "FIFO" if member.isfifo() else "device" if member.isdev() else "special file"
        raise unpacking.unsafe(member.name, f"is a {kind}, not a regular file")


@contextmanager
def _decompressed(packed: BinaryIO) -> Iterator[IO[bytes]]:
    """Gives the bytes of the tar file that `packed` holds, by its first bytes."""
    head = packed.read(6)
    packed.seek(0)
    opening: dict[bytes, Callable[[BinaryIO], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ\0": lzma.open,
    }
    for magic, opened in opening.items():
        if head.startswith(magic):
            with opened(packed) as stream:
                yield stream
            return
    yield packed


def _unpack_zip(packed: BinaryIO, unpacking: _Unpacking) -> None:
    with zipfile.ZipFile(packed) as archive:
        for entry in archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if entry.flag_bits & 1:
                raise MalformedArchiveError(unpacking.shown, "is encrypted", hint=listing_of(unpacking.shown))
            if entry.is_dir():
                unpacking.add_directory(entry.filename)
            elif kind == stat.S_IFLNK:
                if entry.file_size > os.pathconf("/", "PC_PATH_MAX"):
                    raise unpacking.unsafe(entry.filename, "is a link with a name that is too long")
                unpacking.add_link(entry.filename, os.fsdecode(archive.read(entry)), hard=False)
            elif kind in {0, stat.S_IFREG}:
                with archive.open(entry) as content:
                    unpacking.add_file(entry.filename, content)
            else:
                raise unpacking.unsafe(entry.filename, "is not a regular file")


@contextmanager
def _damage(shown: str) -> Iterator[None]:
    """Raises MalformedArchiveError in place of what the readers raise for an archive that is none."""
    try:
        yield
    except _DAMAGE as error:
        words = str(error).replace("\n", " ") or type(error).__name__
        raise MalformedArchiveError(shown, f"cannot be unpacked: {words}", hint=listing_of(shown)) from error


def _export_in(directory: Path) -> Path:
    """Returns the first directory, from the top, that holds a SavedModel or anything but one directory."""
    while True:
        entries = list(directory.iterdir())
        if len(entries) != 1 or entries[0].name in _SAVED_MODEL_NAMES or not stat.S_ISDIR(entries[0].lstat().st_mode):
            return directory
        directory = entries[0]
