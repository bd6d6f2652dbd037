"""What a target serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deployctl.documents.holds import freeze_document
from deployctl.domain.revision import BREAK_GLASS

if TYPE_CHECKING:
    from deployctl.operations.status import ModelOnTarget, TargetStatus


def target_document(target: TargetStatus) -> dict[str, Any]:
    """Returns what a target serves, each model with its revision, labels and versions."""
    return {
        "name": target.name,
        "runtime": target.runtime,
        "state": target.state.value,
        "healthy": target.healthy,
        "endpoints": {"rest": target.endpoints.rest, "grpc": target.endpoints.grpc},
        "detail": dict(target.detail),
        "drift": list(target.drift),
        "error": target.error,
        "freezes": [freeze_document(freeze) for freeze in target.freezes],
        "models": [_model_document(served) for served in target.models],
    }


def _model_document(served: ModelOnTarget) -> dict[str, Any]:
    ready = served.rollback
    return {
        "name": served.name,
        "revision": served.revision,
        "labels": dict(served.labels),
        "live": served.live,
        "standby": list(served.standby),
        "versions": [
            {"version": each.version, "state": each.state.name, "error": each.error} for each in served.versions
        ],
        "since": served.since,
        "actor": asdict(served.actor),
        "reason": served.reason,
        "rollback": {"version": ready.version, "class": ready.rollout_class.value, "estimate_s": ready.estimate_s}
        if ready
        else None,
        "drift": list(served.drift),
        "interrupted": served.interrupted,
        "operation": served.running.id if served.running else None,
        "unreviewed": [
            {"revision": each.number, "ticket": each.evidence[BREAK_GLASS]["ticket"]} for each in served.unreviewed
        ],
    }
