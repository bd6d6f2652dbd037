"""From `MODEL@REF` to a version that is really there."""

from __future__ import annotations

from collections.abc import Mapping

from deployctl.domain.names import LabelName, ModelName, TargetName, VersionNumber
from deployctl.domain.reference import ByLabel, ByNumber, DigestPrefix, Latest, Reference
from deployctl.errors import InvalidReferenceError, LabelNotFoundError, ModelNotFoundError, VersionNotFoundError
from deployctl.repository.interface import ModelRepository


def resolve(
    reference: Reference,
    repository: ModelRepository,
    *,
    labels: Mapping[LabelName, VersionNumber],
    target: TargetName,
) -> VersionNumber:
    """Returns the version that `reference` means; `labels` are those of its model on `target`.

    Raises:
        ModelNotFoundError: the repository has no version of the model.
        VersionNotFoundError: the number, or the digest prefix, names none.
        LabelNotFoundError: the label is not set on the target.
        InvalidReferenceError: the digest prefix fits several versions.
    """
    model, selector = reference.model, reference.selector
    versions = repository.versions(model)
    if not versions:
        raise ModelNotFoundError(model)
    if isinstance(selector, Latest):
        return versions[-1]
    if isinstance(selector, ByNumber):
        return _existing(model, selector.number, versions)
    if isinstance(selector, ByLabel):
        if selector.label not in labels:
            raise LabelNotFoundError(model, selector.label, target)
        return _existing(model, labels[selector.label], versions)
    return _by_digest(reference, selector, repository, versions)


def _existing(model: ModelName, number: VersionNumber, versions: tuple[VersionNumber, ...]) -> VersionNumber:
    if number not in versions:
        raise VersionNotFoundError(model, number)
    return number


def _by_digest(
    reference: Reference, selector: DigestPrefix, repository: ModelRepository, versions: tuple[VersionNumber, ...]
) -> VersionNumber:
    found: dict[str, VersionNumber] = {}
    for version in versions:
        manifest = repository.manifest(reference.model, version)
        if manifest is not None and manifest.digest.startswith(selector.prefix):
            found[manifest.digest] = version
    if not found:
        raise VersionNotFoundError(reference.model, selector.prefix)
    if len(found) > 1:
        raise InvalidReferenceError(str(reference), f"the prefix fits versions {', '.join(map(str, found.values()))}")
    return next(iter(found.values()))
