"""The journal of operations as the bearer of a token may use it."""

from __future__ import annotations

from contextlib import AbstractContextManager

from deployctl.domain.authority import Authority
from deployctl.domain.operation import OperationRecord, OperationRequest, Phase
from deployctl.errors import OperationNotFoundError
from deployctl.lineage.interface import OperationJournal, RunningOperation


class GuardedJournal(OperationJournal):
    """Journals only what an authority allows, and shows only what it sees."""

    def __init__(self, journal: OperationJournal, authority: Authority) -> None:
        self._journal = journal
        self._authority = authority

    def open(
        self, operation: str, request: OperationRequest, actor: str, *, first: Phase = Phase.LOCK
    ) -> AbstractContextManager[RunningOperation]:
        """Journals an operation while the block runs; see OperationJournal.

        Raises:
            DeniedError: it may not do that.
        """
        self._authority.require(request.verb, request.target, request.model)
        return self._journal.open(operation, request, actor, first=first)

    def operations(self) -> tuple[OperationRecord, ...]:
        """Returns the operations that are known and that it sees, newest first."""
        return tuple(each for each in self._journal.operations() if self._sees(each))

    def operation(self, operation: str) -> OperationRecord:
        """Returns one operation.

        Raises:
            OperationNotFoundError: none of that id is known, or it does not see it.
        """
        record = self._journal.operation(operation)
        if not self._sees(record):
            raise OperationNotFoundError(operation)
        return record

    def settle(self, operation: str, *, by: str) -> None:
        """Writes that what an interrupted operation left was put right by another."""
        request = self.operation(operation).request
        self._authority.require("abort", request.target, request.model)
        self._journal.settle(operation, by=by)

    def _sees(self, record: OperationRecord) -> bool:
        return self._authority.sees(record.request.target, record.request.model)
