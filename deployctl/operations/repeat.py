"""Resume and abort: what an operation that was cut off left is finished, or undone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.operation import OperationRecord, OperationState
from deployctl.domain.reference import ByNumber, Reference
from deployctl.errors import PreconditionError, UsageError
from deployctl.operations.context import Context
from deployctl.operations.leased import leased
from deployctl.operations.promote import PromoteRequest
from deployctl.operations.rollback import RollbackRequest
from deployctl.operations.target import Target


def repeated(record: OperationRecord) -> PromoteRequest | RollbackRequest:
    """Returns the request from which an operation can be begun again.

    Raises:
        UsageError: it is of a kind that is simply typed again.
    """
    request = record.request
    said: dict[str, Any] = dict(request.repeat)
    if request.model is None or not said:
        raise UsageError(f"{record} is not one to resume: type it again", hint=f"deployctl {request}")
    model = ModelName(request.model)
    if request.verb == "promote":
        reference = Reference(model, ByNumber(VersionNumber(said["version"])))
        return PromoteRequest(
            reference, LabelName(said["label"]), reason=said["reason"], timeout_s=float(said["timeout_s"])
        )
    return RollbackRequest(
        model,
        to_revision=said["to_revision"],
        to_version=said["to_version"],
        reason=said["reason"],
        timeout_s=float(said["timeout_s"]),
    )


def check_resumable(record: OperationRecord) -> None:
    """Raises PreconditionError for an operation that runs still, or that has done what it was to do."""
    if record.state is OperationState.RUNNING:
        raise PreconditionError(f"{record} is still running", hint=f"deployctl op wait {record.id}")
    if record.state is OperationState.DONE:
        raise PreconditionError(f"{record} is done: {record.outcome}", hint=f"deployctl op show {record.id}")


def check_abortable(record: OperationRecord) -> None:
    """Raises PreconditionError for an operation that runs still, or that has ended by itself."""
    check_resumable(record)
    if record.state is OperationState.FAILED:
        raise PreconditionError(f"{record} has ended: {record.outcome}", hint=f"deployctl op show {record.id}")


@dataclass(frozen=True, slots=True)
class Abort:
    """Puts back what served before an operation that was cut off."""

    target: Target
    context: Context

    def __call__(self, record: OperationRecord) -> None:
        """Returns once nothing of the operation is left; one that left nothing is marked as settled.

        Raises:
            PreconditionError: it runs still, or has ended by itself.
            LockedError: another operation works on the model.
        """
        check_abortable(record)
        # Whoever gets the lease settles what others left, and says so.
        with leased(self.target, self.context, record.request.undone()) as place:
            place.running.end("settled")
