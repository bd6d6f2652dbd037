"""What stands in a model's directory, as we and as a model server read it."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deployctl.domain.manifest import MANIFEST_PATH, Manifest, from_json
from deployctl.domain.names import (
    MAX_VERSION,
    Digest,
    ModelName,
    VersionNumber,
    is_version_name,
    server_takes_for_version,
)
from deployctl.errors import ManifestError, VersionNumbersExhaustedError
from deployctl.repository.durable import storage_errors
from deployctl.repository.interface import Stray
from deployctl.repository.retired import Trash
from deployctl.repository.staging import WORK_DIRECTORY

MANIFEST = Path(MANIFEST_PATH)

_SAVED_MODEL_NAMES = ("saved_model.pb", "saved_model.pbtxt")
# The keys of manifest.json are sorted, so its digest comes first and a search need not read 100 whole manifests.
_DIGEST_HEAD = re.compile(rb'\A\{\s*"digest": "(sha256:[0-9a-f]{64})"')
_HEAD_BYTES = 128


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """`<model_base_path>/<model>`; need not exist.

    Every method raises StorageError where the directory cannot be read.
    """

    model: ModelName
    path: Path

    def names(self) -> list[str]:
        """Returns the entries, in no order, but our own working directory; [] if there is no directory."""
        with storage_errors("list the versions", self.path):
            try:
                return [name for name in os.listdir(self.path) if name != WORK_DIRECTORY]
            except FileNotFoundError:
                return []

    def versions(self) -> tuple[VersionNumber, ...]:
        """Returns the versions, ascending."""
        numbers = sorted(int(name) for name in self.names() if is_version_name(name))
        return tuple(VersionNumber(number) for number in numbers if self.has(VersionNumber(number)))

    def has(self, version: VersionNumber) -> bool:
        """Whether a real directory of that number holds a SavedModel or a manifest."""
        directory = self.version_path(version)
        with storage_errors("look at", directory):
            mode = _mode(directory)
            return stat.S_ISDIR(mode) and any(_mode(directory / name) for name in (*_SAVED_MODEL_NAMES, MANIFEST))

    def version_path(self, version: VersionNumber) -> Path:
        """Returns where `version` is, or would be."""
        return self.path / str(version)

    def manifest(self, version: VersionNumber) -> Manifest | None:
        """Returns the manifest that `version` has, or None.

        Raises:
            ManifestError: it cannot be read.
        """
        path = self.version_path(version) / MANIFEST
        with storage_errors("read the manifest", path):
            try:
                content = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return from_json(content, where=str(path))

    def manifest_of(self, digest: Digest) -> Manifest | None:
        """Returns the manifest of the newest version with that digest whose files still have their sizes, or None.

        A version that is visibly damaged must not stand in for the bytes that it had.
        """
        for version in reversed(self.versions()):
            if self._recorded_digest(version) != digest:
                continue
            with suppress(ManifestError):
                manifest = self.manifest(version)
                if manifest is not None and self._agrees(manifest, version):
                    return manifest
        return None

    def next_number(self, *, at_least: int = 1) -> VersionNumber:
        """Returns a number above all that a server would take for versions, strays included.

        Raises:
            VersionNumbersExhaustedError: the highest number that there is is taken.
        """
        there = (int(name) for name in self.names() if server_takes_for_version(name))
        highest = max((Trash(self.path).highest(), *there))
        if highest >= MAX_VERSION:
            raise VersionNumbersExhaustedError(self.model, highest)
        return VersionNumber(max(highest + 1, at_least))

    def strays(self) -> list[Stray]:
        """Returns what a server would take for versions though it is none, by name."""
        found = []
        for name in sorted(self.names()):
            problem = self._problem(name) if server_takes_for_version(name) else None
            if problem is not None:
                found.append(Stray(self.model, name, problem))
        return found

    def _recorded_digest(self, version: VersionNumber) -> Digest | None:
        try:
            with (self.version_path(version) / MANIFEST).open("rb") as file:
                head = _DIGEST_HEAD.match(file.read(_HEAD_BYTES))
            if head is not None:
                return Digest(head[1].decode())
            manifest = self.manifest(version)
        except (OSError, ManifestError):
            return None
        return manifest.digest if manifest is not None else None

    def _agrees(self, manifest: Manifest, version: VersionNumber) -> bool:
        if (manifest.model, manifest.version) != (self.model, version):
            return False
        directory = self.version_path(version)
        try:
            return all((directory / entry.path).stat().st_size == entry.size for entry in manifest.files)
        except OSError:
            return False

    def _problem(self, name: str) -> str | None:
        path = self.path / name
        with storage_errors("look at", path):
            mode = _mode(path)
            if stat.S_ISLNK(mode):
                return "a symlink"
            if not stat.S_ISDIR(mode):
                return "a file"
            if not is_version_name(name):
                return _misspelling(name)
            if self.has(VersionNumber(int(name))):
                return None
            return "no saved_model.pb" if any(path.iterdir()) else "empty"


def _misspelling(name: str) -> str:
    """Returns how `name`, which a server reads as a number, differs from the number's plain spelling."""
    if name != name.strip():
        return "white space"
    return "a sign" if name[0] in "+-" else "leading zeros"


def _mode(path: Path) -> int:
    """Returns the type and permissions of what `path` names, symlinks not followed; 0 if it names nothing."""
    try:
        return path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
