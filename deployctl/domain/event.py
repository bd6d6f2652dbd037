"""Events: what happened, appended once and never changed, each bound to the one before it by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployctl.domain.manifest import format_time, parse_time
from deployctl.domain.names import ModelName, TargetName

# The hash that stands before the first event.
GENESIS = "0" * 64


class EventKind(StrEnum):
    """What an event tells; the `data` of each kind is listed in the explanation of lineage."""

    VERSION_PUBLISHED = "version.published"
    VERSION_ADOPTED = "version.adopted"
    TARGET_STARTED = "target.started"
    TARGET_STOPPED = "target.stopped"
    TARGET_UPGRADED = "target.upgraded"
    REVISION_PENDING = "revision.pending"
    REVISION_SERVING = "revision.serving"
    REVISION_FAILED = "revision.failed"
    TARGET_FROZEN = "target.frozen"
    TARGET_UNFROZEN = "target.unfrozen"
    VERSION_QUARANTINED = "version.quarantined"
    VERSION_RELEASED = "version.released"
    VERSION_VALIDATED = "version.validated"
    REVISION_REVIEWED = "revision.reviewed"
    LOCK_RELEASED = "lock.released"
    VERSION_REFUSED = "version.refused"
    VERSION_RETIRED = "version.retired"
    TARGET_DRIFTED = "target.drifted"
    TARGET_DEGRADED = "target.degraded"
    TARGET_RECOVERED = "target.recovered"
    TOKEN_CREATED = "token.created"
    TOKEN_REVOKED = "token.revoked"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, from where, with which words.

    Attributes:
        user: the OS user name.
        host: the machine's name.
        ci: the CI job's identity (its URL where the CI gives one), "" outside CI.
        command: the command line, without values of options that may hold secrets.
    """

    user: str
    host: str
    ci: str = ""
    command: str = ""

    def __str__(self) -> str:
        return f"{self.user}@ci" if self.ci else f"{self.user}@{self.host}"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is not appended yet.

    Attributes:
        at: aware, UTC.
        operation: the id of the operation that it belongs to.
        model: None for events of a whole target.
        target: None for events of the repository.
        data: JSON values only; what the kind's projection needs, before and after included.
    """

    kind: EventKind
    at: datetime
    actor: Actor
    operation: str
    model: ModelName | None = None
    target: TargetName | None = None
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """An appended event; `sequence` counts from 1 without gaps."""

    sequence: int
    content: NewEvent
    previous_hash: str
    hash: str


def chain(previous_hash: str, sequence: int, content: NewEvent) -> Event:
    """Returns `content` as the event that follows the one with `previous_hash`."""
    return Event(sequence, content, previous_hash, event_hash(previous_hash, sequence, content))


def event_hash(previous_hash: str, sequence: int, content: NewEvent) -> str:
    """Returns sha256, in hex, of the previous hash and the event's canonical JSON, joined by a newline."""
    canonical = json.dumps(
        {"sequence": sequence, **to_document(content)},
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=True,
        allow_nan=False,
    )
    return hashlib.sha256(f"{previous_hash}\n{canonical}".encode()).hexdigest()


def to_document(content: NewEvent) -> dict[str, Any]:
    """Returns an event as JSON values; `from_document` gives the same event back."""
    return {
        "kind": content.kind.value,
        "at": format_time(content.at),
        "user": content.actor.user,
        "host": content.actor.host,
        "ci": content.actor.ci,
        "command": content.actor.command,
        "operation": content.operation,
        "model": content.model,
        "target": content.target,
        "reason": content.reason,
        "data": content.data,
    }


def from_document(document: Mapping[str, Any]) -> NewEvent:
    """Returns what `to_document` was given.

    Raises:
        KeyError, ValueError: it is no such document.
    """
    return NewEvent(
        kind=EventKind(document["kind"]),
        at=parse_time(document["at"]),
        actor=Actor(document["user"], document["host"], document["ci"], document["command"]),
        operation=document["operation"],
        model=document["model"],
        target=document["target"],
        reason=document["reason"],
        data=document["data"],
    )


def first_broken_link(events: Iterable[Event]) -> Event | None:
    """Returns the first of `events` (all, in order) that was changed, inserted or follows a removed one."""
    previous = GENESIS
    for expected, event in enumerate(events, start=1):
        intact = (
            event.sequence == expected
            and event.previous_hash == previous
            and event.hash == event_hash(previous, event.sequence, event.content)
        )
        if not intact:
            return event
        previous = event.hash
    return None
