"""Show and diff: one version, and what differs between two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deployctl.domain.clock import Observer
from deployctl.domain.comparison import Change, file_changes, op_changes, signature_changes
from deployctl.domain.manifest import Manifest
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.saved_model import SERVE_TAG, MetaGraph, SavedModel
from deployctl.errors import NoServeMetaGraphError
from deployctl.repository.interface import ModelRepository
from deployctl.savedmodel.interface import SavedModelReader


@dataclass(frozen=True, slots=True)
class VersionDetail:
    """One version; `manifest` is None for one that was put there without deployctl."""

    model: ModelName
    version: VersionNumber
    path: Path
    manifest: Manifest | None
    saved_model: SavedModel


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """What differs from `before` to `after`; sizes in bytes, None where there is no manifest."""

    before: VersionDetail
    after: VersionDetail
    signatures: tuple[Change, ...]
    ops: tuple[Change, ...]
    files: tuple[Change, ...]

    @property
    def identical(self) -> bool:
        """Whether the two hold the same bytes."""
        return not self.files and not self.signatures and not self.ops


def show(
    repository: ModelRepository, reader: SavedModelReader, model: ModelName, version: VersionNumber
) -> VersionDetail:
    """Returns what is known of a version from its own directory.

    Raises:
        VersionNotFoundError: there is no such version.
        InvalidModelError: its SavedModel does not parse.
    """
    path = repository.ensure_local(model, version, Observer())
    return VersionDetail(model, version, path, repository.manifest(model, version), reader.read(path))


def diff(before: VersionDetail, after: VersionDetail) -> VersionDiff:
    """Returns what differs between two versions, of one model or of two."""
    old, new = (_served_graph(each) for each in (before, after))
    files_before, files_after = (each.manifest.files if each.manifest else () for each in (before, after))
    return VersionDiff(
        before=before,
        after=after,
        signatures=signature_changes(old.callable_signatures, new.callable_signatures),
        ops=op_changes(old.ops, new.ops),
        files=file_changes(files_before, files_after),
    )


def _served_graph(detail: VersionDetail) -> MetaGraph:
    graph = detail.saved_model.tagged(SERVE_TAG)
    if graph is None:
        raise NoServeMetaGraphError(str(detail.path), "has no MetaGraph tagged exactly 'serve'")
    return graph
