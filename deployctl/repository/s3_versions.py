"""What a repository in an object store holds, as its listings and manifests say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deployctl.domain.manifest import MANIFEST_PATH, FileEntry, Manifest, from_json, to_json
from deployctl.domain.names import ModelName, VersionNumber, is_version_name, parse_model_name
from deployctl.errors import InvalidNameError, ManifestError
from deployctl.repository.copying import Work
from deployctl.repository.s3_client import S3Store
from deployctl.repository.s3_keys import MANIFESTS, claim_key, manifest_key, retired_key, version_key, version_of
from deployctl.repository.s3_listing import Found

if TYPE_CHECKING:
    from deployctl.domain.clock import Observer
    from deployctl.repository.cache import VersionCache

_SAVED_MODEL_NAMES = frozenset({"saved_model.pb", "saved_model.pbtxt"})
_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class StoredVersions:
    """Reads what is in the store; manifests that a listing shows to be those read before are not read again.

    Attributes:
        cache: keeps manifests by their ETags.
    """

    store: S3Store
    cache: VersionCache
    _etags: dict[tuple[ModelName, VersionNumber], str] = field(default_factory=dict)

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models that have a version, or had one, in name order."""
        return model_names(self.store.listing(MANIFESTS, by_directory=True).prefixes)

    def of(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns the versions of a model, ascending; one listing, whatever the versions hold."""
        return self._noted(model, self.store.listing(f"{MANIFESTS}{model}/").objects)

    def all(self) -> Mapping[ModelName, tuple[VersionNumber, ...]]:
        """Returns the versions of every model, by name; one listing for all."""
        found: dict[str, list[Found]] = {}
        for each in self.store.listing(MANIFESTS).objects:
            found.setdefault(each.key.removeprefix(MANIFESTS).partition("/")[0], []).append(each)
        return {model: self._noted(model, found[model]) for model in model_names(found)}

    def unrecorded(self, model: ModelName) -> tuple[VersionNumber, ...]:
        """Returns what was put there by hand: it has a SavedModel, and no publisher of ours claimed its number."""
        listing = self.store.listing(f"{model}/", by_directory=True)
        numbers = {VersionNumber(int(name)) for name in last_names(listing.prefixes) if is_version_name(name)}
        return tuple(sorted(version for version in numbers if self.is_unrecorded(model, version)))

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """Returns the manifest that is in the store, None for a version, or a number, without one.

        Raises:
            ManifestError: it cannot be read, or is another version's.
        """
        key, etag = manifest_key(model, version), self._etags.get((model, version), "")
        remembered = self._remembered(model, version, etag)
        if remembered is not None:
            return remembered
        body = self.store.get(key)
        if not body:  # absent, or a number that is spent
            return None
        manifest = from_json(body, where=self.store.url(key))
        if (manifest.model, manifest.version) != (model, version):
            raise ManifestError(
                f"{self.store.url(key)} is the manifest of {manifest.model}@{manifest.version}, "
                f"not of {model}@{version}"
            )
        if etag:
            self.cache.remember(etag, body)
        return manifest

    def retire(self, manifest: Manifest) -> None:
        """Spends the number of a version, after keeping its manifest for as long as its files are there."""
        model, version = manifest.model, manifest.version
        self.store.put(retired_key(model, version), to_json(manifest).encode())
        self.store.put(manifest_key(model, version), b"")
        self.forget(model, version)

    def forget(self, model: ModelName, version: VersionNumber) -> None:
        """Lets the store be asked for a manifest that may have been retired since it was listed."""
        self._etags.pop((model, version), None)

    def is_unrecorded(self, model: ModelName, version: VersionNumber) -> bool:
        """Whether a SavedModel stands there that nobody published or is publishing."""
        if not _SAVED_MODEL_NAMES & self.files(model, version).keys():
            return False
        mine = (manifest_key(model, version), claim_key(model, version))
        return all(self.store.get(key) is None for key in mine)

    def files(self, model: ModelName, version: VersionNumber) -> dict[str, int]:
        """Returns the sizes of a version's objects by path, without its manifest."""
        prefix = version_key(model, version)
        sizes = {each.key.removeprefix(prefix): each.size for each in self.store.listing(prefix).objects}
        sizes.pop(MANIFEST_PATH, None)
        return sizes

    def hashed(
        self, model: ModelName, version: VersionNumber, sizes: Mapping[str, int], observer: Observer
    ) -> tuple[FileEntry, ...]:
        """Returns files of a version hashed, by path; every byte is read from the store."""
        work, read = Work(observer, sum(sizes.values())), self.reader(model, version)

        def hashed(path: str) -> FileEntry:
            digest = hashlib.sha256()
            for start in range(0, sizes[path], _PIECE):
                piece = read(path, start, min(_PIECE, sizes[path] - start))
                digest.update(piece)
                work.advance(len(piece))
            return FileEntry(path, sizes[path], digest.hexdigest())

        return tuple(sorted(work.each(hashed, sorted(sizes), workers=self.store.options.connections)))

    def reader(self, model: ModelName, version: VersionNumber) -> Callable[[str, int, int], bytes]:
        """Returns what reads ranges of a version's files: path, start, length."""
        prefix = version_key(model, version)
        return lambda path, start, length: self.store.get_range(prefix + path, start, length)

    def _remembered(self, model: ModelName, version: VersionNumber, etag: str) -> Manifest | None:
        body = self.cache.remembered(etag) if etag else None
        with suppress(ManifestError):  # a damaged copy is as good as none
            manifest = from_json(body, where=etag) if body else None
            if manifest is not None and (manifest.model, manifest.version) == (model, version):
                return manifest
        return None

    def _noted(self, model: ModelName, found: Iterable[Found]) -> tuple[VersionNumber, ...]:
        """Returns the versions whose manifests are `found`, without the numbers that are only spent."""
        numbers = []
        for each in found:
            version = version_of(each.key) if each.size else None
            if version is not None:
                numbers.append(version)
                self._etags[model, version] = each.etag
        return tuple(sorted(numbers))


def last_names(keys: Iterable[str]) -> set[str]:
    """Returns the last name in each key or prefix."""
    return {key.rstrip("/").rpartition("/")[2] for key in keys}


def model_names(prefixes: Iterable[str]) -> tuple[ModelName, ...]:
    """Returns the names in prefixes that can be models', in order."""
    found = []
    for name in sorted(last_names(prefixes)):
        with suppress(InvalidNameError):
            found.append(parse_model_name(name))
    return tuple(found)
