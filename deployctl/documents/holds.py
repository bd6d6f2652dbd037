"""What keeps versions from being promoted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deployctl.domain.hold import Freeze, Quarantine
    from deployctl.domain.names import ModelName, TargetName, VersionNumber
    from deployctl.domain.revision import Revision


def frozen_document(freeze: Freeze) -> dict[str, Any]:
    """Returns a freeze that was made now."""
    return {
        "target": freeze.target,
        "model": freeze.model,
        "reason": freeze.reason,
        "expires_at": freeze.expires_at,
    }


def unfrozen_document(freeze: Freeze) -> dict[str, Any]:
    """Returns a freeze that was lifted now."""
    return {"target": freeze.target, "model": freeze.model}


def freeze_document(freeze: Freeze) -> dict[str, Any]:
    """Returns a freeze of a target that is named elsewhere."""
    return {
        "model": freeze.model,
        "reason": freeze.reason,
        "actor": asdict(freeze.actor),
        "at": freeze.at,
        "expires_at": freeze.expires_at,
    }


def quarantined_document(
    model: ModelName, version: VersionNumber, found: Quarantine, *, quarantined: bool
) -> dict[str, Any]:
    """Returns a version whose bytes were put into quarantine now, or taken out of it."""
    return {"model": model, "version": version, "digest": found.digest, "quarantined": quarantined}


def quarantine_document(version: VersionNumber, found: Quarantine) -> dict[str, Any]:
    """Returns why a version of a model that is named elsewhere is not to be served."""
    return {
        "version": version,
        "digest": found.digest,
        "reason": found.reason,
        "actor": asdict(found.actor),
        "at": found.at,
    }


def reviewed_document(model: ModelName, target: TargetName, reviewed: Iterable[Revision]) -> dict[str, Any]:
    """Returns the changes that were reviewed now."""
    return {"model": model, "target": target, "revisions": [each.number for each in reviewed]}
