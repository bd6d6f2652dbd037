"""Copy: a version of this repository becomes one of another, with the same bytes and so the same digest."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deployctl.domain.manifest import Manifest
from deployctl.domain.names import Digest, ModelName, VersionNumber
from deployctl.errors import ManifestError, VersionTakenError
from deployctl.lineage.interface import LineageStore
from deployctl.operations.context import Context
from deployctl.operations.holds import check_not_quarantined
from deployctl.operations.publish import record_version
from deployctl.repository.interface import Committed, ModelRepository, Numbering


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """Which version to copy.

    Attributes:
        to_model: the copy's model; None for the same name.
        keep_number: whether the copy must have the same number, or else the next one.
        destination: the other repository, for people.
    """

    model: ModelName
    version: VersionNumber
    destination: str
    to_model: ModelName | None = None
    keep_number: bool = False
    reason: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Copied:
    """The version of the other repository that holds the bytes.

    Attributes:
        origin: where the original is.
        version: None in a dry run that would make one.
        created: False where the other repository had the bytes already.
    """

    request: CopyRequest
    origin: str
    model: ModelName
    version: VersionNumber | None
    digest: Digest
    created: bool
    size_bytes: int
    file_count: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Copy:
    """Copies versions from one repository to another.

    Attributes:
        lineage: of this repository.
        destination_lineage: of the other one, None where only its own deployctl has it.
    """

    repository: ModelRepository
    destination: ModelRepository
    lineage: LineageStore
    destination_lineage: LineageStore | None
    context: Context

    def __call__(self, request: CopyRequest) -> Copied:
        """Copies and returns the version of the other repository.

        Raises:
            DeniedError: it may not be done.
            ManifestError: the version has no manifest, or its files are not those of its manifest.
            QuarantinedError: its bytes are never to be served, here or there.
            VersionTakenError: the number is to be kept, and something else has it there.
            DiskFullError, StorageError, DatabaseError: a repository or a database is unavailable.
        """
        self.context.permit("copy", model=request.model)
        started = self.context.clock.monotonic()
        name = f"{request.model}@{request.version}"
        manifest = self.repository.manifest(request.model, request.version)
        if manifest is None:
            raise ManifestError(f"{name} has no manifest", hint=f"deployctl adopt {request.model}")
        for lineage in filter(None, (self.lineage, self.destination_lineage)):
            check_not_quarantined(lineage.quarantine(manifest.digest), name)
        model = request.to_model or request.model
        committed = self._there(request, model, manifest)
        if committed is None and not request.dry_run:
            committed = self._copy(request, model, manifest)
        if committed is not None and not request.dry_run and self.destination_lineage is not None:
            record_version(self.destination_lineage, self.context, committed.manifest, reason=request.reason)
        return Copied(
            request=request,
            origin=self.repository.location(request.model, request.version),
            model=model,
            version=committed.manifest.version if committed else None,
            digest=manifest.digest,
            created=committed is None or committed.created,
            size_bytes=manifest.size_bytes,
            file_count=len(manifest.files),
            duration_s=self.context.clock.monotonic() - started,
        )

    def _there(self, request: CopyRequest, model: ModelName, manifest: Manifest) -> Committed | None:
        """Returns the version of the other repository that the copy would be, where that can be told beforehand."""
        if request.dry_run and not request.keep_number:
            manifests = (self.destination.manifest(model, version) for version in self.destination.versions(model))
            same = [each for each in manifests if each is not None and each.digest == manifest.digest]
            return Committed(same[-1], created=False) if same else None
        if not request.keep_number or request.version not in self.destination.versions(model):
            return None
        there = self.destination.manifest(model, request.version)
        if there is None or there.digest != manifest.digest:
            raise VersionTakenError(model, request.version, request.destination)
        return Committed(there, created=False)

    def _copy(self, request: CopyRequest, model: ModelName, manifest: Manifest) -> Committed:
        def describe(version: VersionNumber) -> Manifest:
            # The digest is the link: it names the bytes in both repositories, and is in both records.
            return replace(
                manifest,
                model=model,
                version=version,
                provenance=replace(
                    manifest.provenance, source=self.repository.location(manifest.model, manifest.version)
                ),
                published_at=self.context.clock.now(),
                published_by=str(self.context.actor),
            )

        with self.destination.stage_version(model, manifest, self.repository, self.context.observer) as staged:
            return self.destination.commit(
                staged,
                describe,
                numbering=Numbering.SEQUENTIAL,
                # With its number kept, the copy may stand beside one of the same bytes under another number.
                allow_duplicate=request.keep_number,
                number=request.version if request.keep_number else None,
            )
