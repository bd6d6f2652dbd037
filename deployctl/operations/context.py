"""What every operation is given: who acts, as which operation, with which clock and which observer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from deployctl.domain.authority import Authority
from deployctl.domain.clock import Clock, Observer
from deployctl.domain.event import Actor, EventKind, NewEvent
from deployctl.domain.names import ModelName, TargetName
from deployctl.lineage.interface import OperationJournal

T = TypeVar("T")

_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class Context:
    """One run of an operation.

    Attributes:
        operation: the run's id, sortable by time.
        authority: what it may do, None where whoever can run this process may do everything.
    """

    actor: Actor
    operation: str
    clock: Clock
    journal: OperationJournal
    observer: Observer = field(default_factory=Observer)
    authority: Authority | None = None

    def event(
        self,
        kind: EventKind,
        *,
        model: ModelName | None = None,
        target: TargetName | None = None,
        reason: str = "",
        data: dict[str, Any],
    ) -> NewEvent:
        """Returns an event of this run, as of now.

        Nothing changes that is not recorded: here, and where an operation is journalled, authority is asked.

        Raises:
            DeniedError: it may not be done.
        """
        self.permit(kind, target=target, model=model)
        return NewEvent(kind, self.clock.now(), self.actor, self.operation, model, target, reason, data)

    def permit(self, action: str, *, target: TargetName | None = None, model: ModelName | None = None) -> None:
        """Raises DeniedError where `action` (see `deployctl.domain.authority.ROLES`) may not be done."""
        if self.authority is not None:
            self.authority.require(action, target, model)

    def deadline(self, timeout_s: float) -> Deadline:
        """Returns a deadline `timeout_s` seconds from now."""
        return Deadline(self.clock, self.clock.monotonic() + timeout_s)


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which waiting ends; `at_s` is on the clock's monotonic scale."""

    clock: Clock
    at_s: float

    def left_s(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at_s - self.clock.monotonic())

    def poll(self, ask: Callable[[], T | None]) -> T | None:
        """Returns the first answer of `ask` that is not None, or None when the deadline has passed.

        The pauses grow from 5 ms to 0.25 s; `ask` is called at least once.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            answer = ask()
            if answer is not None or self.left_s() <= 0:
                return answer
            self.clock.pause(min(pause_s, self.left_s()))
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
