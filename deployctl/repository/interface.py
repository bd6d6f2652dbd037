"""The port to a repository of published versions: `<model_base_path>/<model>/<version>/`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from deployctl.domain.clock import Observer
from deployctl.domain.manifest import FileEntry, Manifest, content_digest
from deployctl.domain.names import Digest, ModelName, VersionNumber
from deployctl.errors import ManifestError

# How long what was retired can be got back, in seconds.
GRACE_S = 7 * 24 * 3600.0


class Numbering(StrEnum):
    """How the next version number is chosen: one more than the highest, or seconds since the epoch."""

    SEQUENTIAL = "sequential"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class StagedVersion:
    """A copied, hashed and durable export that no server can see yet.

    Attributes:
        token: the implementation's own name for where it is staged.
        files: every file, sorted by path.
    """

    model: ModelName
    token: str
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> Digest:
        """The identity that the version will have."""
        return content_digest(self.files)


@dataclass(frozen=True, slots=True)
class Committed:
    """Which version holds the staged bytes, and whether this commit made it."""

    manifest: Manifest
    created: bool


@dataclass(frozen=True, slots=True)
class FileProblem:
    """A file that disagrees with the manifest: `problem` is "missing", "changed" or "extra"."""

    path: str
    problem: str


@dataclass(frozen=True, slots=True)
class Stray:
    """An entry below a model that is no version of ours but that TensorFlow Serving would take for one.

    Attributes:
        name: the entry's name.
        problem: e.g. "a file", "empty", "leading zeros".
    """

    model: ModelName
    name: str
    problem: str


class ModelRepository(abc.ABC):
    """Published versions. A version is visible whole or not at all, and never changes.

    Every method raises StorageError where the storage cannot be reached.
    """

    @abc.abstractmethod
    def models(self) -> tuple[ModelName, ...]:
        """Returns the models that have a directory, in name order."""

    @abc.abstractmethod
    def versions(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns the committed versions of `model`, ascending; () if it has none."""

    @abc.abstractmethod
    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """Returns the manifest, or None for a version that was put there without one.

        Raises:
            VersionNotFoundError: there is no such version.
            ManifestError: the manifest cannot be read.
        """

    @abc.abstractmethod
    def stage(self, model: ModelName, export: Path, observer: Observer) -> AbstractContextManager[StagedVersion]:
        """Copies, hashes and makes durable all of directory `export`; what is not committed is discarded at exit.

        Raises:
            UnsafeExportError: a symlink leaves the export, a device, socket or FIFO is in it, or a name that
                could not be restored from a manifest.
            UnreadableExportError: a file cannot be read.
            ExportChangedError: a file changed while it was copied.
            DiskFullError: there is not enough room, before or during the copy.
        """

    @abc.abstractmethod
    def commit(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        *,
        numbering: Numbering,
        allow_duplicate: bool,
        number: VersionNumber | None = None,
    ) -> Committed:
        """Makes the staged bytes visible under the next number, or under `number`, in one step.

        Concurrent publishers get consecutive numbers. Unless `allow_duplicate`, bytes that a version of this
        model already has are not committed again: that version's manifest comes back.
        `describe` gives the manifest for the number that was claimed; it may be called more than once.

        Raises:
            VersionTakenError: something else has `number`, or had it once.
        """

    def stage_version(
        self, model: ModelName, manifest: Manifest, source: ModelRepository, observer: Observer
    ) -> AbstractContextManager[StagedVersion]:
        """Stages the version of `source` that `manifest` records, as one of `model`, with the digest that it has.

        Goes through this machine, unless a store can copy by itself.

        Raises:
            ManifestError: the files of the version are not those of its manifest.
            StorageError: either repository cannot be reached; and what `stage` raises.
        """
        return self._stage_by_way_of_here(model, manifest, source, observer)

    @abc.abstractmethod
    def adopt(self, manifest: Manifest) -> None:
        """Records a manifest for a version that stands there without one, without changing its other bytes.

        Raises:
            VersionNotFoundError: there is no such version.
            ManifestError: it already has a manifest, of another digest.
        """

    @abc.abstractmethod
    def retire(self, model: ModelName, version: VersionNumber) -> None:
        """Takes a version out of sight, in one step; what it holds is kept for the grace period of the repository.

        Its number is not given out again. Whether anything still needs it is the caller's to know.

        Raises:
            VersionNotFoundError: there is no such version.
        """

    @abc.abstractmethod
    def entries(self, model: ModelName, version: VersionNumber, observer: Observer) -> tuple[FileEntry, ...]:
        """Returns the files that a version has now, hashed, sorted by path, without its manifest.

        Raises:
            VersionNotFoundError: there is no such version.
        """

    @abc.abstractmethod
    def verify(self, manifest: Manifest, observer: Observer) -> tuple[FileProblem, ...]:
        """Returns where the version's files disagree with its manifest; () when every byte is right."""

    @abc.abstractmethod
    def local_path(self, model: ModelName, version: VersionNumber) -> Path:
        """Returns the directory of the version on this machine, where it is or, once it was fetched, will be.

        Raises:
            VersionNotFoundError: there is no such version.
        """

    @abc.abstractmethod
    def is_local(self, model: ModelName, version: VersionNumber) -> bool:
        """Whether the whole version is on this machine; never asks a store that is elsewhere."""

    @abc.abstractmethod
    def ensure_local(
        self, model: ModelName, version: VersionNumber, observer: Observer, *, rehash: bool = False
    ) -> Path:
        """Returns the directory of the version on this machine, after fetching and verifying what is not there yet.

        What is there already needs no store. With `rehash`, every byte of it is read again, and a fetched copy that
        is damaged is replaced.

        Raises:
            VersionNotFoundError: there is no such version.
            ManifestError: bytes disagree with the manifest, and there are no others.
            DiskFullError: there is no room.
        """

    @abc.abstractmethod
    def location(self, model: ModelName, version: VersionNumber) -> str:
        """Returns where a version is, or would be, for people and for the record: an absolute path or a URL."""

    @contextmanager
    def lent(self, model: ModelName, version: VersionNumber, observer: Observer) -> Iterator[Path]:
        """Gives a directory with the files of a version, recorded or not, to be read while the block runs.

        Raises:
            VersionNotFoundError: there is no such version.
        """
        del observer
        yield self.local_path(model, version)

    @abc.abstractmethod
    def base_path(self, model: ModelName) -> Path:
        """Returns the absolute directory on this machine that a server is given for `model`."""

    @contextmanager
    def _stage_by_way_of_here(
        self, model: ModelName, manifest: Manifest, source: ModelRepository, observer: Observer
    ) -> Iterator[StagedVersion]:
        path = source.ensure_local(manifest.model, manifest.version, observer)
        with self.stage(model, path, observer) as staged:
            if staged.digest != manifest.digest:
                raise ManifestError(
                    f"{manifest.model}@{manifest.version} does not match its manifest in {path}",
                    hint=f"deployctl verify {manifest.model}@{manifest.version}",
                )
            yield staged

    def catalogue(self) -> Mapping[ModelName, tuple[VersionNumber, ...]]:
        """Returns the versions of every model, each ascending, by model in name order."""
        return {model: self.versions(model) for model in self.models()}

    def adoptable(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns what stands there without a manifest and is not among `versions` for want of one, ascending."""
        del model
        return ()

    def examine(self) -> str:
        """Returns what `doctor` should say of the store, after trying what publishing needs of it."""
        return ""

    @abc.abstractmethod
    def strays(self) -> tuple[Stray, ...]:
        """Returns what a server polling the repository would take for versions though it is none of ours."""

    @abc.abstractmethod
    def leftovers(self) -> tuple[str, ...]:
        """Returns staged exports whose publisher is gone, and what was retired longer ago than the grace period."""

    @abc.abstractmethod
    def discard_leftovers(self) -> tuple[str, ...]:
        """Removes what `leftovers` names, and returns it."""
