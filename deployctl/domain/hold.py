"""What keeps versions from being served: freezes of targets, quarantines of bytes; and the verdicts of gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from deployctl.domain.event import Actor
from deployctl.domain.names import Digest, ModelName, TargetName, VersionNumber


@dataclass(frozen=True, slots=True)
class Freeze:
    """No promotion to a target until it is lifted or runs out; rollbacks stay allowed.

    Attributes:
        model: None for every model of the target.
        expires_at: None for never.
    """

    target: TargetName
    model: ModelName | None
    reason: str
    actor: Actor
    at: datetime
    expires_at: datetime | None = None

    def holds(self, model: ModelName, now: datetime) -> bool:
        """Whether it keeps `model` from being promoted at `now`."""
        return self.model in (None, model) and self.in_force(now)

    def in_force(self, now: datetime) -> bool:
        """Whether it has not run out at `now`."""
        return self.expires_at is None or now < self.expires_at

    def __str__(self) -> str:
        what = f"{self.model} on {self.target}" if self.model else f"target {self.target}"
        until = f" until {self.expires_at:%Y-%m-%dT%H:%M:%SZ}" if self.expires_at else ""
        return f"{what} is frozen by {self.actor}{until}: {self.reason or 'no reason given'}"


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Bytes that are never to be served, under whatever number they were published."""

    digest: Digest
    model: ModelName
    version: VersionNumber
    reason: str
    actor: Actor
    at: datetime

    def __str__(self) -> str:
        return f"{self.digest[:19]}… is quarantined by {self.actor}: {self.reason or 'no reason given'}"


@dataclass(frozen=True, slots=True)
class GateRecord:
    """A gate's recorded verdict on one version.

    Attributes:
        key: what the verdict was reached from: gate, settings, digest of the version and of those it was held
            against, as one hash. The verdict holds as long as the key is the same.
        outcome: "passed", "failed", "skipped" or "inconclusive".
        evidence: JSON values.
    """

    key: str
    model: ModelName
    version: VersionNumber
    gate: str
    outcome: str
    summary: str
    problems: tuple[str, ...]
    duration_s: float
    evidence: Mapping[str, Any] = field(default_factory=dict)
