"""Published versions in an S3-compatible object store, and their copies in a cache on this machine.

A version exists when its manifest does, which is put last and only once. See `s3_keys` for where everything is and
`s3_claims` for how publishers keep out of each other's way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.manifest import MANIFEST_PATH, FileEntry, Manifest, from_json, to_json
from deployctl.domain.names import (
    Digest,
    ModelName,
    VersionNumber,
    is_version_name,
    parse_model_name,
    server_takes_for_version,
)
from deployctl.errors import (
    DeployctlError,
    ExportChangedError,
    InvalidNameError,
    ManifestError,
    StorageError,
    VersionNotFoundError,
)
from deployctl.repository.cache import VersionCache
from deployctl.repository.copying import Work, hash_tree
from deployctl.repository.interface import (
    Committed,
    FileProblem,
    ModelRepository,
    Numbering,
    StagedVersion,
    Stray,
)
from deployctl.repository.s3_claims import (
    Beating,
    Contents,
    Numbers,
    Publisher,
    Reservation,
    probe_conditional_puts,
)
from deployctl.repository.s3_client import Found, S3Store
from deployctl.repository.s3_keys import (
    MANIFESTS,
    claim_key,
    inner_manifest_key,
    manifest_key,
    version_key,
    version_of,
)
from deployctl.repository.s3_leftovers import Leftovers
from deployctl.repository.s3_upload import upload_tree
from deployctl.repository.tree import Tree, scan

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from deployctl.domain.clock import Clock, Observer

_SAVED_MODEL_NAMES = frozenset({"saved_model.pb", "saved_model.pbtxt"})
_PIECE = 8 << 20


class _Overtaken(Exception):  # noqa: N818 - a signal within this module
    """Another publisher took us for dead and spent our number."""


@dataclass(frozen=True, slots=True)
class _Staging:
    tree: Tree
    observer: Observer


class S3ModelRepository(ModelRepository):
    """A repository in an object store; servers on this machine are given the cache's directories.

    Args:
        lock_timeout_s: how long a commit waits for another publisher of the same bytes.
    """

    def __init__(self, store: S3Store, cache: VersionCache, clock: Clock, *, lock_timeout_s: float = 600.0) -> None:
        self._store = store
        self._cache = cache
        self._clock = clock
        self._numbers = Numbers(store)
        self._contents = Contents(store, clock, lock_timeout_s)
        self._leftovers = Leftovers(store, self._numbers)
        self._staged: dict[str, _Staging] = {}
        self._manifests: dict[tuple[ModelName, VersionNumber], Manifest] = {}

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models that have a version, or had one, in name order."""
        return _model_names(self._store.listing(MANIFESTS, by_directory=True).prefixes)

    def versions(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """See `ModelRepository.versions`; one listing, whatever the versions hold."""
        return _versions_in(self._store.listing(f"{MANIFESTS}{model}/").objects)

    def catalogue(self) -> Mapping[ModelName, tuple[VersionNumber, ...]]:
        """See `ModelRepository.catalogue`; one listing for all models."""
        found: dict[str, list[Found]] = {}
        for each in self._store.listing(MANIFESTS).objects:
            found.setdefault(each.key.removeprefix(MANIFESTS).partition("/")[0], []).append(each)
        return {model: _versions_in(tuple(found[model])) for model in _model_names(tuple(found))}

    def adoptable(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns what was put there by hand: it has a SavedModel, and no publisher of ours claimed its number."""
        listing = self._store.listing(f"{model}/", by_directory=True)
        numbers = {VersionNumber(int(name)) for name in _names(listing.prefixes) if is_version_name(name)}
        return tuple(sorted(version for version in numbers if self._is_unrecorded(model, version)))

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """See `ModelRepository.manifest`; a version that is in the cache needs no store."""
        known = self._manifests.get((model, version))
        if known is None:
            known = self._cache.manifest(model, version) or self._stored_manifest(model, version)
        if known is None:
            if not self._is_unrecorded(model, version):
                raise VersionNotFoundError(model, version)
            return None
        self._manifests[model, version] = known
        return known

    def stage(self, model: ModelName, export: Path, observer: Observer) -> AbstractContextManager[StagedVersion]:
        """See `ModelRepository.stage`; hashes where the export stands, nothing is sent before the commit."""
        return self._stage(model, export, observer)

    def commit(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        *,
        numbering: Numbering,
        allow_duplicate: bool,
    ) -> Committed:
        """See `ModelRepository.commit`; uploads under a claimed number, the manifest last.

        Raises:
            ConditionalPutsError: the store cannot keep two publishers apart.
            LockedError: another publisher is at the same bytes for longer than the time-out.
            ExportChangedError: a file changed since it was staged.
            VersionNumbersExhaustedError: the model has the highest number that there is.
        """
        staging = self._staged.get(staged.token)
        if staging is None:
            raise StorageError(f"the export staged as {staged.token} for {staged.model} is gone")
        while True:
            publisher = Publisher(self._clock)
            existing, newest = (None, self._newest(staged)) if allow_duplicate else self._existing(staged)
            if existing is not None:
                return Committed(existing, created=False)
            reservation = self._contents.reserve(staged.model, staged.digest, publisher, newest)
            if reservation is not None:
                with suppress(_Overtaken):
                    return Committed(self._publish(staged, staging, describe, numbering, reservation), created=True)

    def adopt(self, manifest: Manifest) -> None:
        """See `ModelRepository.adopt`."""
        model, version = manifest.model, manifest.version
        recorded = self.manifest(model, version)
        if recorded is None and not self._store.put_new(manifest_key(model, version), to_json(manifest).encode()):
            recorded = self._stored_manifest(model, version)
        if recorded is not None and recorded.digest != manifest.digest:
            where = self._store.url(version_key(model, version))
            raise ManifestError(f"{where} already records {recorded.digest}, not {manifest.digest}")
        if recorded is None:
            self._store.put(inner_manifest_key(model, version), to_json(manifest).encode())
            self._record_contents(manifest)

    def entries(self, model: ModelName, version: VersionNumber, observer: Observer) -> tuple[FileEntry, ...]:
        """See `ModelRepository.entries`; reads every byte from the store."""
        found = self._files(model, version)
        if not found or (self._stored_manifest(model, version) is None and not self._is_unrecorded(model, version)):
            raise VersionNotFoundError(model, version)
        return self._hashed(model, version, found, observer)

    def verify(self, manifest: Manifest, observer: Observer) -> tuple[FileProblem, ...]:
        """See `ModelRepository.verify`; reads every byte from the store."""
        model, version = manifest.model, manifest.version
        if self._stored_manifest(model, version) is None and not self._is_unrecorded(model, version):
            raise VersionNotFoundError(model, version)
        found = self._files(model, version)
        recorded = {entry.path: entry for entry in manifest.files}
        same_size = {path: size for path, size in found.items() if path in recorded and recorded[path].size == size}
        intact = set(self._hashed(model, version, same_size, observer)) & set(manifest.files)
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
        manifest = self._stored_manifest(model, version)
        if manifest is None:
            raise self._no_manifest(model, version)
        return self._cache.fetch(manifest, self._reader(model, version), observer, replace=damaged)

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
        for model in _model_names(self._store.listing("", by_directory=True).prefixes):
            listing = self._store.listing(f"{model}/", by_directory=True)
            ours = {str(number) for number in (*self.versions(model), *self._leftovers.claimed(model))}
            names = _names((*listing.prefixes, *(each.key for each in listing.objects)))
            looking = sorted(name for name in names - ours if server_takes_for_version(name))
            strays += [Stray(model, name, "no manifest") for name in looking]
        return tuple(strays)

    def leftovers(self) -> tuple[str, ...]:
        """Returns claims and uploads in the store whose publisher is gone, and interrupted fetches in the cache."""
        return (*self._leftovers.find(self._clock.now()), *self._cache.leftovers())

    def discard_leftovers(self) -> tuple[str, ...]:
        """Removes what `leftovers` names; the numbers stay spent."""
        return (*self._leftovers.discard(self._clock.now()), *self._cache.discard_leftovers())

    @contextmanager
    def _stage(self, model: ModelName, export: Path, observer: Observer) -> Iterator[StagedVersion]:
        tree = scan(export)
        for path in sorted(tree.refused):
            raise tree.refused[path]
        files = hash_tree(tree, observer)
        if scan(export) != tree:
            raise ExportChangedError(str(export), "changed while it was read")
        token = Publisher(self._clock).token
        self._staged[token] = _Staging(tree, observer)
        try:
            yield StagedVersion(model, token, files)
        finally:
            del self._staged[token]

    def _existing(self, staged: StagedVersion) -> tuple[Manifest | None, str | None]:
        """Returns the whole version that holds the staged bytes, or None and the newest record of them, to follow."""
        model = staged.model
        while True:
            records = list(self._contents.versions(model, staged.digest))
            for _, _, version in records:
                manifest = self._committed(model, version, staged.digest) if version is not None else None
                if manifest is not None:
                    return manifest, None
            if not records:
                return None, None
            key, record, version = records[0]
            if version is not None and self._store.get(manifest_key(model, version)) is not None:
                return None, key
            if self._contents.wait_for(key, record, version, model):
                continue
            if version is None or self._numbers.spend(model, version):
                return None, key

    def _newest(self, staged: StagedVersion) -> str | None:
        return next((key for key, _, _ in self._contents.versions(staged.model, staged.digest)), None)

    def _committed(self, model: ModelName, version: VersionNumber, digest: Digest) -> Manifest | None:
        """Returns the manifest if the version holds these bytes and all its files still have their sizes."""
        with suppress(ManifestError):
            manifest = self._stored_manifest(model, version)
            if manifest is not None and manifest.digest == digest:
                sizes = self._files(model, version)
                if all(sizes.get(entry.path) == entry.size for entry in manifest.files):
                    return manifest
        return None

    def _publish(
        self,
        staged: StagedVersion,
        staging: _Staging,
        describe: Callable[[VersionNumber], Manifest],
        numbering: Numbering,
        reservation: Reservation,
    ) -> Manifest:
        model, store = staged.model, self._store
        at_least = int(self._clock.now().timestamp()) if numbering is Numbering.TIMESTAMP else 1
        version: VersionNumber | None = None
        try:
            version = self._numbers.claim(model, reservation.publisher, at_least=at_least)
            prefix = version_key(model, version)
            reservation.renew(version)
            beating = Beating(staging.observer, reservation)
            upload_tree(store, staging.tree, staged.files, lambda path: prefix + path, beating)
            manifest = describe(version)
            body = to_json(manifest).encode()
            store.put(inner_manifest_key(model, version), body)
            if not store.put_new(manifest_key(model, version), body):
                raise _Overtaken
        except BaseException:
            self._withdraw(model, version, reservation)
            raise
        with suppress(DeployctlError):  # the version is there; what is left of the claim is for `gc`
            store.delete([claim_key(model, version)])
        return manifest

    def _withdraw(self, model: ModelName, version: VersionNumber | None, reservation: Reservation) -> None:
        """Removes what a failed publishing left; where the store does not let us, `gc` will.

        The manifest may have been put though we were not told, so the number is spent before any file is removed.
        """
        with suppress(DeployctlError):
            if version is None:
                self._store.delete([reservation.key])
            elif self._numbers.spend(model, version):
                self._leftovers.remove(model, version, reservation.key)

    def _stored_manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        key = manifest_key(model, version)
        body = self._store.get(key)
        if not body:  # absent, or a number that is spent
            return None
        manifest = from_json(body, where=self._store.url(key))
        if (manifest.model, manifest.version) != (model, version):
            raise ManifestError(
                f"{self._store.url(key)} is the manifest of {manifest.model}@{manifest.version}, "
                f"not of {model}@{version}"
            )
        return manifest

    def _record_contents(self, manifest: Manifest) -> None:
        """Lets later publishers of the same bytes find an adopted version."""
        publisher = Publisher(self._clock)
        while True:
            newest = next((key for key, _, _ in self._contents.versions(manifest.model, manifest.digest)), None)
            reservation = self._contents.reserve(manifest.model, manifest.digest, publisher, newest)
            if reservation is not None:
                reservation.renew(manifest.version)
                return

    def _is_unrecorded(self, model: ModelName, version: VersionNumber) -> bool:
        """Whether a SavedModel stands there that nobody published or is publishing."""
        if not _SAVED_MODEL_NAMES & self._files(model, version).keys():
            return False
        mine = (manifest_key(model, version), claim_key(model, version))
        return all(self._store.get(key) is None for key in mine)

    def _files(self, model: ModelName, version: VersionNumber) -> dict[str, int]:
        """Returns the sizes of a version's objects by path, without its manifest."""
        prefix = version_key(model, version)
        sizes = {each.key.removeprefix(prefix): each.size for each in self._store.listing(prefix).objects}
        sizes.pop(MANIFEST_PATH, None)
        return sizes

    def _hashed(
        self, model: ModelName, version: VersionNumber, sizes: Mapping[str, int], observer: Observer
    ) -> tuple[FileEntry, ...]:
        work, read = Work(observer, sum(sizes.values())), self._reader(model, version)

        def hashed(path: str) -> FileEntry:
            digest = hashlib.sha256()
            for start in range(0, sizes[path], _PIECE):
                piece = read(path, start, min(_PIECE, sizes[path] - start))
                digest.update(piece)
                work.advance(len(piece))
            return FileEntry(path, sizes[path], digest.hexdigest())

        return tuple(sorted(work.each(hashed, sorted(sizes), workers=self._store.options.connections)))

    def _reader(self, model: ModelName, version: VersionNumber) -> Callable[[str, int, int], bytes]:
        prefix = version_key(model, version)
        return lambda path, start, length: self._store.get_range(prefix + path, start, length)

    def _no_manifest(self, model: ModelName, version: VersionNumber) -> DeployctlError:
        if self._is_unrecorded(model, version):
            return ManifestError(f"{model}@{version} has no manifest", hint=f"deployctl adopt {model}")
        return VersionNotFoundError(model, version)


def _names(keys: tuple[str, ...]) -> set[str]:
    """Returns the last name in each key or prefix."""
    return {key.rstrip("/").rpartition("/")[2] for key in keys}


def _model_names(prefixes: tuple[str, ...]) -> tuple[ModelName, ...]:
    found = []
    for name in sorted(_names(prefixes)):
        with suppress(InvalidNameError):
            found.append(parse_model_name(name))
    return tuple(found)


def _versions_in(found: tuple[Found, ...]) -> tuple[VersionNumber, ...]:
    """Returns the versions whose manifests are `found`, without the numbers that are only spent."""
    numbers = (version_of(each.key) for each in found if each.size)
    return tuple(sorted(number for number in numbers if number is not None))
