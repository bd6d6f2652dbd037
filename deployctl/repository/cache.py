"""Versions fetched from elsewhere, in a directory that model servers read: verified, then visible in one rename.

    <directory>/<model>/<version>/           as in a local repository; its files are hard links
    <directory>/<model>/.deployctl/…         versions that are being put together, and their locks
    <directory>/.deployctl/files/…           every file once; see `cache_files`
    <directory>/.deployctl/manifests/…       manifests by the store's ETags
    <directory>/.deployctl/lock              shared by who fetches, alone for who evicts

One directory serves all targets of a machine. Nothing in it is worth a backup.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from deployctl.domain.manifest import MANIFEST_PATH, FileEntry, Manifest, from_json, to_json
from deployctl.domain.names import ModelName, VersionNumber, is_version_name
from deployctl.errors import DependencyError, DiskFullError, ManifestError
from deployctl.repository.cache_files import FileStore, Read
from deployctl.repository.copying import hash_tree
from deployctl.repository.durable import (
    exclusive_lock,
    rename_without_replacing,
    storage_errors,
    sync_directory,
    sync_file_system,
    try_lock,
)
from deployctl.repository.staging import WORK_DIRECTORY, StagingArea
from deployctl.repository.tree import scan

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock, Observer

Held = Callable[[], frozenset[tuple[ModelName, VersionNumber]]]
"""Returns the versions that may not be evicted: they serve, stand by or are labelled on some target."""

# An operation that has just asked for a version may be about to serve it.
_RECENT_S = 15 * 60
_ABANDONED_AFTER_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """Where versions are kept on this machine, and how many.

    Attributes:
        max_bytes: what evicting keeps the files below, 0 for no bound.
        workers: requests under way at the same time.
        lock_timeout_s: how long to wait for another process that fetches the same version.
    """

    directory: Path
    max_bytes: int = 0
    workers: int = 10
    lock_timeout_s: float = 3600.0


class VersionCache:
    """Versions on this machine that were fetched from elsewhere."""

    def __init__(self, options: CacheOptions, clock: Clock, held: Held) -> None:
        self.options = options
        self._clock = clock
        self._held = held
        self._directory = Path(os.path.abspath(options.directory))
        self._files = FileStore(self._work / "files")

    def base_path(self, model: ModelName) -> Path:
        """Returns the directory that a server is given for `model`."""
        return self._directory / model

    def path(self, model: ModelName, version: VersionNumber) -> Path:
        """Returns where a version is, or would be."""
        return self.base_path(model) / str(version)

    def has(self, model: ModelName, version: VersionNumber) -> bool:
        """Whether the whole version is here."""
        with storage_errors("look at", self.path(model, version)):
            return (self.path(model, version) / MANIFEST_PATH).is_file()

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """Returns the manifest of a version that is here, or None."""
        path = self.path(model, version) / MANIFEST_PATH
        with storage_errors("read the manifest", path), suppress(FileNotFoundError, NotADirectoryError):
            manifest = from_json(path.read_bytes(), where=str(path))
            return manifest if (manifest.model, manifest.version) == (model, version) else None
        return None

    def remembered(self, etag: str) -> bytes | None:
        """Returns a manifest that `remember` was given under this ETag of the store's, or None."""
        with storage_errors("read the cache", self._remembered), suppress(FileNotFoundError, NotADirectoryError):
            return self._remembered_as(etag).read_bytes()
        return None

    def remember(self, etag: str, manifest: bytes) -> None:
        """Keeps a manifest under the store's ETag for it; does nothing where the cache cannot be written."""
        path = self._remembered_as(etag)
        part = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(manifest)
            part.rename(path)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Gives a new, empty directory beside the cache's files; it is gone after the block, or with the next one."""
        area = StagingArea(self._directory)
        with storage_errors("write the cache", self._directory):
            area.root.mkdir(parents=True, exist_ok=True)
            area.discard_abandoned(self._clock)
            with area.open(self._clock) as token:
                yield area.contents(token)

    def served(self, model: ModelName, version: VersionNumber) -> None:
        """Records that a version that is here was asked for now."""
        now = self._clock.now().timestamp()
        with storage_errors("mark", self.path(model, version)):
            os.utime(self.path(model, version), (now, now))

    def drop(self, model: ModelName, version: VersionNumber) -> None:
        """Removes a version that is gone where it came from, unless another process fetches just now."""
        with storage_errors("remove", self.path(model, version)), self._alone() as alone:
            if alone and self.has(model, version):
                self._remove(model, version)
                self._drop_unlinked()

    def is_intact(self, manifest: Manifest, observer: Observer) -> bool:
        """Reads every byte of a version that is here."""
        tree = scan(self.path(manifest.model, manifest.version))
        return not tree.refused and hash_tree(tree, observer) == manifest.files

    def fetch(self, manifest: Manifest, read: Read, observer: Observer, *, replace: bool = False) -> Path:
        """Returns the directory of the version once all its bytes are here, verified and durable.

        With `replace`, none of the bytes that are here are trusted.

        Raises:
            DamagedTransferError: what arrives is not what the manifest says.
            DiskFullError: there is no room.
            ManifestError: it names files outside of the version.
            LockedError: another process fetches this version for longer than the time-out.
        """
        model, version = manifest.model, manifest.version
        final = self.path(model, version)
        _refuse_escapes(manifest)
        with storage_errors("fetch into the cache", final):
            self._work.mkdir(parents=True, exist_ok=True)
            self._area(model).mkdir(parents=True, exist_ok=True)
            with self._fetching(manifest):
                if replace or not self.has(model, version):
                    self.evict(observer, room_for=self._missing_bytes(manifest), spare=(model, version))
                    with self._lock(fcntl.LOCK_SH):
                        self._put_together(manifest, read, observer, replace=replace)
                self.served(model, version)
        self.evict(observer, spare=(model, version))
        return final

    def evict(
        self, observer: Observer, *, room_for: int = 0, spare: tuple[ModelName, VersionNumber] | None = None
    ) -> tuple[str, ...]:
        """Removes versions, least recently served first, until the bound leaves `room_for` bytes; returns them.

        Never one that is held or `spare`, nor one that was asked for in the last quarter of an hour.
        """
        bound = self.options.max_bytes
        if not bound or self.size_bytes() + room_for <= bound:
            return ()
        removed: list[str] = []
        with self._alone() as alone:
            if alone:
                candidates = self._candidates(spare, observer)
                while candidates and self.size_bytes() + room_for > bound:
                    model, version = candidates.pop(0)
                    self._remove(model, version)
                    removed.append(f"{model}@{version}")
                    self._drop_unlinked()
        over = self.size_bytes() + room_for - bound
        if over > 0:
            observer.warn(
                f"the cache in {self._directory} is {over} bytes over its bound: all else in it is in use or was asked "
                f"for within the last {_RECENT_S // 60} minutes"
            )
        return tuple(removed)

    def size_bytes(self) -> int:
        """Bytes of all files here, each counted once."""
        return sum(path.lstat().st_size for path in self._stored())

    def leftovers(self) -> tuple[str, ...]:
        """Returns interrupted fetches that nobody has gone on with for a day."""
        return tuple(str(path) for path in self._abandoned())

    def discard_leftovers(self) -> tuple[str, ...]:
        """Removes what `leftovers` names, and files that no version has any more."""
        with self._alone() as alone:
            if not alone:
                return ()
            found = self._abandoned()
            for path in found:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            self._drop_unlinked()
        return tuple(str(path) for path in found)

    @property
    def _work(self) -> Path:
        return self._directory / WORK_DIRECTORY

    @property
    def _remembered(self) -> Path:
        return self._work / "manifests"

    def _remembered_as(self, etag: str) -> Path:
        name = sha256(etag.encode()).hexdigest()  # an ETag may be any text
        return self._remembered / name[:2] / name

    def _area(self, model: ModelName) -> Path:
        return self.base_path(model) / WORK_DIRECTORY

    def _missing_bytes(self, manifest: Manifest) -> int:
        missing = {entry.sha256: entry.size for entry in manifest.files if not self._files.has(entry)}
        return sum(missing.values())

    def _put_together(self, manifest: Manifest, read: Read, observer: Observer, *, replace: bool) -> None:
        model, version = manifest.model, manifest.version
        staged = self._area(model) / f"fetch-{version}"
        shutil.rmtree(staged, ignore_errors=True)
        if replace:
            for entry in manifest.files:
                self._files.path(entry.sha256).unlink(missing_ok=True)
        self._require_room(self._missing_bytes(manifest))
        self._files.fetch(list(manifest.files), read, observer, workers=self.options.workers)
        for directory in {(staged / entry.path).parent for entry in manifest.files}:
            directory.mkdir(parents=True, exist_ok=True)
        for entry in manifest.files:
            self._link(entry, staged / entry.path)
        (staged / MANIFEST_PATH).parent.mkdir(parents=True, exist_ok=True)
        (staged / MANIFEST_PATH).write_text(to_json(manifest), encoding="utf-8")
        sync_file_system(staged)
        final = self.path(model, version)
        if final.exists():
            self._remove(model, version)
        rename_without_replacing(staged, final)
        sync_directory(final.parent)

    def _link(self, entry: FileEntry, path: Path) -> None:
        try:
            os.link(self._files.path(entry.sha256), path)
        except FileExistsError:
            raise
        except OSError:  # the file system has no hard links, or no more of this file
            shutil.copyfile(self._files.path(entry.sha256), path)

    def _require_room(self, needed: int) -> None:
        system = os.statvfs(self._work)
        free = system.f_bavail * system.f_frsize
        if free < needed:
            raise DiskFullError(
                f"{self._directory} has room for {free} bytes, the version needs {needed}",
                hint=f"df -h {quote(str(self._directory))}",
            )

    def _candidates(
        self, spare: tuple[ModelName, VersionNumber] | None, observer: Observer
    ) -> list[tuple[ModelName, VersionNumber]]:
        """Returns what may be evicted, least recently served first; nothing where it is not known what serves."""
        try:
            held = self._held()
        except DependencyError as error:
            observer.warn(f"nothing is evicted from the cache in {self._directory}: {error}")
            return []
        oldest = self._clock.now().timestamp() - _RECENT_S
        found = []
        for model in self._names(self._directory):
            for name in self._names(self._directory / model):
                if not is_version_name(name):
                    continue
                key = (ModelName(model), VersionNumber(int(name)))
                served_at = self.path(*key).stat().st_mtime
                if key not in held and key != spare and served_at < oldest:
                    found.append((served_at, key))
        return [key for _, key in sorted(found)]

    def _remove(self, model: ModelName, version: VersionNumber) -> None:
        trash = self._area(model) / f"removed-{version}"
        shutil.rmtree(trash, ignore_errors=True)
        os.rename(self.path(model, version), trash)
        shutil.rmtree(trash)

    def _drop_unlinked(self) -> None:
        """Removes the files that no version has any more; those on their way are none of them."""
        for path in self._stored():
            if path.suffix == "" and path.lstat().st_nlink == 1:
                path.unlink()

    def _stored(self) -> list[Path]:
        return [path for path in self._files.directory.glob("*/*") if path.suffix != ".ranges"]

    def _abandoned(self) -> list[Path]:
        oldest = self._clock.now().timestamp() - _ABANDONED_AFTER_S
        parts = list(self._files.directory.glob("*/*.*"))
        staged = [path for path in self._directory.glob(f"*/{WORK_DIRECTORY}/*") if path.is_dir()]
        return sorted(path for path in (*parts, *staged) if path.lstat().st_mtime < oldest)

    @staticmethod
    def _names(directory: Path) -> list[str]:
        with suppress(NotADirectoryError, FileNotFoundError):
            return sorted(name for name in os.listdir(directory) if not name.startswith("."))
        return []

    @contextmanager
    def _fetching(self, manifest: Manifest) -> Iterator[None]:
        path = self._area(manifest.model) / f"{manifest.version}.lock"
        what = f"{manifest.model}@{manifest.version}"
        with exclusive_lock(path, self._clock, timeout_s=self.options.lock_timeout_s, what=what):
            yield

    @contextmanager
    def _lock(self, kind: int) -> Iterator[None]:
        descriptor = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, kind)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """Holds the cache alone while the block runs; False where another process fetches just now."""
        if not self._work.is_dir():
            yield False
            return
        descriptor = os.open(self._work / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            yield try_lock(descriptor)
        finally:
            os.close(descriptor)


def _refuse_escapes(manifest: Manifest) -> None:
    """Raises ManifestError where a file would be written outside of the version, or in the manifest's place."""
    for entry in manifest.files:
        parts = entry.path.split("/")
        if entry.path == MANIFEST_PATH or any(part in {"", ".", ".."} for part in parts) or "\0" in entry.path:
            raise ManifestError(f"the manifest of {manifest.model}@{manifest.version} names {entry.path!r} as a file")
