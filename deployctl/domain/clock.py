"""Time and identity as operations see them; `bootstrap` gives the system's."""

from __future__ import annotations

import abc
from datetime import datetime


class Clock(abc.ABC):
    """Tells the time and waits."""

    @abc.abstractmethod
    def now(self) -> datetime:
        """Returns the aware UTC time."""

    @abc.abstractmethod
    def monotonic(self) -> float:
        """Returns seconds that only grow, from an arbitrary start."""

    @abc.abstractmethod
    def pause(self, seconds: float) -> None:
        """Returns after `seconds`, or earlier where something has happened."""


class Observer:
    """Hears of progress; this one says nothing."""

    def step(self, name: str, text: str) -> None:
        """One finished step of an operation, e.g. ("load", "@2 AVAILABLE beside @1 after 0.1 s")."""

    def warn(self, text: str) -> None:
        """Something that the user should know though the operation goes on."""

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Bytes handled so far, of all; called often, from any thread."""
