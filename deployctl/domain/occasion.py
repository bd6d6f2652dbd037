"""What somebody may want to be told of: events by the short names that settings use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any

from deployctl.domain.event import EventKind, NewEvent
from deployctl.domain.revision import RevisionKind


class Occasion(StrEnum):
    """One thing that a notification can be about.

    RESTORED is a change that failed while what was before serves again; FAILED one after which that is not known.
    """

    PUBLISHED = "published"
    ADOPTED = "adopted"
    EXPORT_REFUSED = "export-refused"
    RETIRED = "retired"
    GATE_REFUSED = "gate-refused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    RESTORED = "restored"
    FAILED = "failed"
    DRIFT = "drift"
    DEGRADED = "degraded"
    RECOVERED = "recovered"
    STARTED = "started"
    STOPPED = "stopped"
    UPGRADED = "upgraded"
    FROZEN = "frozen"
    UNFROZEN = "unfrozen"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    REVIEWED = "reviewed"
    LOCK_RELEASED = "lock-released"
    TOKEN_CREATED = "token-created"
    TOKEN_REVOKED = "token-revoked"


def occasion(event: NewEvent, change: RevisionKind | None, *, advisory: Collection[str] = ()) -> Occasion | None:
    """Returns what `event` is an occasion to tell, None for nothing.

    Args:
        event: as it is recorded.
        change: which verb made the revision that the event is about, None for an event about none.
        advisory: the gates whose refusal keeps nothing from being promoted.
    """
    if event.kind is EventKind.REVISION_SERVING:
        return Occasion.ROLLED_BACK if change is RevisionKind.ROLLBACK else Occasion.PROMOTED
    if event.kind is EventKind.REVISION_FAILED:
        return Occasion.RESTORED if event.data.get("evidence", {}).get("restored") else Occasion.FAILED
    if event.kind is EventKind.VERSION_VALIDATED:
        return Occasion.GATE_REFUSED if refusals(event, advisory) else None
    return _ALWAYS.get(event.kind)


def refusals(event: NewEvent, advisory: Collection[str] = ()) -> tuple[dict[str, Any], ...]:
    """Returns the verdicts of a `version.validated` that refused the version, those of `advisory` gates left out."""
    gates = event.data.get("gates", ())
    return tuple(each for each in gates if each["outcome"] == "failed" and each["gate"] not in advisory)


# Not among them: a pending revision, of which it is told how it ends.
_ALWAYS: Mapping[EventKind, Occasion] = {
    EventKind.VERSION_PUBLISHED: Occasion.PUBLISHED,
    EventKind.VERSION_ADOPTED: Occasion.ADOPTED,
    EventKind.VERSION_REFUSED: Occasion.EXPORT_REFUSED,
    EventKind.VERSION_RETIRED: Occasion.RETIRED,
    EventKind.VERSION_QUARANTINED: Occasion.QUARANTINED,
    EventKind.VERSION_RELEASED: Occasion.RELEASED,
    EventKind.TARGET_STARTED: Occasion.STARTED,
    EventKind.TARGET_STOPPED: Occasion.STOPPED,
    EventKind.TARGET_UPGRADED: Occasion.UPGRADED,
    EventKind.TARGET_FROZEN: Occasion.FROZEN,
    EventKind.TARGET_UNFROZEN: Occasion.UNFROZEN,
    EventKind.TARGET_DRIFTED: Occasion.DRIFT,
    EventKind.TARGET_DEGRADED: Occasion.DEGRADED,
    EventKind.TARGET_RECOVERED: Occasion.RECOVERED,
    EventKind.REVISION_REVIEWED: Occasion.REVIEWED,
    EventKind.LOCK_RELEASED: Occasion.LOCK_RELEASED,
    EventKind.TOKEN_CREATED: Occasion.TOKEN_CREATED,
    EventKind.TOKEN_REVOKED: Occasion.TOKEN_REVOKED,
}
