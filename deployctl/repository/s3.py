"""Published versions in an S3-compatible object store, and their copies in a cache on this machine.

A version exists when its manifest does, which is put last and only once. See `s3_keys` for where everything is and
`s3_claims` for how publishers keep out of each other's way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.manifest import FileEntry, Manifest, to_json
from deployctl.domain.names import ModelName, VersionNumber, server_takes_for_version
from deployctl.errors import DeployctlError, ManifestError, VersionNotFoundError
from deployctl.repository.cache import VersionCache
from deployctl.repository.interface import (
    GRACE_S,
    Committed,
    FileProblem,
    ModelRepository,
    Numbering,
    StagedVersion,
    Stray,
)
from deployctl.repository.s3_claims import Numbers, probe_conditional_puts
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_download import download_tree
from deployctl.repository.s3_keys import inner_manifest_key, manifest_key, version_key
from deployctl.repository.s3_leftovers import Leftovers
from deployctl.repository.s3_publishing import Publishing
from deployctl.repository.s3_versions import StoredVersions, last_names, model_names

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from deployctl.domain.clock import Clock, Observer


class S3ModelRepository(ModelRepository):
    """A repository in an object store; servers on this machine are given the cache's directories.

    Args:
        lock_timeout_s: how long a commit waits for another publisher of the same bytes.
        grace_s: how long what was retired is kept, in seconds.
    """

    def __init__(
        self,
        store: S3Store,
        cache: VersionCache,
        clock: Clock,
        *,
        lock_timeout_s: float = 600.0,
        grace_s: float = GRACE_S,
    ) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._versions = StoredVersions(store, cache)
        self._publishing = Publishing(self._versions, clock, lock_timeout_s=lock_timeout_s)
        self._leftovers = Leftovers(store, Numbers(store), grace_s)
        self._manifests: dict[tuple[ModelName, VersionNumber], Manifest] = {}

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models that have a version, or had one, in name order."""
        return self._versions.models()

    def versions(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """See `ModelRepository.versions`; one listing, whatever the versions hold."""
        return self._versions.of(model)

    def catalogue(self) -> Mapping[ModelName, tuple[VersionNumber, ...]]:
        """See `ModelRepository.catalogue`; one listing for all models."""
        return self._versions.all()

    def adoptable(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns what was put there by hand: it has a SavedModel, and no publisher of ours claimed its number."""
        return self._versions.unrecorded(model)

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """See `ModelRepository.manifest`; a version that is in the cache needs no store."""
        known = self._manifests.get((model, version))
        if known is None:
            known = self._cache.manifest(model, version) or self._versions.manifest(model, version)
        if known is None:
            if not self._versions.is_unrecorded(model, version):
                raise VersionNotFoundError(model, version)
            return None
        self._manifests[model, version] = known
        return known

    def stage(self, model: ModelName, export: Path, observer: Observer) -> AbstractContextManager[StagedVersion]:
        """See `ModelRepository.stage`; hashes where the export stands, nothing is sent before the commit."""
        return self._publishing.stage(model, export, observer)

    def stage_version(
        self, model: ModelName, manifest: Manifest, source: ModelRepository, observer: Observer
    ) -> AbstractContextManager[StagedVersion]:
        """See `ModelRepository.stage_version`; within one store no byte goes through this machine.

        The store's own copy is not read here: `ensure_local` and `verify` hold it against the manifest.
        """
        if isinstance(source, S3ModelRepository) and self._store.can_copy_from(source._store):
            return self._publishing.stage_copy(model, manifest, source._versions, observer)
        return super().stage_version(model, manifest, source, observer)

    def commit(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        *,
        numbering: Numbering,
        allow_duplicate: bool,
        number: VersionNumber | None = None,
    ) -> Committed:
        """See `ModelRepository.commit`; uploads under a claimed number, the manifest last.

        Raises:
            ConditionalPutsError: the store cannot keep two publishers apart.
            LockedError: another publisher is at the same bytes for longer than the time-out.
            ExportChangedError: a file changed since it was staged.
            VersionNumbersExhaustedError: the model has the highest number that there is.
            VersionTakenError: something else has `number`, or had it once.
        """
        return self._publishing.commit(
            staged, describe, numbering=numbering, allow_duplicate=allow_duplicate, number=number
        )

    def adopt(self, manifest: Manifest) -> None:
        """See `ModelRepository.adopt`."""
        model, version = manifest.model, manifest.version
        recorded = self.manifest(model, version)
        if recorded is None and not self._store.put_new(manifest_key(model, version), to_json(manifest).encode()):
            recorded = self._versions.manifest(model, version)
        if recorded is not None and recorded.digest != manifest.digest:
            where = self._store.url(version_key(model, version))
            raise ManifestError(f"{where} already records {recorded.digest}, not {manifest.digest}")
        if recorded is None:
            self._store.put(inner_manifest_key(model, version), to_json(manifest).encode())
            self._publishing.record_contents(manifest)

    def retire(self, model: ModelName, version: VersionNumber) -> None:
        """See `ModelRepository.retire`; its manifest is kept aside and its number spent, its files stay for now.

        Raises:
            VersionNotFoundError: there is no such version.
            StoreDeniedError: whoever may publish may not take manifests away; see `deployctl s3 policy`.
        """
        self._versions.forget(model, version)
        manifest = self._versions.manifest(model, version)
        if manifest is None:
            raise self._no_manifest(model, version)
        self._versions.retire(manifest)
        self._manifests.pop((model, version), None)
        self._cache.drop(model, version)

    def entries(self, model: ModelName, version: VersionNumber, observer: Observer) -> tuple[FileEntry, ...]:
        """See `ModelRepository.entries`; reads every byte from the store."""
        found = self._versions.files(model, version)
        if not found or (
            self._versions.manifest(model, version) is None and not self._versions.is_unrecorded(model, version)
        ):
            raise VersionNotFoundError(model, version)
        return self._versions.hashed(model, version, found, observer)

    def verify(self, manifest: Manifest, observer: Observer) -> tuple[FileProblem, ...]:
        """See `ModelRepository.verify`; reads every byte from the store."""
        model, version = manifest.model, manifest.version
        if self._versions.manifest(model, version) is None and not self._versions.is_unrecorded(model, version):
            raise VersionNotFoundError(model, version)
        found = self._versions.files(model, version)
        recorded = {entry.path: entry for entry in manifest.files}
        same_size = {path: size for path, size in found.items() if path in recorded and recorded[path].size == size}
        intact = set(self._versions.hashed(model, version, same_size, observer)) & set(manifest.files)
        wrong = set(recorded) - {entry.path for entry in intact}
        problems = [FileProblem(path, "changed" if path in found else "missing") for path in wrong]
        problems += [FileProblem(path, "extra") for path in set(found) - set(recorded)]
        return tuple(sorted(problems, key=lambda problem: problem.path))

    def local_path(self, model: ModelName, version: VersionNumber) -> Path:
        """See `ModelRepository.local_path`; in the cache."""
        self.manifest(model, version)
        return self._cache.path(model, version)

    def is_local(self, model: ModelName, version: VersionNumber) -> bool:
        """See `ModelRepository.is_local`; asks the cache alone."""
        return self._cache.has(model, version)

    def ensure_local(
        self, model: ModelName, version: VersionNumber, observer: Observer, *, rehash: bool = False
    ) -> Path:
        """See `ModelRepository.ensure_local`; fetches into the cache."""
        here = self._cache.manifest(model, version)
        damaged = here is not None and rehash and not self._cache.is_intact(here, observer)
        if here is not None and not damaged:
            self._cache.served(model, version)
            return self._cache.path(model, version)
        if damaged:
            observer.warn(f"{model}@{version} is damaged in the cache and fetched again")
        manifest = self._versions.manifest(model, version)
        if manifest is None:
            raise self._no_manifest(model, version)
        return self._cache.fetch(manifest, self._versions.reader(model, version), observer, replace=damaged)

    def location(self, model: ModelName, version: VersionNumber) -> str:
        """See `ModelRepository.location`."""
        return self._store.url(version_key(model, version)).rstrip("/")

    @contextmanager
    def lent(self, model: ModelName, version: VersionNumber, observer: Observer) -> Iterator[Path]:
        """See `ModelRepository.lent`; fetched for this once, since what has no manifest cannot be verified."""
        if not self._versions.files(model, version):
            raise VersionNotFoundError(model, version)
        with self._cache.scratch() as directory:
            prefix = version_key(model, version)
            yield download_tree(self._store, directory / "version", observer, prefix=prefix)

    def base_path(self, model: ModelName) -> Path:
        """See `ModelRepository.base_path`; in the cache."""
        return self._cache.base_path(model)

    def examine(self) -> str:
        """Returns that the store keeps publishers apart, after trying it.

        Raises:
            ConditionalPutsError: it ignores conditional puts; publishing is refused.
        """
        if self._store.options.single_publisher:
            return "set to be published to by one at a time"
        probe_conditional_puts(self._store)
        return "conditional puts work"

    def strays(self) -> tuple[Stray, ...]:
        """Returns what looks like a version in the store though nobody published or claimed it."""
        strays: list[Stray] = []
        for model in model_names(self._store.listing("", by_directory=True).prefixes):
            listing = self._store.listing(f"{model}/", by_directory=True)
            ours = {
                str(number)
                for number in (*self.versions(model), *self._leftovers.claimed(model), *self._leftovers.retired(model))
            }
            names = last_names((*listing.prefixes, *(each.key for each in listing.objects)))
            looking = sorted(name for name in names - ours if server_takes_for_version(name))
            strays += [Stray(model, name, "no manifest") for name in looking]
        return tuple(strays)

    def leftovers(self) -> tuple[str, ...]:
        """Returns abandoned claims and uploads, what was retired long ago, and interrupted fetches in the cache."""
        return (*self._leftovers.find(self._clock.now()), *self._cache.leftovers())

    def discard_leftovers(self) -> tuple[str, ...]:
        """Removes what `leftovers` names; the numbers stay spent."""
        return (*self._leftovers.discard(self._clock.now()), *self._cache.discard_leftovers())

    def _no_manifest(self, model: ModelName, version: VersionNumber) -> DeployctlError:
        if self._versions.is_unrecorded(model, version):
            return ManifestError(f"{model}@{version} has no manifest", hint=f"deployctl adopt {model}")
        return VersionNotFoundError(model, version)
