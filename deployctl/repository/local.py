"""Published versions in a directory: `<model_base_path>/<model>/<version>/`, made visible by one rename.

Version directories keep normal permissions: whoever may write to the repository can damage a published
version, and `verify` finds it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.manifest import MANIFEST_PATH, FileEntry, Manifest, from_json, to_json
from deployctl.domain.names import (
    MAX_VERSION,
    Digest,
    ModelName,
    VersionNumber,
    is_version_name,
    parse_model_name,
    server_takes_for_version,
)
from deployctl.errors import (
    DiskFullError,
    ExportChangedError,
    InvalidNameError,
    ManifestError,
    StorageError,
    UnsafeExportError,
    VersionNotFoundError,
    VersionNumbersExhaustedError,
)
from deployctl.repository.copying import can_clone, copy_tree, hash_tree
from deployctl.repository.durable import (
    exclusive_lock,
    make_directory,
    rename_without_replacing,
    storage_errors,
    sync_directory,
    write_new_file,
)
from deployctl.repository.interface import (
    Committed,
    FileProblem,
    ModelRepository,
    Numbering,
    StagedVersion,
    Stray,
)
from deployctl.repository.staging import WORK_DIRECTORY, StagingArea
from deployctl.repository.tree import Tree, scan

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from deployctl.domain.clock import Clock, Observer

_MANIFEST = Path(MANIFEST_PATH)
_SAVED_MODEL_NAMES = ("saved_model.pb", "saved_model.pbtxt")
# The keys of manifest.json are sorted, so its digest comes first and a search need not read 100 whole manifests.
_DIGEST_HEAD = re.compile(rb'\A\{\s*"digest": "(sha256:[0-9a-f]{64})"')
_HEAD_BYTES = 128
# Room for the manifest, directories and the last block of each file.
_SPARE_BYTES = 1 << 20
_SPARE_BYTES_PER_FILE = 4096 + 512


class LocalModelRepository(ModelRepository):
    """A repository in a local directory.

    Args:
        base: `model_base_path`; need not exist yet.
        lock_timeout_s: how long a commit waits for another publisher of the same model.
    """

    def __init__(self, base: Path, clock: Clock, *, lock_timeout_s: float = 60.0) -> None:
        self._base = Path(os.path.abspath(base))
        self._clock = clock
        self._lock_timeout_s = lock_timeout_s

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models whose directory holds anything but our own working files, in name order."""
        return tuple(model for model in self._model_directories() if self._names_below(model))

    def versions(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """See `ModelRepository.versions`."""
        numbers = (int(name) for name in self._names_below(model) if is_version_name(name))
        return tuple(VersionNumber(number) for number in sorted(numbers) if self._is_version(model, number))

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """See `ModelRepository.manifest`."""
        path = self.local_path(model, version) / _MANIFEST
        with storage_errors("read the manifest", path):
            try:
                content = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        manifest = from_json(content, where=str(path))
        if (manifest.model, manifest.version) != (model, version):
            raise ManifestError(
                f"{path} is the manifest of {manifest.model}@{manifest.version}, not of {model}@{version}",
                hint=f"deployctl adopt {model}",
            )
        return manifest

    def stage(self, model: ModelName, export: Path, observer: Observer) -> AbstractContextManager[StagedVersion]:
        """See `ModelRepository.stage`; copies below `<model>/.deployctl/staging/`."""
        return self._stage(model, export, observer)

    def commit(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        *,
        numbering: Numbering,
        allow_duplicate: bool,
    ) -> Committed:
        """See `ModelRepository.commit`; one lock for each model makes search, numbering and rename one step.

        Raises:
            LockedError: another publisher holds the model for longer than the time-out.
            VersionNumbersExhaustedError: the model has the highest number that there is.
        """
        with self._locked(staged.model):
            if not allow_duplicate:
                existing = self._version_of(staged)
                if existing is not None:
                    return Committed(existing, created=False)
            return Committed(self._make_visible(staged, describe, numbering), created=True)

    def adopt(self, manifest: Manifest) -> None:
        """See `ModelRepository.adopt`; a manifest that belongs to another version of the same bytes is replaced."""
        directory = self.local_path(manifest.model, manifest.version)
        path = directory / _MANIFEST
        with self._locked(manifest.model), storage_errors("write the manifest", path):
            if path.exists():
                recorded = from_json(path.read_bytes(), where=str(path))
                if recorded.digest != manifest.digest:
                    raise ManifestError(f"{path} already records {recorded.digest}, not {manifest.digest}")
                if (recorded.model, recorded.version) == (manifest.model, manifest.version):
                    return
            area = self._area(manifest.model)
            with area.open(self._clock) as token:
                staged = area.contents(token) / _MANIFEST.name
                write_new_file(staged, to_json(manifest).encode())
                for parent in reversed(_MANIFEST.parents[:-1]):
                    make_directory(directory / parent)
                os.replace(staged, path)
                sync_directory(path.parent)

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
        recorded = {entry.path: entry for entry in manifest.files}
        # What has another size has changed, whatever its bytes: hash only the rest.
        sizes = {file.path: file.stamp.size for file in tree.files}
        same_size = [
            file for file in tree.files if file.path in recorded and recorded[file.path].size == file.stamp.size
        ]
        found = {entry.path: entry for entry in hash_tree(Tree(tree.root, tuple(same_size)), observer)}
        problems = [
            FileProblem(path, "changed" if path in sizes or path in tree.refused else "missing")
            for path, entry in recorded.items()
            if found.get(path) != entry
        ]
        extra = [FileProblem(path, "extra") for path in {*sizes, *tree.refused} - recorded.keys()]
        return tuple(sorted(problems + extra, key=lambda problem: problem.path))

    def local_path(self, model: ModelName, version: VersionNumber) -> Path:
        """See `ModelRepository.local_path`."""
        if not self._is_version(model, version):
            self._require_base()
            raise VersionNotFoundError(model, version)
        return self.base_path(model) / str(version)

    def base_path(self, model: ModelName) -> Path:
        """See `ModelRepository.base_path`."""
        return self._base / model

    def strays(self) -> tuple[Stray, ...]:
        """See `ModelRepository.strays`."""
        return tuple(
            Stray(model, name, problem)
            for model in self._model_directories()
            for name in sorted(self._names_below(model))
            if server_takes_for_version(name)
            if (problem := self._problem(model, name)) is not None
        )

    def leftovers(self) -> tuple[str, ...]:
        """Returns the paths of staged exports whose publisher is gone, relative to the model base path."""
        return self._each_area(lambda area: area.abandoned(self._clock))

    def discard_leftovers(self) -> tuple[str, ...]:
        """Removes staged exports whose publisher is gone and returns their paths, as `leftovers` names them."""
        return self._each_area(lambda area: area.discard_abandoned(self._clock))

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
                    f"{self._base} has room for {free} bytes, the export needs {needed}", hint=f"df -h {self._base}"
                )

    def _version_of(self, staged: StagedVersion) -> Manifest | None:
        """Returns the newest version of the staged bytes that still looks whole, or None."""
        for version in reversed(self.versions(staged.model)):
            if self._recorded_digest(staged.model, version) != staged.digest:
                continue
            with suppress(ManifestError):
                manifest = self.manifest(staged.model, version)
                if manifest is not None and self._sizes_agree(manifest):
                    return manifest
        return None

    def _recorded_digest(self, model: ModelName, version: VersionNumber) -> Digest | None:
        try:
            with (self.base_path(model) / str(version) / _MANIFEST).open("rb") as file:
                head = _DIGEST_HEAD.match(file.read(_HEAD_BYTES))
            if head is not None:
                return Digest(head[1].decode("ascii"))
            manifest = self.manifest(model, version)
        except (OSError, ManifestError):
            return None
        return manifest.digest if manifest is not None else None

    def _sizes_agree(self, manifest: Manifest) -> bool:
        """Whether every file is there with its recorded size; a damaged version must not stand in for a new one."""
        directory = self.local_path(manifest.model, manifest.version)
        try:
            return all((directory / entry.path).stat().st_size == entry.size for entry in manifest.files)
        except OSError:
            return False

    def _make_visible(
        self, staged: StagedVersion, describe: Callable[[VersionNumber], Manifest], numbering: Numbering
    ) -> Manifest:
        """Renames the staged directory to the next number that is free, with its manifest in it."""
        contents = self._area(staged.model).contents(staged.token)
        number = self._next_number(staged.model, numbering)
        while True:
            manifest = describe(number)
            target = self.base_path(staged.model) / str(number)
            with storage_errors(f"commit {staged.model}@{number}", contents):
                _write_manifest(contents, manifest)
                try:
                    rename_without_replacing(contents, target)
                except FileExistsError:
                    # Put there by hand since the numbers were read: whoever holds our lock is us.
                    number = self._next_number(staged.model, numbering)
                    continue
                sync_directory(target.parent)
            return manifest

    def _next_number(self, model: ModelName, numbering: Numbering) -> VersionNumber:
        """Returns a number above all that a server would take for versions, strays included."""
        taken = (int(name) for name in self._names_below(model) if server_takes_for_version(name))
        highest = max(taken, default=0)
        if highest >= MAX_VERSION:
            raise VersionNumbersExhaustedError(model, highest)
        following = max(highest, 0) + 1
        if numbering is Numbering.TIMESTAMP:
            following = max(following, int(self._clock.now().timestamp()))
        return VersionNumber(following)

    def _problem(self, model: ModelName, name: str) -> str | None:
        """Returns why the entry is no version though a server would take it for one; None for a version."""
        path = self.base_path(model) / name
        with storage_errors("look at", path):
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                return "a symlink"
            if not stat.S_ISDIR(mode):
                return "a file"
            if not is_version_name(name):
                return _misspelling(name)
            if self._is_version(model, int(name)):
                return None
            return "no saved_model.pb" if any(path.iterdir()) else "empty"

    def _is_version(self, model: ModelName, number: int) -> bool:
        """Whether a real directory of that name holds a SavedModel or a manifest."""
        directory = self.base_path(model) / str(number)
        with storage_errors("look at", directory):
            try:
                if not stat.S_ISDIR(directory.lstat().st_mode):
                    return False
            except (FileNotFoundError, NotADirectoryError):
                return False
            return any(_exists(directory / name) for name in (*_SAVED_MODEL_NAMES, _MANIFEST))

    def _model_directories(self) -> tuple[ModelName, ...]:
        """Returns the directories whose names can be models', in name order."""
        self._require_base()
        with storage_errors("list the repository", self._base), os.scandir(self._base) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        found = []
        for name in names:
            with suppress(InvalidNameError):
                found.append(parse_model_name(name))
        return tuple(found)

    def _names_below(self, model: ModelName) -> list[str]:
        """Returns the entries of the model's directory but our own working directory; [] if there is none."""
        directory = self.base_path(model)
        with storage_errors("list the versions", directory):
            try:
                return [name for name in os.listdir(directory) if name != WORK_DIRECTORY]
            except FileNotFoundError:
                self._require_base()
                return []

    def _each_area(self, find: Callable[[StagingArea], tuple[str, ...]]) -> tuple[str, ...]:
        found = []
        for model in self._model_directories():
            area = self._area(model)
            with storage_errors("look for leftovers", area.root):
                found += [str((area.root / token).relative_to(self._base)) for token in find(area)]
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

    def _area(self, model: ModelName) -> StagingArea:
        return StagingArea(self.base_path(model))

    def _require_base(self) -> None:
        with storage_errors("reach the repository", self._base):
            if not self._base.is_dir():
                raise StorageError(f"there is no repository at {self._base}", hint="deployctl init")


def _refuse_unsafe(tree: Tree) -> None:
    for path in sorted(tree.refused):
        raise tree.refused[path]


def _write_manifest(contents: Path, manifest: Manifest) -> None:
    """Writes the manifest into a staged version, durably; may be called again with another."""
    for parent in reversed(_MANIFEST.parents[:-1]):
        make_directory(contents / parent)
    write_new_file(contents / _MANIFEST, to_json(manifest).encode())
    sync_directory((contents / _MANIFEST).parent)


def _misspelling(name: str) -> str:
    """Returns how `name`, which a server reads as a number, differs from the number's plain spelling."""
    if name != name.strip():
        return "white space"
    return "a sign" if name[0] in "+-" else "leading zeros"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except NotADirectoryError:
        return False
