"""Publish: an export becomes the next version, visible whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployctl.domain.event import EventKind
from deployctl.domain.manifest import FileEntry, Manifest, Provenance, to_json
from deployctl.domain.names import Digest, ModelName, VersionNumber
from deployctl.domain.operation import OperationRequest, OperationState, Phase
from deployctl.domain.saved_model import SERVE_TAG, MetaGraph
from deployctl.errors import NoServeMetaGraphError, NoSignatureError, NotSignedError
from deployctl.lineage.interface import LineageStore, RunningOperation
from deployctl.operations.context import Context
from deployctl.operations.holds import check_not_quarantined
from deployctl.repository.interface import Committed, ModelRepository, Numbering
from deployctl.savedmodel.interface import SavedModelReader

_VERB = "publish"


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What to publish.

    Attributes:
        export: a SavedModel directory.
        allow_duplicate: whether bytes that a version already has become another version.
        sign: makes the signature of the files, None to publish unsigned.
        dry_run: check everything that can be checked without copying.
    """

    export: Path
    model: ModelName
    provenance: Provenance = field(default_factory=Provenance)
    numbering: Numbering = Numbering.SEQUENTIAL
    allow_duplicate: bool = False
    reason: str = ""
    dry_run: bool = False
    sign: Callable[[ModelName, Sequence[FileEntry]], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """The version that holds the export's bytes.

    Attributes:
        version: None in a dry run.
        created: False where the version was there already.
    """

    model: ModelName
    version: VersionNumber | None
    digest: Digest | None
    created: bool
    size_bytes: int
    file_count: int
    duration_s: float
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Publish:
    """Checks an export, copies it to the next version directory and records it."""

    repository: ModelRepository
    reader: SavedModelReader
    lineage: LineageStore
    context: Context

    def __call__(self, request: PublishRequest) -> Published:
        """Publishes and returns the version.

        Raises:
            InvalidModelError: the export is not one that a server could serve; each reason is a subclass.
            QuarantinedError: its bytes are not to be served.
            DiskFullError: there is no room.
            NotSignedError: it is to be signed, and an unsigned version has the same bytes.
            StorageError, DatabaseError: the repository or the lineage database is unavailable; the database is
                asked first, so that nothing is published that could not be recorded.
        """
        started = self.context.clock.monotonic()
        graph = check_servable(self.reader, request.export)
        self.lineage.manifest(request.model, VersionNumber(0))
        if request.dry_run:
            return self._dry_run(request, started)
        self._name_interrupted(request.model)
        journalled = self.context.journal.open(
            self.context.operation, _operation(request), str(self.context.actor), first=Phase.STAGE
        )
        with journalled as running:
            committed = self._publish(request, graph, running)
            running.end("published" if committed.created else "there already")
        manifest = committed.manifest
        return Published(
            model=request.model,
            version=manifest.version,
            digest=manifest.digest,
            created=committed.created,
            size_bytes=manifest.size_bytes,
            file_count=len(manifest.files),
            duration_s=self.context.clock.monotonic() - started,
        )

    def _publish(self, request: PublishRequest, graph: MetaGraph, running: RunningOperation) -> Committed:
        with self.repository.stage(request.model, request.export, self.context.observer) as staged:
            signature = request.sign(request.model, staged.files) if request.sign else None

            def describe(version: VersionNumber) -> Manifest:
                return Manifest(
                    model=request.model,
                    version=version,
                    files=staged.files,
                    signatures=graph.callable_signatures,
                    frameworks={"tensorflow": graph.tensorflow_version} if graph.tensorflow_version else {},
                    provenance=request.provenance,
                    published_at=self.context.clock.now(),
                    published_by=str(self.context.actor),
                    signature=signature,
                )

            check_not_quarantined(self.lineage.quarantine(staged.digest), str(request.export))
            running.enter(Phase.COMMIT)
            committed = self.repository.commit(
                staged, describe, numbering=request.numbering, allow_duplicate=request.allow_duplicate
            )
        running.enter(Phase.RECORD)
        record_version(self.lineage, self.context, committed.manifest, reason=request.reason)
        self._tell_unrecorded(request, committed)
        if signature is not None and committed.manifest.signature is None:
            raise NotSignedError(f"{request.model}@{committed.manifest.version}", str(request.export))
        return committed

    def _tell_unrecorded(self, request: PublishRequest, committed: Committed) -> None:
        """Tells what was said of bytes that a version has already: that version keeps the origin that it has."""
        lost = () if committed.created else _unrecorded(request.provenance, committed.manifest.provenance)
        if lost:
            name = f"{request.model}@{committed.manifest.version}"
            words = f"{name} has the same bytes and keeps its origin; not recorded: {', '.join(lost)}"
            self.context.observer.warn(f"{words} (--new-version publishes them as another version)")

    def _name_interrupted(self, model: ModelName) -> None:
        """Tells of publishings that were killed; nothing of them is visible, and the repository clears them away."""
        for record in self.context.journal.operations():
            ours = (record.request.verb, record.request.model) == (_VERB, model)
            if ours and record.state is OperationState.INTERRUPTED:
                self.context.observer.warn(f"{record} was interrupted; if it is still wanted, publish it again")
                self.context.journal.settle(record.id, by=self.context.operation)

    def _dry_run(self, request: PublishRequest, started: float) -> Published:
        files = [path for path in request.export.rglob("*") if path.is_file()]
        return Published(
            model=request.model,
            version=None,
            digest=None,
            created=False,
            size_bytes=sum(path.stat().st_size for path in files),
            file_count=len(files),
            duration_s=self.context.clock.monotonic() - started,
            dry_run=True,
        )


def _operation(request: PublishRequest) -> OperationRequest:
    where = request.provenance.source or request.export
    return OperationRequest(_VERB, f"{where} --model {request.model}", None, request.model)


def _unrecorded(given: Provenance, kept: Provenance) -> tuple[str, ...]:
    """Returns what `given` says and `kept` does not; where the bytes came from may differ."""
    named: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
        "metric": (given.metrics, kept.metrics),
        "tag": (given.tags, kept.tags),
        "dataset": (given.datasets, kept.datasets),
        "": ({"run": given.run, "code": given.code}, {"run": kept.run, "code": kept.code}),
    }
    return tuple(
        f"{kind} {name}".strip()
        for kind, (wanted, there) in named.items()
        for name, value in wanted.items()
        if value != "" and there.get(name) != value
    )


def check_servable(reader: SavedModelReader, export: Path) -> MetaGraph:
    """Returns the MetaGraph of `export` that a server would load, once everything that loading needs is there.

    Raises:
        InvalidModelError: see the subclasses.
    """
    model = reader.read(export)
    graph = model.tagged(SERVE_TAG)
    if graph is None:
        found = ", ".join("{" + ",".join(each.tags) + "}" for each in model.meta_graphs)
        raise NoServeMetaGraphError(str(export), f"has no MetaGraph tagged exactly 'serve', only {found}")
    if not graph.callable_signatures:
        raise NoSignatureError(str(export), "has no signature that a client could call in its 'serve' MetaGraph")
    reader.check_complete(export, model)
    return graph


def record_version(
    lineage: LineageStore,
    context: Context,
    manifest: Manifest,
    *,
    kind: EventKind = EventKind.VERSION_PUBLISHED,
    reason: str = "",
) -> None:
    """Records a version that is not recorded yet; a publisher killed before it recorded is made good here."""
    data: dict[str, Any] = {
        "version": manifest.version,
        "digest": manifest.digest,
        "manifest": json.loads(to_json(manifest)),
    }
    with lineage.transaction() as transaction:
        if not transaction.has_version(manifest.model, manifest.version):
            transaction.append(context.event(kind, model=manifest.model, reason=reason, data=data))
