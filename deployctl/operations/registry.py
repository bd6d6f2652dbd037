"""The registry: which versions there are, adopting strangers, and rebuilding the record from manifests."""

from __future__ import annotations

from dataclasses import dataclass

from deployctl.domain.event import EventKind
from deployctl.domain.manifest import Manifest, Provenance
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.errors import ManifestError, ModelNotFoundError
from deployctl.lineage.interface import LineageStore, VersionRecord
from deployctl.operations.context import Context
from deployctl.operations.publish import check_servable, record_version
from deployctl.repository.interface import FileProblem, ModelRepository, Stray
from deployctl.savedmodel.interface import SavedModelReader


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version that the repository holds; `record` is None where lineage does not know it."""

    model: ModelName
    version: VersionNumber
    record: VersionRecord | None


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of the repository with its highest version."""

    model: ModelName
    latest: VersionNumber | None
    count: int


@dataclass(frozen=True, slots=True)
class Verified:
    """The files of a version held against its manifest."""

    model: ModelName
    version: VersionNumber
    problems: tuple[FileProblem, ...]


def list_models(repository: ModelRepository) -> tuple[ListedModel, ...]:
    """Returns the models of the repository, in name order."""
    return tuple(
        ListedModel(model, versions[-1] if versions else None, len(versions))
        for model, versions in repository.catalogue().items()
    )


def list_versions(repository: ModelRepository, lineage: LineageStore, model: ModelName) -> tuple[ListedVersion, ...]:
    """Returns the versions of `model`, ascending; the repository says which exist, lineage what is known of them.

    Raises:
        ModelNotFoundError: the repository has none.
    """
    versions = repository.versions(model)
    if not versions:
        raise ModelNotFoundError(model)
    records = {record.version: record for record in lineage.versions(model)}
    return tuple(ListedVersion(model, version, records.get(version)) for version in versions)


def verify(repository: ModelRepository, context: Context, model: ModelName, version: VersionNumber) -> Verified:
    """Returns where the bytes of a version disagree with its manifest.

    Raises:
        VersionNotFoundError: there is no such version.
        ManifestError: it has no manifest to be held against.
    """
    manifest = repository.manifest(model, version)
    if manifest is None:
        raise ManifestError(f"{model}@{version} has no manifest", hint=f"deployctl adopt {model}")
    return Verified(model, version, repository.verify(manifest, context.observer))


@dataclass(frozen=True, slots=True)
class Adopted:
    """What `adopt` did for one model.

    Attributes:
        adopted: versions that got a manifest now.
        known: versions that had one.
        strays: entries that a polling server would take for versions though they are none.
    """

    model: ModelName
    adopted: tuple[VersionNumber, ...]
    known: tuple[VersionNumber, ...]
    strays: tuple[Stray, ...]


@dataclass(frozen=True, slots=True)
class Adopt:
    """Takes versions that stand in the repository without a manifest into the record, changing none of their bytes."""

    repository: ModelRepository
    reader: SavedModelReader
    lineage: LineageStore
    context: Context

    def __call__(self, model: ModelName, *, reason: str = "") -> Adopted:
        """Adopts every version of `model`.

        Raises:
            ModelNotFoundError: the repository has none.
            InvalidModelError: a version is one that no server could serve; the ones before it are adopted.
        """
        self.context.permit("adopt", model=model)
        versions = sorted({*self.repository.versions(model), *self.repository.adoptable(model)})
        if not versions:
            raise ModelNotFoundError(model)
        adopted, known = [], []
        for version in versions:
            manifest = self.repository.manifest(model, version)
            if manifest is None:
                manifest = self._describe(model, version)
                self.repository.adopt(manifest)
                adopted.append(version)
            else:
                known.append(version)
            record_version(self.lineage, self.context, manifest, kind=EventKind.VERSION_ADOPTED, reason=reason)
        strays = tuple(stray for stray in self.repository.strays() if stray.model == model)
        return Adopted(model, tuple(adopted), tuple(known), strays)

    def _describe(self, model: ModelName, version: VersionNumber) -> Manifest:
        with self.repository.lent(model, version, self.context.observer) as path:
            graph = check_servable(self.reader, path)
        return Manifest(
            model=model,
            version=version,
            files=self.repository.entries(model, version, self.context.observer),
            signatures=graph.callable_signatures,
            frameworks={"tensorflow": graph.tensorflow_version} if graph.tensorflow_version else {},
            provenance=Provenance(source=self.repository.location(model, version)),
            published_at=self.context.clock.now(),
            published_by=str(self.context.actor),
        )


@dataclass(frozen=True, slots=True)
class RebuildRegistry:
    """Records every version whose manifest the repository holds and lineage does not know."""

    repository: ModelRepository
    lineage: LineageStore
    context: Context

    def __call__(self, *, reason: str = "") -> tuple[Manifest, ...]:
        """Returns the manifests that were recorded now."""
        self.context.permit("db rebuild")
        recorded = []
        known = {(record.model, record.version) for record in self.lineage.versions()}
        for model in self.repository.models():
            for version in self.repository.versions(model):
                manifest = None if (model, version) in known else self.repository.manifest(model, version)
                if manifest is not None:
                    record_version(self.lineage, self.context, manifest, kind=EventKind.VERSION_ADOPTED, reason=reason)
                    recorded.append(manifest)
        return tuple(recorded)
