"""Revisions that were kept beside a server, as the events that made them: for a database that has lost them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from deployctl.domain.event import EventKind, NewEvent
from deployctl.domain.manifest import format_time
from deployctl.domain.revision import Revision, RevisionState

_SETTLED = {
    RevisionState.SERVING: EventKind.REVISION_SERVING,
    RevisionState.FAILED: EventKind.REVISION_FAILED,
}


def events_of(revisions: Sequence[Revision], at: datetime) -> Iterator[NewEvent]:
    """Yields the events of `revisions`, newest first as they are kept; the events are in the order of the numbers.

    They say who, when and why as the lost ones did, and in `recovered_at` that they were recorded again.
    """
    recovered: dict[str, Any] = {"recovered_at": format_time(at)}
    for revision in sorted(revisions, key=lambda each: each.number):
        opened: dict[str, Any] = {
            "revision": revision.number,
            "kind": revision.kind.value,
            "desired": revision.desired.to_json(),
            "before": revision.before.to_json(),
            "restores": revision.restores,
        }
        yield _event(revision, EventKind.REVISION_PENDING, revision.recorded_at, opened | recovered)
        if revision.state in _SETTLED:
            settled: dict[str, Any] = {"revision": revision.number, "evidence": dict(revision.evidence)}
            ended = revision.settled_at or revision.recorded_at
            yield _event(revision, _SETTLED[revision.state], ended, settled | recovered)
        if revision.reviewed_at is not None:
            reviewed: dict[str, Any] = {"revision": revision.number}
            yield _event(revision, EventKind.REVISION_REVIEWED, revision.reviewed_at, reviewed | recovered)


def _event(revision: Revision, kind: EventKind, at: datetime, data: dict[str, Any]) -> NewEvent:
    return NewEvent(
        kind, at, revision.actor, revision.operation, revision.model, revision.target, revision.reason, data
    )
