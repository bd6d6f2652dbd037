"""Operations: runs of verbs that change something, journalled so that one that was cut off can be found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from deployctl.domain.names import ModelName, TargetName


class OperationState(StrEnum):
    """INTERRUPTED where the process ended before the operation did, and nobody has put things right since."""

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    SETTLED = "settled"
    DONE = "done"
    FAILED = "failed"


class Phase(StrEnum):
    """What an operation is about to do, in order; written before it begins."""

    STAGE = "stage"
    COMMIT = "commit"
    LOCK = "lock"
    CHECK = "check"
    FETCH = "fetch"
    RECORD = "record"
    LOAD = "load"
    SWITCH = "switch"
    FINISH = "finish"
    SOAK = "soak"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """What was asked for.

    Attributes:
        verb: e.g. "promote".
        subject: what of, in the words of the command line, e.g. "half@2".
        target: None for operations on the repository.
        model: None for operations on a whole target.
        repeat: JSON values from which the operation can be begun again; {} where it cannot.
    """

    verb: str
    subject: str
    target: TargetName | None
    model: ModelName | None = None
    repeat: Mapping[str, Any] = field(default_factory=dict)

    def undone(self) -> OperationRequest:
        """Returns the request to undo what is left of this one."""
        return OperationRequest("abort", str(self), self.target, self.model)

    def __str__(self) -> str:
        return f"{self.verb} {self.subject}"


@dataclass(frozen=True, slots=True)
class OperationRecord:
    """One operation, as its journal tells it.

    Attributes:
        actor: who, e.g. "ada@laptop".
        phases: each phase with the time at which it was about to begin.
        exit_code: the exit code that it ended with, None while it has not ended.
        outcome: its words for the end, e.g. "serving"; for a failure the error.
        settled_by: the operation that put right what this one left, "" for none.
    """

    id: str
    request: OperationRequest
    actor: str
    host: str
    pid: int
    state: OperationState
    phases: tuple[tuple[Phase, datetime], ...]
    ended_at: datetime | None = None
    exit_code: int | None = None
    outcome: str = ""
    settled_by: str = ""

    @property
    def phase(self) -> Phase:
        """The newest phase."""
        return self.phases[-1][0]

    @property
    def started_at(self) -> datetime:
        """When it began."""
        return self.phases[0][1]

    def __str__(self) -> str:
        return f"{self.request} by {self.actor} (operation {self.id})"
