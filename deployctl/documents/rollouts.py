"""What a target's rollouts came to, and the events that tell of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.domain.event import Event
    from deployctl.operations.promote import Promotion
    from deployctl.operations.rollback import RolledBack


def promotion_document(promotion: Promotion) -> dict[str, Any]:
    """Returns the outcome of a promotion."""
    return asdict(promotion)


def rollback_document(result: RolledBack) -> dict[str, Any]:
    """Returns the outcome of a rollback, as the HTTP API tells it."""
    document = asdict(result)
    del document["labels"]
    document["class"] = document.pop("rollout_class").value
    return document


def labelled_rollback_document(result: RolledBack) -> dict[str, Any]:
    """Returns the outcome of a rollback, with what became of labels."""
    return rollback_document(result) | {"labels": [asdict(each) for each in result.labels]}


def event_document(event: Event) -> dict[str, Any]:
    """Returns an event as `history` shows it."""
    content = event.content
    return {
        "sequence": event.sequence,
        "kind": content.kind.value,
        "at": content.at,
        "actor": asdict(content.actor),
        "operation": content.operation,
        "model": content.model,
        "target": content.target,
        "reason": content.reason,
        "data": dict(content.data),
        "hash": event.hash,
    }
