"""What keeps versions from being promoted."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.domain.hold import Freeze


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
