"""An inbox that is a directory."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from deployctl.daemon.inbox.place import ORIGINS, Found, Place, marker_beside, may_be_export, provenance_names
from deployctl.domain.names import ModelName, parse_model_name
from deployctl.errors import InvalidNameError
from deployctl.repository.archive import archive_name
from deployctl.repository.durable import storage_error, storage_errors, write_new_file

# A document about an export's origin is a few lines; what is larger is none.
_MAX_PROVENANCE = 1 << 20
# Names, which are those of no export, on the way to another file system: there, and here once it is there.
_MOVING, _MOVED = ".deployctl-moving-", ".deployctl-moved-"


@dataclass(frozen=True, slots=True)
class DirectoryPlace(Place):
    """The exports in the directory `path`.

    Attributes:
        marker: name of the file that says an export is complete; "" without any.
        done: where published exports go.
        failed: where refused ones go.
    """

    path: Path
    marker: str
    done: Path
    failed: Path

    def models(self) -> list[ModelName]:
        """See `Place.models`."""
        found = []
        with storage_errors("look into the inbox", self.path), suppress(FileNotFoundError):
            with os.scandir(self.path) as entries:
                names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            for name in names:
                with suppress(InvalidNameError):
                    found.append(parse_model_name(name))
        return found

    def names(self, model: ModelName) -> list[str]:
        """See `Place.names`."""
        with storage_errors("look into the inbox", self.path / model):
            try:
                with os.scandir(self.path / model) as entries:
                    return sorted(entry.name for entry in entries if _may_be_export(entry))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def clear_up(self) -> None:
        """Removes what moves to another file system have left that were killed when they were done."""
        for model in self.models():
            with storage_errors("clear up the inbox", self.path / model):
                for left in (self.path / model).glob(f"{_MOVED}*"):
                    _remove(left)

    def look(self) -> Iterator[Found]:
        """See `Place.look`."""
        for model in self.models():
            for name in self.names(model):
                found = self._found(model, name)
                if found is not None:
                    yield found

    def look_at(self, model: ModelName, name: str) -> Found | None:
        """See `Place.look_at`."""
        path = self.path / model / name
        is_directory = path.is_dir() and not path.is_symlink()
        return self._found(model, name) if may_be_export(name, is_directory=is_directory) else None

    def was_renamed(self, found: Found) -> bool:
        """See `Place.was_renamed`: nothing in the export is as young as its own last change.

        A rename changes the time of the last change of what is renamed, and of nothing in it; what is written in
        place is as young as the directory that it is in.
        """
        path = self.path / found.model / found.name
        try:
            status = path.lstat()
            youngest = max((each.st_ctime_ns for _, each in _entries(path)), default=status.st_ctime_ns)
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and max(status.st_mtime_ns, youngest) < status.st_ctime_ns

    def location(self, found: Found) -> str:
        """See `Place.location`."""
        return str(self.path / found.model / found.name)

    def provenance(self, found: Found) -> tuple[str, bytes] | None:
        """See `Place.provenance`."""
        for name in provenance_names(found.name):
            path = self.path / found.model / name
            try:
                with path.open("rb") as file:
                    return str(path), file.read(_MAX_PROVENANCE)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise storage_error("read", path, error) from error
        return None

    def move_done(self, found: Found) -> str:
        """See `Place.move_done`."""
        return self._move(found, self.done, {})

    def move_failed(self, found: Found, reports: Mapping[str, bytes]) -> str:
        """See `Place.move_failed`."""
        return self._move(found, self.failed, reports)

    def _found(self, model: ModelName, name: str) -> Found | None:
        path = self.path / model / name
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        fingerprint = _fingerprint(path, status)
        is_directory = stat.S_ISDIR(status.st_mode)
        marked = bool(self.marker) and self._marker_of(path, is_directory=is_directory).is_file()
        return Found(model, name, fingerprint.value(), fingerprint.newest_ns / 1e9, marked)

    def _marker_of(self, path: Path, *, is_directory: bool) -> Path:
        return path / self.marker if is_directory else path.with_name(marker_beside(path.name, self.marker))

    def _move(self, found: Found, to: Path, reports: Mapping[str, bytes]) -> str:
        """Moves an export and what belongs to it; begun again after a kill, it ends as if it had not been killed."""
        source, directory = self.path / found.model / found.name, to / found.model
        with storage_errors("move what was handled to", directory):
            directory.mkdir(parents=True, exist_ok=True)
            goal = _copy_of(found, source, directory) or _free(directory, source, reports)
            for ending, content in reports.items():
                write_new_file(_with_ending(goal, ending), content)
            # What tells of the export goes before it, so that nothing is left for another one of that name; the marker
            # of an archive after it, since the archive could not be handled again without.
            _move_beside(source, goal, ORIGINS)
            _rename(source, goal)
            _move_beside(source, goal, (marker_beside("", self.marker),) if self.marker else ())
        return str(goal)


@dataclass(slots=True)
class _Fingerprint:
    """Names, sizes and times of modification, as one digest."""

    newest_ns: int = 0
    _lines: list[bytes] = field(default_factory=list)

    def add(self, name: str, status: os.stat_result) -> None:
        self.newest_ns = max(self.newest_ns, status.st_mtime_ns)
        size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
        self._lines.append(os.fsencode(name) + b"\0%d %d %d" % (status.st_mode >> 12, size, status.st_mtime_ns))

    def value(self) -> str:
        return hashlib.sha256(b"\0".join(sorted(self._lines))).hexdigest()[:32]


def _fingerprint(path: Path, status: os.stat_result) -> _Fingerprint:
    found = _Fingerprint()
    found.add("", status)
    if stat.S_ISDIR(status.st_mode):
        for below, each in _entries(path):
            found.add(below, each)
    return found


def _entries(directory: Path | str, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yields all that is below a directory, symlinks not followed; what vanishes or cannot be read is left out."""
    try:
        with os.scandir(directory) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            yield prefix + entry.name, status
            if stat.S_ISDIR(status.st_mode):
                yield from _entries(entry.path, f"{prefix}{entry.name}/")


def _may_be_export(entry: os.DirEntry[str]) -> bool:
    return may_be_export(entry.name, is_directory=entry.is_dir(follow_symlinks=False))


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _move_beside(source: Path, goal: Path, endings: tuple[str, ...]) -> None:
    for ending in endings:
        with suppress(FileNotFoundError):
            _rename(_with_ending(source, ending), _with_ending(goal, ending))


def _rename(source: Path, goal: Path) -> None:
    """Moves a file or a directory to where nothing is, also to another file system; what is seen there is whole."""
    try:
        os.rename(source, goal)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    if not os.path.lexists(goal):
        on_its_way = goal.with_name(f"{_MOVING}{goal.name}")
        _remove(on_its_way)
        if source.is_dir():
            shutil.copytree(source, on_its_way, symlinks=True)
        else:
            shutil.copy2(source, on_its_way)
        os.rename(on_its_way, goal)
    # At once, so that nobody takes what is left of it for an export.
    moved = source.with_name(f"{_MOVED}{source.name}")
    _remove(moved)
    os.rename(source, moved)
    _remove(moved)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy_of(found: Found, source: Path, directory: Path) -> Path | None:
    """Returns the copy of an export that was made on another file system before we were killed, if there is one."""
    if directory.stat().st_dev == source.lstat().st_dev:
        return None
    for path in _names(directory, found.name):
        try:
            copy = _fingerprint(path, path.lstat())
        except FileNotFoundError:
            return None
        if copy.value() == found.fingerprint:
            return path
    return None


def _free(directory: Path, source: Path, reports: Mapping[str, bytes]) -> Path:
    """Returns a path in `directory` for what is at `source` and for what is beside it: NAME, NAME-2, NAME-3.

    What a move that was killed has left there of the same export is in nobody's way.
    """
    for path in _names(directory, source.name):
        others = any(
            os.path.lexists(_with_ending(path, ending)) and os.path.lexists(_with_ending(source, ending))
            for ending in ORIGINS
        )
        told = all(_may_be_begun(_with_ending(path, ending), content) for ending, content in reports.items())
        if told and not others and not os.path.lexists(path):
            return path
    raise AssertionError  # there is no end of names


def _may_be_begun(report: Path, content: bytes) -> bool:
    """Whether a report is not there, or as much of it as was written before a kill."""
    try:
        return content.startswith(report.read_bytes())
    except FileNotFoundError:
        return True


def _names(directory: Path, name: str) -> Iterator[Path]:
    stem = archive_name(name) or name
    rest = name[len(stem) :]
    return (directory / (name if number == 1 else f"{stem}-{number}{rest}") for number in count(1))
