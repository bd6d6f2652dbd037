"""Publishes to an object store: a number is claimed, the files are put under it, and the manifest last."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deployctl.domain.manifest import FileEntry, Manifest, to_json
from deployctl.domain.names import Digest, ModelName, VersionNumber
from deployctl.errors import (
    DeployctlError,
    ExportChangedError,
    ManifestError,
    StorageError,
    StoreCredentialsError,
    StoreUnavailableError,
)
from deployctl.repository.copying import hash_tree
from deployctl.repository.interface import Committed, Numbering, StagedVersion
from deployctl.repository.s3_claims import Beating, Contents, Numbers, Publisher, Reservation
from deployctl.repository.s3_keys import claim_key, inner_manifest_key, manifest_key, version_key
from deployctl.repository.s3_leftovers import Leftovers
from deployctl.repository.s3_upload import copy_files, upload_tree
from deployctl.repository.tree import scan

if TYPE_CHECKING:
    from deployctl.domain.clock import Clock, Observer
    from deployctl.repository.s3_versions import StoredVersions


class _Overtaken(Exception):  # noqa: N818 - a signal within this module
    """Another publisher took us for dead and spent our number."""


@dataclass(frozen=True, slots=True)
class _Staging:
    """What `commit` puts: `send` is given where each path goes, and who hears of progress."""

    send: Callable[[Callable[[str], str], Observer], None]
    observer: Observer


class Publishing:
    """Stages and commits versions.

    Args:
        lock_timeout_s: how long a commit waits for another publisher of the same bytes.
    """

    def __init__(self, versions: StoredVersions, clock: Clock, *, lock_timeout_s: float) -> None:
        self._versions = versions
        self._store = versions.store
        self._clock = clock
        self._numbers = Numbers(self._store)
        self._contents = Contents(self._store, clock, lock_timeout_s)
        self._leftovers = Leftovers(self._store, self._numbers)
        self._staged: dict[str, _Staging] = {}

    @contextmanager
    def stage(self, model: ModelName, export: Path, observer: Observer) -> Iterator[StagedVersion]:
        """See `ModelRepository.stage`; hashes where the export stands, nothing is sent before the commit."""
        tree = scan(export)
        for path in sorted(tree.refused):
            raise tree.refused[path]
        files = hash_tree(tree, observer)
        if scan(export) != tree:
            raise ExportChangedError(str(export), "changed while it was read")
        sending = partial(upload_tree, self._store, tree, files)
        with self._registered(model, files, _Staging(sending, observer)) as staged:
            yield staged

    @contextmanager
    def stage_copy(
        self, model: ModelName, manifest: Manifest, source: StoredVersions, observer: Observer
    ) -> Iterator[StagedVersion]:
        """Stages a version of the same store, or of one that this one can copy from.

        Raises:
            ManifestError: its files are not those of its manifest.
        """
        sizes = source.files(manifest.model, manifest.version)
        if sizes != {entry.path: entry.size for entry in manifest.files}:
            raise ManifestError(
                f"the files of {manifest.model}@{manifest.version} are not those of its manifest",
                hint=f"deployctl verify {manifest.model}@{manifest.version}",
            )
        prefix = version_key(manifest.model, manifest.version)
        sending = partial(copy_files, self._store, manifest.files, lambda path: (source.store, prefix + path))
        with self._registered(model, manifest.files, _Staging(sending, observer)) as staged:
            yield staged

    def commit(
        self,
        staged: StagedVersion,
        describe: Callable[[VersionNumber], Manifest],
        *,
        numbering: Numbering,
        allow_duplicate: bool,
        number: VersionNumber | None,
    ) -> Committed:
        """See `S3ModelRepository.commit`."""
        staging = self._staged.get(staged.token)
        if staging is None:
            raise StorageError(f"the export staged as {staged.token} for {staged.model} is gone")
        refused: dict[str | None, float] = {}
        while True:
            publisher = Publisher(self._clock)
            existing, newest = (None, self._newest(staged)) if allow_duplicate else self._existing(staged)
            if existing is not None:
                return Committed(existing, created=False)
            reservation = self._contents.reserve(staged.model, staged.digest, publisher, newest)
            if reservation is None:
                self._require_change(refused.setdefault(newest, self._clock.monotonic()), staged.model)
            else:
                with suppress(_Overtaken):
                    claim = self._claim_of(staged.model, numbering, number)
                    return Committed(self._publish(staged, staging, describe, claim, reservation), created=True)

    def record_contents(self, manifest: Manifest) -> None:
        """Lets later publishers of the same bytes find an adopted version."""
        publisher = Publisher(self._clock)
        while True:
            newest = next((key for key, _, _ in self._contents.versions(manifest.model, manifest.digest)), None)
            reservation = self._contents.reserve(manifest.model, manifest.digest, publisher, newest)
            if reservation is not None:
                reservation.renew(manifest.version)
                return

    def _require_change(self, refused_since_s: float, model: ModelName) -> None:
        """Raises StoreUnavailableError where a record after the newest one was refused first too long ago."""
        deadline_s = self._store.options.deadline_s
        if self._clock.monotonic() - refused_since_s > deadline_s:
            raise StoreUnavailableError(
                f"{self._store.url()} refused for {deadline_s:g} s to take a record of {model}'s bytes as one that is "
                "there already, and lists none",
                hint="deployctl doctor",
            )

    @contextmanager
    def _registered(self, model: ModelName, files: tuple[FileEntry, ...], staging: _Staging) -> Iterator[StagedVersion]:
        token = Publisher(self._clock).token
        self._staged[token] = staging
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
                # Spent, or not whole any more, unless it has been committed since it was looked at above.
                manifest = self._committed(model, version, staged.digest)
                return (manifest, None) if manifest is not None else (None, key)
            if self._contents.wait_for(key, record, version, model):
                continue
            # It may have told its number since, and even have committed, before it was gone.
            version = self._contents.version_in(key)
            if version is None or self._numbers.spend(model, version):
                return None, key

    def _claim_of(
        self, model: ModelName, numbering: Numbering, number: VersionNumber | None
    ) -> Callable[[Publisher], VersionNumber]:
        """Returns what claims `number`, or the next one, for a publisher."""
        if number is not None:
            return lambda publisher: self._numbers.claim_this(model, publisher, number)
        at_least = int(self._clock.now().timestamp()) if numbering is Numbering.TIMESTAMP else 1
        return lambda publisher: self._numbers.claim(model, publisher, at_least=at_least)

    def _newest(self, staged: StagedVersion) -> str | None:
        return next((key for key, _, _ in self._contents.versions(staged.model, staged.digest)), None)

    def _committed(self, model: ModelName, version: VersionNumber, digest: Digest) -> Manifest | None:
        """Returns the manifest if the version holds these bytes and all its files still have their sizes."""
        with suppress(ManifestError):
            self._versions.forget(model, version)
            manifest = self._versions.manifest(model, version)
            if manifest is not None and manifest.digest == digest:
                sizes = self._versions.files(model, version)
                if all(sizes.get(entry.path) == entry.size for entry in manifest.files):
                    return manifest
        return None

    def _publish(
        self,
        staged: StagedVersion,
        staging: _Staging,
        describe: Callable[[VersionNumber], Manifest],
        claim: Callable[[Publisher], VersionNumber],
        reservation: Reservation,
    ) -> Manifest:
        model, store = staged.model, self._store
        version: VersionNumber | None = None
        try:
            version = claim(reservation.publisher)
            prefix = version_key(model, version)
            reservation.renew(version)
            beating = Beating(staging.observer, reservation)
            staging.send(lambda path: prefix + path, beating)
            manifest = describe(version)
            body = to_json(manifest).encode()
            store.put(inner_manifest_key(model, version), body)
            if not store.put_new(manifest_key(model, version), body):
                raise _Overtaken
        except BaseException as error:
            self._contents.given_up.add(reservation.publisher.token)
            # What cannot be removed now is removed by `gc`; nobody can see it.
            if not isinstance(error, StoreUnavailableError | StoreCredentialsError):
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
