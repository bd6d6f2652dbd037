"""Published versions in a directory: `<model_base_path>/<model>/<version>/`, made visible by one rename.

Version directories keep normal permissions: whoever may write to the repository can damage a published
version, and `verify` finds it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from deployctl.domain.manifest import FileEntry, Manifest, to_json
from deployctl.domain.names import ModelName, VersionNumber, parse_model_name
from deployctl.errors import (
    DiskFullError,
    ExportChangedError,
    InvalidNameError,
    ManifestError,
    StorageError,
    UnsafeExportError,
    VersionNotFoundError,
    VersionTakenError,
)
from deployctl.repository.copying import can_clone, copy_tree, hash_tree
from deployctl.repository.directory import MANIFEST, ModelDirectory
from deployctl.repository.durable import (
    exclusive_lock,
    make_directory,
    rename_without_replacing,
    storage_errors,
    sync_directory,
    write_new_file,
)
from deployctl.repository.interface import (
    GRACE_S,
    Committed,
    FileProblem,
    ModelRepository,
    Numbering,
    StagedVersion,
    Stray,
)
from deployctl.repository.retired import Trash
from deployctl.repository.staging import StagingArea
from deployctl.repository.tree import Tree, scan

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from deployctl.domain.clock import Clock, Observer
    from deployctl.repository.opening import Opening

# Room for the manifest, directories and the last block of each file.
_SPARE_BYTES = 1 << 20
_SPARE_BYTES_PER_FILE = 4096 + 512


class LocalModelRepository(ModelRepository):
    """A repository in a local directory.

    Args:
        base: `model_base_path`; need not exist yet.
        lock_timeout_s: how long a commit waits for another publisher of the same model.
        grace_s: how long what was retired is kept, in seconds.
    """

    def __init__(self, base: Path, clock: Clock, *, lock_timeout_s: float = 60.0, grace_s: float = GRACE_S) -> None:
        self._base = Path(os.path.abspath(base))
        self._clock = clock
        self._lock_timeout_s = lock_timeout_s
        self._grace_s = grace_s

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models whose directory holds anything but our own working files, in name order."""
        return tuple(directory.model for directory in self._model_directories() if directory.names())

    def versions(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """See `ModelRepository.versions`."""
        found = self._directory(model).versions()
        if not found:
            self._require_base()
        return found

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """See `ModelRepository.manifest`.

        Raises:
            VersionNotFoundError: there is no such version.
            ManifestError: the manifest cannot be read, or is another version's.
        """
        path = self.local_path(model, version) / MANIFEST
        manifest = self._directory(model).manifest(version)
        if manifest is not None and (manifest.model, manifest.version) != (model, version):
            raise ManifestError(
                f"{path} is the manifest of {manifest.model}@{manifest.version}, not of {model}@{version}",
                hint=f"deployctl adopt {model}",
            )
        return manifest

    def stage(self, model: ModelName, export: Path, observer: Observer) -> AbstractContextManager[StagedVersion]:
        """See `ModelRepository.stage`; copies below `<model>/.deployctl/staging/`, once what is dead there is gone."""
        return self._stage(model, export, observer)

    def commit(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        *,
        numbering: Numbering,
        allow_duplicate: bool,
        number: VersionNumber | None = None,
    ) -> Committed:
        """See `ModelRepository.commit`; one lock for each model makes search, numbering and rename one step.

        Raises:
            LockedError: another publisher holds the model for longer than the time-out.
            VersionNumbersExhaustedError: the model has the highest number that there is.
            VersionTakenError: something else stands at `number`.
        """
        directory = self._directory(staged.model)
        with self._locked(staged.model):
            existing = None if allow_duplicate else directory.manifest_of(staged.digest)
            if existing is not None:
                return Committed(existing, created=False)
            return Committed(self._make_visible(staged, describe, numbering, number), created=True)

    def adopt(self, manifest: Manifest) -> None:
        """See `ModelRepository.adopt`; a manifest that belongs to another version of the same bytes is replaced."""
        directory = self.local_path(manifest.model, manifest.version)
        with self._locked(manifest.model):
            recorded = self._directory(manifest.model).manifest(manifest.version)
            if recorded is not None and recorded.digest != manifest.digest:
                raise ManifestError(f"{directory} already records {recorded.digest}, not {manifest.digest}")
            if recorded is None or (recorded.model, recorded.version) != (manifest.model, manifest.version):
                self._put_manifest(directory, manifest)

    def retire(self, model: ModelName, version: VersionNumber) -> None:
        """See `ModelRepository.retire`; a rename into the model's working directory.

        Raises:
            VersionNotFoundError: there is no such version.
            LockedError: a publisher holds the model for longer than the time-out.
        """
        path = self.local_path(model, version)
        with self._locked(model), storage_errors("retire", path):
            self.local_path(model, version)
            Trash(self.base_path(model)).take(version, self._clock)

    def entries(self, model: ModelName, version: VersionNumber, observer: Observer) -> tuple[FileEntry, ...]:
        """See `ModelRepository.entries`.

        Raises:
            VersionNotFoundError: there is no such version.
            UnsafeExportError: the version holds what could not have been published.
            UnreadableExportError: a file cannot be read.
        """
        tree = scan(self.local_path(model, version))
        _refuse_unsafe(tree)
        return hash_tree(tree, observer)

    def verify(self, manifest: Manifest, observer: Observer) -> tuple[FileProblem, ...]:
        """See `ModelRepository.verify`.

        Raises:
            VersionNotFoundError: there is no such version.
            UnreadableExportError: a file cannot be read.
        """
        tree = scan(self.local_path(manifest.model, manifest.version))
        # What has another size has changed, whatever its bytes: hash only the rest.
        sizes = {entry.path: entry.size for entry in manifest.files}
        same_size = tuple(file for file in tree.files if sizes.get(file.path) == file.stamp.size)
        found = hash_tree(Tree(tree.root, same_size), observer)
        return _problems(tree, manifest, intact=set(found) & set(manifest.files))

    def local_path(self, model: ModelName, version: VersionNumber) -> Path:
        """See `ModelRepository.local_path`."""
        directory = self._directory(model)
        if not directory.has(version):
            self._require_base()
            raise VersionNotFoundError(model, version)
        return directory.version_path(version)

    def is_local(self, model: ModelName, version: VersionNumber) -> bool:
        """See `ModelRepository.is_local`; every version is."""
        return self._directory(model).has(version)

    def ensure_local(
        self, model: ModelName, version: VersionNumber, observer: Observer, *, rehash: bool = False
    ) -> Path:
        """See `ModelRepository.ensure_local`; there is nothing to fetch, nor anything to replace what is damaged."""
        path = self.local_path(model, version)
        manifest = self.manifest(model, version) if rehash else None
        problems = self.verify(manifest, observer) if manifest is not None else ()
        if problems:
            worst = problems[0]
            raise ManifestError(
                f"{model}@{version} does not match its manifest: {worst.path} is {worst.problem}",
                hint=f"deployctl verify {model}@{version}",
            )
        return path

    def location(self, model: ModelName, version: VersionNumber) -> str:
        """See `ModelRepository.location`."""
        return str(self._directory(model).version_path(version))

    def base_path(self, model: ModelName) -> Path:
        """See `ModelRepository.base_path`."""
        return self._base / model

    def strays(self) -> tuple[Stray, ...]:
        """See `ModelRepository.strays`."""
        return tuple(stray for directory in self._model_directories() for stray in directory.strays())

    def leftovers(self) -> tuple[str, ...]:
        """Returns the paths of staged exports whose publisher is gone and of what was retired, below the base path."""
        return (*self._each_area(lambda area: area.abandoned(self._clock)), *self._expired())

    def discard_leftovers(self) -> tuple[str, ...]:
        """Removes what `leftovers` names, and returns it."""
        return (*self._each_area(lambda area: area.discard_abandoned(self._clock)), *self._expired(discard=True))

    @contextmanager
    def _stage(self, model: ModelName, export: Path, observer: Observer) -> Iterator[StagedVersion]:
        tree = scan(export)
        _refuse_unsafe(tree)
        self._require_base()
        area = self._area(model)
        if Path(os.path.realpath(area.root)).is_relative_to(tree.root):
            raise UnsafeExportError(str(export), f"cannot be published: it contains the repository {self._base}")
        with ExitStack() as stack:
            with storage_errors("stage the export", area.root):
                area.prepare()
                with suppress(PermissionError):  # what another user left there is for that one, or for `gc` by root
                    area.discard_abandoned(self._clock)
                token = stack.enter_context(area.open(self._clock))
            contents = area.contents(token)
            self._require_room(tree, contents)
            files = copy_tree(tree, contents, observer)
            if scan(export) != tree:
                raise ExportChangedError(str(export), "changed while it was copied")
            yield StagedVersion(model, token, files)

    def _require_room(self, tree: Tree, directory: Path) -> None:
        with storage_errors("look for room", directory):
            system = os.statvfs(directory)
            free = system.f_bavail * system.f_frsize
            needed = tree.size_bytes + _SPARE_BYTES_PER_FILE * len(tree.files) + _SPARE_BYTES
            if free < needed and not can_clone(tree, directory):
                raise DiskFullError(
                    f"{self._base} has room for {free} bytes, the export needs {needed}",
                    hint=f"df -h {quote(str(self._base))}",
                )

    def _make_visible(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        numbering: Numbering,
        wanted: VersionNumber | None,
    ) -> Manifest:
        """Renames the staged directory to `wanted` or the next number that is free, with its manifest in it."""
        directory = self._directory(staged.model)
        contents = self._area(staged.model).contents(staged.token)
        at_least = int(self._clock.now().timestamp()) if numbering is Numbering.TIMESTAMP else 1
        while True:
            number = directory.next_number(at_least=at_least) if wanted is None else wanted
            manifest = describe(number)
            with storage_errors(f"commit {staged.model}@{number}", contents):
                _write_manifest(contents, manifest)
                # We hold the lock, so only what was put there by hand just now can be in the way.
                with suppress(FileExistsError):
                    rename_without_replacing(contents, directory.version_path(number))
                    sync_directory(directory.path)
                    return manifest
            if wanted is not None:
                raise VersionTakenError(staged.model, wanted, str(self._base))

    def _put_manifest(self, version_directory: Path, manifest: Manifest) -> None:
        """Puts the manifest into a version that is visible, in one step."""
        area = self._area(manifest.model)
        target = version_directory / MANIFEST
        with storage_errors("write the manifest", target), area.open(self._clock) as token:
            staged = area.contents(token) / MANIFEST.name
            write_new_file(staged, to_json(manifest).encode())
            for parent in reversed(MANIFEST.parents[:-1]):
                make_directory(version_directory / parent)
            os.replace(staged, target)
            sync_directory(target.parent)

    def _model_directories(self) -> list[ModelDirectory]:
        """Returns the directories whose names can be models', in name order."""
        self._require_base()
        with storage_errors("list the repository", self._base), os.scandir(self._base) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        found = []
        for name in names:
            with suppress(InvalidNameError):
                found.append(self._directory(parse_model_name(name)))
        return found

    def _each_area(self, find: Callable[[StagingArea], tuple[str, ...]]) -> tuple[str, ...]:
        found: list[str] = []
        for directory in self._model_directories():
            area = self._area(directory.model)
            with storage_errors("look for leftovers", area.root):
                found += [str((area.root / token).relative_to(self._base)) for token in find(area)]
        return tuple(found)

    def _expired(self, *, discard: bool = False) -> tuple[str, ...]:
        found: list[str] = []
        for directory in self._model_directories():
            trash = Trash(directory.path)
            with storage_errors("look through what was retired", trash.root):
                for path in trash.expired(self._clock, self._grace_s):
                    found.append(str(path.relative_to(self._base)))
                    if discard:
                        trash.discard(path)
        return tuple(found)

    @contextmanager
    def _locked(self, model: ModelName) -> Iterator[None]:
        self._require_base()
        area = self._area(model)
        with ExitStack() as stack:
            with storage_errors("lock the model", area.lock_file):
                area.prepare()
                lock = exclusive_lock(area.lock_file, self._clock, timeout_s=self._lock_timeout_s, what=model)
                stack.enter_context(lock)
            yield

    def _directory(self, model: ModelName) -> ModelDirectory:
        return ModelDirectory(model, self.base_path(model))

    def _area(self, model: ModelName) -> StagingArea:
        return StagingArea(self.base_path(model))

    def _require_base(self) -> None:
        with storage_errors("reach the repository", self._base):
            if not self._base.is_dir():
                raise StorageError(f"there is no repository at {self._base}", hint="deployctl init")


def open_local(opening: Opening) -> LocalModelRepository:
    """Returns the repository in the directory `opening.location`."""
    return LocalModelRepository(Path(opening.location), opening.clock, grace_s=opening.grace_s)


def _refuse_unsafe(tree: Tree) -> None:
    for path in sorted(tree.refused):
        raise tree.refused[path]


def _problems(tree: Tree, manifest: Manifest, *, intact: set[FileEntry]) -> tuple[FileProblem, ...]:
    """Returns how `tree` differs from the manifest's files, of which `intact` are as they should be."""
    there = {*tree.refused, *(file.path for file in tree.files)}
    recorded = {entry.path for entry in manifest.files}
    wrong = recorded - {entry.path for entry in intact}
    problems = [FileProblem(path, "changed" if path in there else "missing") for path in wrong]
    problems += [FileProblem(path, "extra") for path in there - recorded]
    return tuple(sorted(problems, key=lambda problem: problem.path))


def _write_manifest(contents: Path, manifest: Manifest) -> None:
    """Writes the manifest into a staged version, durably; may be called again with another."""
    for parent in reversed(MANIFEST.parents[:-1]):
        make_directory(contents / parent)
    write_new_file(contents / MANIFEST, to_json(manifest).encode())
    sync_directory((contents / MANIFEST).parent)
