"""What the daemon knows of its targets now: duties write it down, the metrics page and the API read it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.serving import ServerCondition


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """One model on one target.

    Attributes:
        version: the one that clients reach, None where nothing is served.
        requests: those that the server has counted since it started; so `failed`, of them.
        error_rate: the share of the last minute's requests that failed, None without any; so `latency_s`, their mean.
        probes: by version, why it does not answer its golden requests as is recorded; "" where it does.
    """

    version: VersionNumber | None = None
    requests: int = 0
    failed: int = 0
    error_rate: float | None = None
    latency_s: float | None = None
    probes: Mapping[VersionNumber, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """One target, as it was found last.

    Attributes:
        condition: None before it was looked at.
        models: by name; {} while the server does not answer.
        stopped: whether somebody has stopped the server, which stays so.
        starts: how often another server was found in the place of the one before, since this daemon leads.
        memory_bytes: what the server holds, None where that cannot be told.
        drift: how what it serves differs from what is recorded, one sentence each.
        trouble: why the record could not be kept, "" where it could: a start or a repair that failed.
        problems: what is wrong with it, one sentence each; () for a healthy target.
        degraded_since: when it was recorded as degraded, None while it is not.
    """

    condition: ServerCondition | None = None
    models: Mapping[ModelName, ModelHealth] = field(default_factory=dict)
    stopped: bool = False
    starts: int = 0
    memory_bytes: int | None = None
    drift: tuple[str, ...] = ()
    trouble: str = ""
    problems: tuple[str, ...] = ()
    degraded_since: datetime | None = None


class Board:
    """The targets' health; threads may share it.

    Attributes:
        sequence: of the newest event, as it was a moment ago.
        lineage_problem: what is wrong with the chain of events, "" where nothing is known to be.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._targets: dict[TargetName, TargetHealth] = {}
        self._queues: dict[str, int] = {}
        self.sequence = 0
        self.lineage_problem = ""

    def targets(self) -> Mapping[TargetName, TargetHealth]:
        """Returns what is known of each target that was looked at."""
        with self._lock:
            return dict(self._targets)

    def target(self, name: TargetName) -> TargetHealth:
        """Returns what is known of one target."""
        with self._lock:
            return self._targets.get(name, TargetHealth())

    def change(self, name: TargetName, changed: Callable[[TargetHealth], TargetHealth]) -> TargetHealth:
        """Replaces what is known of a target by what `changed` makes of it, and returns that."""
        with self._lock:
            found = self._targets[name] = changed(self._targets.get(name, TargetHealth()))
            return found

    def queue(self, inbox: str, length: int) -> None:
        """Writes down how many complete exports of an inbox wait to be published."""
        with self._lock:
            self._queues[inbox] = length

    def queues(self) -> Mapping[str, int]:
        """Returns how many complete exports wait, of each inbox that was looked into."""
        with self._lock:
            return dict(self._queues)
