"""The files of an export or a version as found on disk: what would be published, and what must be refused."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from deployctl.domain.manifest import MANIFEST_PATH
from deployctl.errors import InvalidModelError, UnreadableExportError, UnsafeExportError

# Symlinked directories can name the same files many times over; no model has this many.
MAX_FILES = 100_000
# Far more than any export has, and far from where what walks a tree by calling itself ends.
MAX_DEPTH = 100

_KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "block device", stat.S_IFCHR: "device"}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does: where it lies, its size in bytes, and when it was last written."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file.

    Attributes:
        path: where it belongs in the version, POSIX separators.
        real: the names that lead to it from the tree's root, no symlink among them.
    """

    path: str
    real: tuple[str, ...]
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Tree:
    """What is below a directory.

    Attributes:
        root: absolute, symlinks resolved.
        files: sorted by path; a manifest of ours is not among them.
        refused: what cannot be part of a version, by path in the version.
    """

    root: Path
    files: tuple[FoundFile, ...]
    refused: dict[str, InvalidModelError] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(file.stamp.size for file in self.files)


def scan(directory: Path) -> Tree:
    """Returns what is below `directory`: symlinks that stay inside it count as what they point to.

    Empty directories are left out: a version is its files. A manifest that an earlier publishing put into the
    directory is left out too, so that a published version has the digest it was published with.

    Raises:
        UnreadableExportError: `directory` is not a directory that can be listed.
    """
    try:
        root = Path(os.path.realpath(directory, strict=True))
        os.scandir(root).close()
    except OSError as error:
        raise UnreadableExportError(str(directory), f"cannot be read: {error.strerror}") from error
    walk = _Walk(root, str(directory))
    walk.enter(root, "", ())
    return Tree(root, tuple(sorted(walk.files, key=lambda file: file.path)), walk.refused)


def stamp_of(status: os.stat_result) -> Stamp:
    """Returns the stamp of a file from its stat(2)."""
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class _Walk:
    """One walk over a tree; symlinked directories are entered by their real path."""

    def __init__(self, root: Path, shown_as: str) -> None:
        self.root = root
        self.shown_as = shown_as
        self.files: list[FoundFile] = []
        self.refused: dict[str, InvalidModelError] = {}

    def enter(self, directory: Path, prefix: str, above: tuple[Path, ...]) -> None:
        """Adds what is in `directory`, whose real path is among none of those `above` it."""
        if directory in above:
            self._refuse(prefix.rstrip("/"), "is a symlink to a directory that contains it")
            return
        if len(above) > MAX_DEPTH:
            self._refuse(prefix.rstrip("/"), f"is more than {MAX_DEPTH} directories deep")
            return
        try:
            with os.scandir(directory) as entries:
                names = sorted(entry.name for entry in entries)
        except OSError as error:
            self._unreadable(prefix.rstrip("/"), error)
            return
        for name in names:
            if len(self.files) >= MAX_FILES:
                self._refuse(prefix + name, f"is beyond the first {MAX_FILES} files")
                return
            self._add(directory, name, prefix, (*above, directory))

    def _add(self, directory: Path, name: str, prefix: str, above: tuple[Path, ...]) -> None:
        path = prefix + name
        if not is_restorable(name):
            self._refuse(path, "has a name that a manifest cannot hold")
            return
        if path == MANIFEST_PATH:
            return
        real = directory / name
        try:
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                # Asked first, since the kernel ends after 40 symlinks and `realpath` calls itself for each.
                status = os.stat(real)
                real = Path(os.path.realpath(real, strict=True))
        except (FileNotFoundError, NotADirectoryError):
            self._refuse(path, "is a symlink to nothing")
        except OSError as error:
            if error.errno == errno.ELOOP:
                self._refuse(path, "is a symlink that leads back to itself")
            else:
                self._unreadable(path, error)
        else:
            self._classify(path, real, status, above)

    def _classify(self, path: str, real: Path, status: os.stat_result, above: tuple[Path, ...]) -> None:
        if not real.is_relative_to(self.root):
            self._refuse(path, "is a symlink that leaves the export")
        elif stat.S_ISDIR(status.st_mode):
            self.enter(real, f"{path}/", above)
        elif stat.S_ISREG(status.st_mode):
            self.files.append(FoundFile(path, real.relative_to(self.root).parts, stamp_of(status)))
        else:
            self._refuse(path, f"is a {_KINDS.get(stat.S_IFMT(status.st_mode), 'special file')}, not a regular file")

    def _refuse(self, path: str, reason: str) -> None:
        self.refused[path] = UnsafeExportError(self.shown_as, f"cannot be published: {path!r} {reason}")

    def _unreadable(self, path: str, error: OSError) -> None:
        reason = f"cannot be published: {path!r} cannot be read: {error.strerror}"
        self.refused[path] = UnreadableExportError(self.shown_as, reason)


def is_restorable(name: str) -> bool:
    """Whether a directory entry called `name` can be written into a manifest and made again from it.

    Control characters would break the lines that a digest is made of; lone surrogates stand for bytes that are no
    UTF-8.
    """
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in name)
