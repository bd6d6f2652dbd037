"""Leases: who may change a model on a target, or all of them, until when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from deployctl.domain.names import ModelName, TargetName


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease as others see it.

    Attributes:
        model: None for the whole target.
        token: grows with every lease on the target, so that a holder that was passed over can be told from its
            successor.
        owner: who holds it, e.g. "ada@laptop".
        purpose: what for, e.g. "promote half@2".
        expires_at: when it ends unless its holder renews it.
    """

    target: TargetName
    model: ModelName | None
    token: int
    owner: str
    host: str
    pid: int
    operation: str
    purpose: str
    acquired_at: datetime
    expires_at: datetime

    def conflicts(self, model: ModelName | None) -> bool:
        """Whether it keeps a lease on `model`, or on the whole target, from being taken."""
        return self.model is None or model is None or self.model == model

    def __str__(self) -> str:
        return f"{self.owner} (pid {self.pid}): {self.purpose}"
