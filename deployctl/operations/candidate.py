"""What gates judge: a published version or an export, and the versions that it is held against."""

from __future__ import annotations

from pathlib import Path

from deployctl.domain.clock import Observer
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.saved_model import SavedModel
from deployctl.domain.transition import rollback_version
from deployctl.errors import InvalidModelError, NotFoundError
from deployctl.gates.interface import Candidate, Version
from deployctl.operations.context import Context
from deployctl.operations.known_good import History, known_good
from deployctl.operations.target import Target
from deployctl.repository.interface import ModelRepository
from deployctl.savedmodel.interface import SavedModelReader


def of_export(reader: SavedModelReader, path: Path, *, whole: bool = True) -> Version:
    """Returns an export as gates see it; what is wrong with it is the version's `problem`.

    Without `whole`, for what is only compared with, it is not looked for whether every file is there.

    Raises:
        NotFoundError: there is nothing at `path`.
    """
    if not path.exists():
        raise NotFoundError(f"there is no export {path}", hint=f"ls -l {path.parent}")
    model, problem = _read(reader, path, whole=whole)
    return Version(str(path), path, model, problem=problem, published=False)


def of_version(
    repository: ModelRepository,
    reader: SavedModelReader,
    model: ModelName,
    version: VersionNumber,
    observer: Observer,
    *,
    whole: bool = True,
) -> Version:
    """Returns a published version as gates see it, once it is on this machine; `whole` as in `of_export`.

    Raises:
        VersionNotFoundError: there is no such version.
        ManifestError: its manifest cannot be read, or a fetched copy does not match it.
    """
    manifest = repository.manifest(model, version)
    path = repository.ensure_local(model, version, observer)
    saved_model, problem = _read(reader, path, whole=whole)
    digest = manifest.digest if manifest else None
    return Version(f"{model}@{version}", path, saved_model, manifest, digest, problem)


def against_target(
    version: Version,
    number: VersionNumber | None,
    model: ModelName,
    target: Target,
    reader: SavedModelReader,
    context: Context,
) -> Candidate:
    """Returns `version` with what serves on the target, and what a rollback would return to once it serves.

    That is the version that serves now, or, where it is judged itself, the last known good one.
    """

    def found(wanted: VersionNumber | None) -> Version | None:
        if wanted is None:
            return None
        if wanted == number:
            return version
        return of_version(target.repository, reader, model, wanted, context.observer, whole=False)

    revision = target.recorded().get(model)
    live = revision.desired.live(target.routing) if revision else None
    serving = found(live)
    fallback = serving if live != number else found(_last_known_good(target, model, context))
    return Candidate(version, model, serving, fallback)


def _last_known_good(target: Target, model: ModelName, context: Context) -> VersionNumber | None:
    goal = known_good(History(target, model), context.clock.now()).revision
    return rollback_version(goal.desired, target.routing) if goal else None


def _read(reader: SavedModelReader, path: Path, *, whole: bool) -> tuple[SavedModel | None, InvalidModelError | None]:
    try:
        model = reader.read(path)
    except InvalidModelError as error:
        return None, error
    if not whole:
        return model, None
    try:
        reader.check_complete(path, model)
    except InvalidModelError as error:
        return model, error
    return model, None
