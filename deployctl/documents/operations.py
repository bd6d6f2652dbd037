"""Operations, and the locks that they hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deployctl.domain.lease import LeaseRecord
    from deployctl.domain.operation import OperationRecord


def operation_document(record: OperationRecord) -> dict[str, Any]:
    """Returns an operation and its phases."""
    request = record.request
    return {
        "id": record.id,
        "verb": request.verb,
        "subject": request.subject,
        "target": request.target,
        "model": request.model,
        "actor": record.actor,
        "host": record.host,
        "pid": record.pid,
        "state": record.state.value,
        "phases": [{"phase": phase.value, "at": at} for phase, at in record.phases],
        "started_at": record.started_at,
        "ended_at": record.ended_at,
        "exit_code": record.exit_code,
        "outcome": record.outcome,
        "settled_by": record.settled_by,
    }


def lease_document(lease: LeaseRecord) -> dict[str, Any]:
    """Returns who holds a lock, and for what."""
    return asdict(lease)
