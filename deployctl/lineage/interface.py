"""The port to lineage: append events, read the state that they fold to."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime

from deployctl.domain.authority import Token
from deployctl.domain.event import Event, EventKind, NewEvent
from deployctl.domain.hold import Freeze, GateRecord, Quarantine
from deployctl.domain.manifest import Manifest
from deployctl.domain.names import Digest, ModelName, TargetName, VersionNumber
from deployctl.domain.operation import OperationRecord, OperationRequest, Phase
from deployctl.domain.revision import Revision


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A published version as the registry lists it."""

    model: ModelName
    version: VersionNumber
    digest: Digest
    size_bytes: int
    file_count: int
    published_at: datetime
    published_by: str
    source: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class LineageTransaction(abc.ABC):
    """One atomic change: all of it is recorded when the block ends, nothing when it raises."""

    @abc.abstractmethod
    def append(self, event: NewEvent) -> Event:
        """Appends `event` to the chain and updates the projections that fold it."""

    @abc.abstractmethod
    def has_version(self, model: ModelName, version: VersionNumber) -> bool:
        """Returns whether the version is recorded, read inside this transaction."""

    @abc.abstractmethod
    def has_event(self, operation: str, kind: EventKind) -> bool:
        """Returns whether the operation has recorded an event of the kind, read inside this transaction."""

    @abc.abstractmethod
    def next_revision(self, target: TargetName, model: ModelName) -> int:
        """Returns the number that the next revision of `model` on `target` takes."""

    @abc.abstractmethod
    def current(self, target: TargetName, model: ModelName) -> Revision | None:
        """Returns the newest revision that served, read inside this transaction."""


class LineageStore(abc.ABC):
    """Who did what, when and why.

    Every method raises DatabaseError (DatabaseBusyError, SchemaOutdatedError, SchemaTooNewError) where the
    database cannot serve it.
    """

    @abc.abstractmethod
    def transaction(self) -> AbstractContextManager[LineageTransaction]:
        """Opens a write transaction that excludes every other writer from its start."""

    @abc.abstractmethod
    def models(self) -> tuple[ModelName, ...]:
        """Returns the models with a recorded version, in name order."""

    @abc.abstractmethod
    def versions(self, model: ModelName | None = None) -> tuple[VersionRecord, ...]:
        """Returns recorded versions by model name, then ascending version; of one model if it is given."""

    @abc.abstractmethod
    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """Returns the recorded manifest, or None."""

    @abc.abstractmethod
    def current(self, target: TargetName) -> tuple[Revision, ...]:
        """Returns the newest revision that served, of each model on `target`, in model order."""

    @abc.abstractmethod
    def targets(self) -> tuple[TargetName, ...]:
        """Returns the targets on which something was to be served, in name order, whoever's settings have them."""

    @abc.abstractmethod
    def pending(self, target: TargetName) -> tuple[Revision, ...]:
        """Returns the revisions on `target` that are neither serving nor failed, oldest first."""

    @abc.abstractmethod
    def revisions(self, target: TargetName, model: ModelName, *, limit: int) -> tuple[Revision, ...]:
        """Returns the newest `limit` revisions of `model` on `target`, newest first."""

    @abc.abstractmethod
    def freezes(self, target: TargetName) -> tuple[Freeze, ...]:
        """Returns the freezes of `target` and of models on it that were not lifted, run out ones included.

        The newest is the last one.
        """

    @abc.abstractmethod
    def running(self, target: TargetName) -> bool | None:
        """Returns whether the server of `target` was started, and not stopped since; None where neither is recorded.

        A server that ended by itself was not stopped.
        """

    @abc.abstractmethod
    def quarantine(self, digest: Digest) -> Quarantine | None:
        """Returns the quarantine of the bytes with `digest`, or None."""

    @abc.abstractmethod
    def tokens(self) -> tuple[Token, ...]:
        """Returns the tokens that were not revoked, run out ones included, oldest first."""

    @abc.abstractmethod
    def verdict(self, key: str) -> GateRecord | None:
        """Returns the newest verdict with `key`, or None."""

    @abc.abstractmethod
    def history(
        self, *, model: ModelName | None = None, target: TargetName | None = None, limit: int
    ) -> Sequence[Event]:
        """Returns the newest `limit` events that touch `model` and `target`, newest first."""

    @abc.abstractmethod
    def events(self) -> Iterator[Event]:
        """Yields every event in order; memory does not grow with their number."""

    @abc.abstractmethod
    def folded_sequence(self) -> int:
        """Returns the sequence of the newest event that the state read here knows of, 0 when there is none.

        An audit compares it with the events, since a chain that lost its end is a shorter chain, and whole.
        """


class RunningOperation(abc.ABC):
    """The journal of an operation, as the operation itself writes it."""

    @abc.abstractmethod
    def enter(self, phase: Phase) -> None:
        """Writes that `phase` is about to begin."""

    @abc.abstractmethod
    def end(self, outcome: str) -> None:
        """Says with which words the operation ends, unless an error ends it."""


class OperationJournal(abc.ABC):
    """What operations are under way, were cut off, or have ended lately."""

    @abc.abstractmethod
    def open(
        self, operation: str, request: OperationRequest, actor: str, *, first: Phase = Phase.LOCK
    ) -> AbstractContextManager[RunningOperation]:
        """Journals an operation while the block runs; how the block ends is how the operation ends.

        A journal that cannot be written keeps no operation from running.
        """

    @abc.abstractmethod
    def operations(self) -> tuple[OperationRecord, ...]:
        """Returns the operations that are known, newest first."""

    @abc.abstractmethod
    def operation(self, operation: str) -> OperationRecord:
        """Returns one operation.

        Raises:
            OperationNotFoundError: none of that id is known.
        """

    @abc.abstractmethod
    def settle(self, operation: str, *, by: str) -> None:
        """Writes that what an interrupted operation left was put right by another."""
