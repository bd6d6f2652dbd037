"""Which version a word on the command line means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.domain.names import ModelName, VersionNumber
    from deployctl.operations.compare import VersionDetail


def detail_of(deployment: Deployment, reference: str, target: str | None) -> VersionDetail:
    """Returns what is known of the version that `reference` names."""
    from deployctl.operations.compare import show as show_version

    model, version = resolve_reference(deployment, reference, target)
    return show_version(deployment.repository, deployment.reader, model, version)


def resolve_reference(deployment: Deployment, text: str, target: str | None) -> tuple[ModelName, VersionNumber]:
    """Returns the version that `text` names; labels are those of the target, and without @ it is the latest."""
    from deployctl.domain.reference import ByLabel, Latest, parse_reference
    from deployctl.operations.resolve import resolve

    reference = parse_reference(text, default=Latest())
    labels: Any = {}
    name = deployment.target_name(target)
    if isinstance(reference.selector, ByLabel):
        for revision in deployment.lineage.current(name):
            if revision.model == reference.model:
                labels = revision.desired.labels
    return reference.model, resolve(reference, deployment.repository, labels=labels, target=name)
