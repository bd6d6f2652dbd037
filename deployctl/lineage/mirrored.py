"""Lineage that is also kept beside the servers, so that a rollback needs no database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from deployctl.domain.authority import Token
from deployctl.domain.clock import Clock
from deployctl.domain.event import Event, EventKind, NewEvent
from deployctl.domain.hold import Freeze, GateRecord, Quarantine
from deployctl.domain.manifest import Manifest, format_time
from deployctl.domain.names import Digest, ModelName, TargetName, VersionNumber
from deployctl.domain.revision import Revision, RevisionState
from deployctl.errors import DatabaseError, LineageLostError, StorageError
from deployctl.lineage.interface import LineageStore, LineageTransaction, VersionRecord
from deployctl.lineage.projections import RevisionOpened, RevisionSettled, effect
from deployctl.lineage.recovery import events_of
from deployctl.lineage.state_copy import SpooledEvent, StateCopy

T = TypeVar("T")

# Revisions kept of each model on each target; nobody rolls back further without the database.
_KEPT = 50


class MirroredLineageStore(LineageStore):
    """A database, with each target's last revisions copied to the state directory after every change.

    With `failover`, a database that fails is given up for good by this process: revisions are read from the copy,
    and events are spooled. The next use of a healthy database appends them first.

    Args:
        primary: the database.
        copy: the files in the state directory.
        failover: whether to go on without the database.
        warn: told once, in one sentence, that the database was given up.
    """

    def __init__(
        self, primary: LineageStore, copy: StateCopy, clock: Clock, *, failover: bool, warn: Callable[[str], None]
    ) -> None:
        self._primary = primary
        self._copy = copy
        self._clock = clock
        self._failover = failover
        self._warn = warn
        self._behind = True
        self.offline = False

    @contextmanager
    def transaction(self) -> Iterator[LineageTransaction]:
        """Opens a write transaction that excludes every other writer from its start."""
        with ExitStack() as stack:
            change = _Change(self, self._asked(lambda: self._opened(stack), lambda: None))
            try:
                yield change
                if not self.offline:
                    stack.close()
            except DatabaseError as error:
                self.give_up(error)
            if self.offline:
                # What a failed transaction has done so far is undone, since all of its events are spooled.
                with suppress(DatabaseError), stack:
                    raise DatabaseError("given up")
                self._copy.spool(change.events)
                self._fold(change.events)
            else:
                self._mirror(change.events)

    def drain(self) -> int:
        """Appends the events that were spooled while the database was away; returns how many.

        A revision that was numbered without the database gets the next number there. Events that the database
        has already were appended by a process that was killed before it could forget them.

        Raises:
            DatabaseError: the database still cannot take them; they are kept.
            LineageLostError: it has lost what they follow; they are kept.
            StorageError: a spooled event cannot be read.
        """
        waiting = self._copy.spooled()
        if not waiting:
            return 0
        self._refuse_lost(waiting)
        with self._primary.transaction() as transaction:
            events = [each.event for each in waiting]
            appended = [event for event in events if not transaction.has_event(event.operation, event.kind)]
            numbers: dict[tuple[str | None, str | None, int], int] = {}
            for event in appended:
                transaction.append(_renumbered(event, transaction, numbers))
        self._copy.forget(waiting)
        self._mirror(appended)
        return len(appended)

    def recover(self, target: TargetName) -> tuple[ModelName, ...]:
        """Records what is kept beside the server of `target` and was lost with the database; returns whose it was.

        Of a database that was put back from a copy, that are the revisions made since.

        Raises:
            DatabaseError: the database cannot take them.
        """
        found = []
        for model, kept in self._copy.kept(target).items():
            newest = max((each.number for each in self._primary.revisions(target, model, limit=1)), default=0)
            spooled = {each.event.operation for each in self._copy.spooled()} if newest else set()
            lost = [each for each in kept.revisions if each.number > newest and each.operation not in spooled]
            if lost:
                with self._primary.transaction() as transaction:
                    for event in events_of(lost, self._clock.now()):
                        transaction.append(event)
                found.append(model)
        return tuple(found)

    def current(self, target: TargetName) -> tuple[Revision, ...]:
        """Returns the newest revision that served, of each model on `target`, in model order."""

        def recorded() -> tuple[Revision, ...]:
            found = self._primary.current(target)
            if not found and any(self._is_lost(target, model) for model in self._kept(target)):
                raise LineageLostError(target)
            return found

        return self._asked(recorded, lambda: tuple(self._kept_current(target)))

    def targets(self) -> tuple[TargetName, ...]:
        """Returns the targets on which something was to be served, in name order, whoever's settings have them."""
        self._catch_up()
        return self._primary.targets()

    def pending(self, target: TargetName) -> tuple[Revision, ...]:
        """Returns the revisions on `target` that are neither serving nor failed, oldest first."""

        def kept() -> tuple[Revision, ...]:
            found = [each for revisions in self._kept(target).values() for each in revisions]
            waiting = [revision for revision in found if revision.state is RevisionState.PENDING]
            return tuple(sorted(waiting, key=lambda revision: revision.recorded_at))

        return self._asked(lambda: self._primary.pending(target), kept)

    def revisions(self, target: TargetName, model: ModelName, *, limit: int) -> tuple[Revision, ...]:
        """Returns the newest `limit` revisions of `model` on `target`, newest first."""

        def recorded() -> tuple[Revision, ...]:
            found = self._primary.revisions(target, model, limit=limit)
            if not found and self._is_lost(target, model):
                raise LineageLostError(target)
            return found

        return self._asked(recorded, lambda: self._kept(target).get(model, ())[:limit])

    def models(self) -> tuple[ModelName, ...]:
        """Returns the models with a recorded version, in name order."""
        self._catch_up()
        return self._primary.models()

    def versions(self, model: ModelName | None = None) -> tuple[VersionRecord, ...]:
        """Returns recorded versions by model name, then ascending version; of one model if it is given."""
        self._catch_up()
        return self._primary.versions(model)

    def manifest(self, model: ModelName, version: VersionNumber) -> Manifest | None:
        """Returns the recorded manifest, or None."""
        self._catch_up()
        return self._primary.manifest(model, version)

    def freezes(self, target: TargetName) -> tuple[Freeze, ...]:
        """Returns the freezes of `target`; they bind promotions, which need the database."""
        return self._asked(lambda: self._primary.freezes(target), lambda: ())

    def running(self, target: TargetName) -> bool | None:
        """Returns whether the server of `target` was started, and not stopped since; None where neither is recorded."""
        self._catch_up()
        return self._primary.running(target)

    def quarantine(self, digest: Digest) -> Quarantine | None:
        """Returns the quarantine of the bytes with `digest`, or None; without the database that is not known."""
        return self._asked(lambda: self._primary.quarantine(digest), lambda: None)

    def tokens(self) -> tuple[Token, ...]:
        """Returns the tokens that were not revoked, run out ones included, oldest first."""
        self._catch_up()
        return self._primary.tokens()

    def verdict(self, key: str) -> GateRecord | None:
        """Returns the newest verdict with `key`, or None."""
        self._catch_up()
        return self._primary.verdict(key)

    def history(
        self, *, model: ModelName | None = None, target: TargetName | None = None, limit: int
    ) -> Sequence[Event]:
        """Returns the newest `limit` events that touch `model` and `target`, newest first."""
        self._catch_up()
        return self._primary.history(model=model, target=target, limit=limit)

    def events(self) -> Iterator[Event]:
        """Yields every event in order; memory does not grow with their number."""
        self._catch_up()
        return self._primary.events()

    def folded_sequence(self) -> int:
        """Returns the sequence of the newest event that the database's state knows of."""
        self._catch_up()
        return self._primary.folded_sequence()

    def give_up(self, error: DatabaseError | StorageError) -> None:
        """Goes on without the database, or raises `error` where that is not allowed."""
        if not self._failover:
            raise error
        if not self.offline:
            self.offline = True
            self._warn(
                f"lineage database unavailable ({error}); going on with the state that is kept beside the server"
            )

    def kept_revision_number(self, target: TargetName, model: ModelName) -> int:
        """Returns the highest revision number that the copy knows, 0 without any."""
        return max((revision.number for revision in self._kept(target).get(model, ())), default=0)

    def _opened(self, stack: ExitStack) -> LineageTransaction | None:
        return stack.enter_context(self._primary.transaction())

    def _catch_up(self) -> None:
        """Appends what was spooled, once for this object, where the database takes it."""
        if self._behind:
            self._behind = False
            with suppress(DatabaseError, StorageError):
                self.drain()

    def _asked(self, ask: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """Asks the database of what the copy also knows; while events wait, only the copy is up to date."""
        if not self.offline:
            try:
                self.drain()
                return ask()
            except (DatabaseError, StorageError) as error:
                self.give_up(error)
        return otherwise()

    def _is_lost(self, target: TargetName, model: ModelName, *, but: frozenset[str] = frozenset()) -> bool:
        """Whether the database has no revision of what has some beside the server, `but` those of some operations."""
        kept = any(each.operation not in but for each in self._kept(target).get(model, ()))
        return kept and not self._primary.revisions(target, model, limit=1)

    def _refuse_lost(self, waiting: Sequence[SpooledEvent]) -> None:
        """Raises LineageLostError where spooled events would be the first that the database knows of a model."""
        spooled = frozenset(each.event.operation for each in waiting)
        for target, model in {(each.event.target, each.event.model) for each in waiting}:
            if target is not None and model is not None and self._is_lost(target, model, but=spooled):
                raise LineageLostError(target)

    def _kept(self, target: TargetName) -> dict[ModelName, tuple[Revision, ...]]:
        return {model: kept.revisions for model, kept in self._copy.kept(target).items()}

    def _kept_current(self, target: TargetName) -> Iterator[Revision]:
        for _, revisions in sorted(self._kept(target).items()):
            serving = [revision for revision in revisions if revision.state is RevisionState.SERVING]
            if serving:
                yield max(serving, key=lambda revision: revision.number)

    def _mirror(self, events: Sequence[NewEvent]) -> None:
        """Copies what the database says now of the models that `events` changed."""
        changed = {(event.target, event.model) for event in events if _changes_revisions(event)}
        for target, model in sorted(changed, key=str):
            if target is not None and model is not None:
                revisions = self._primary.revisions(target, model, limit=_KEPT)
                # The change is recorded; that it could not be copied must not undo it.
                with suppress(StorageError):
                    self._copy.keep(target, model, revisions, at=self._clock.now())

    def _fold(self, events: Sequence[NewEvent]) -> None:
        """Changes the copy as the database would be changed by `events`."""
        for event in events:
            if event.target is None or event.model is None or not _changes_revisions(event):
                continue
            revisions = list(self._kept(event.target).get(event.model, ()))
            match effect(event):
                case RevisionOpened(revision):
                    revisions.insert(0, revision)
                case RevisionSettled() as settled:
                    revisions = [
                        replace(each, state=settled.state, settled_at=settled.at, evidence=settled.evidence)
                        if each.number == settled.number
                        else each
                        for each in revisions
                    ]
            self._copy.keep(event.target, event.model, revisions[:_KEPT], at=self._clock.now())


class _Change(LineageTransaction):
    """A transaction whose calls go on without the database where that is allowed."""

    def __init__(self, store: MirroredLineageStore, inner: LineageTransaction | None) -> None:
        self._store = store
        self._inner = inner
        self.events: list[NewEvent] = []

    def append(self, event: NewEvent) -> Event:
        """Appends `event`; one that is spooled has sequence 0 and no hash yet."""
        self.events.append(event)
        spooled = Event(0, event, "", "")
        return self._asked(lambda inner: inner.append(event), lambda: spooled)

    def has_version(self, model: ModelName, version: VersionNumber) -> bool:
        """Returns whether the version is recorded; without the database that is not known."""
        return self._asked(lambda inner: inner.has_version(model, version), lambda: False)

    def has_event(self, operation: str, kind: EventKind) -> bool:
        """Returns whether the operation has recorded an event of the kind; without the database that is not known."""
        return self._asked(lambda inner: inner.has_event(operation, kind), lambda: False)

    def next_revision(self, target: TargetName, model: ModelName) -> int:
        """Returns the number that the next revision takes; without the database, the next one of the copy."""
        kept = self._store.kept_revision_number(target, model)

        def recorded(inner: LineageTransaction) -> int:
            number = inner.next_revision(target, model)
            if number == 1 and kept:
                raise LineageLostError(target)
            return number

        return self._asked(recorded, lambda: kept + 1)

    def current(self, target: TargetName, model: ModelName) -> Revision | None:
        """Returns the newest revision that served."""

        def kept() -> Revision | None:
            return next((revision for revision in self._store.current(target) if revision.model == model), None)

        return self._asked(lambda inner: inner.current(target, model), kept)

    def _asked(self, ask: Callable[[LineageTransaction], T], otherwise: Callable[[], T]) -> T:
        if not self._store.offline and self._inner is not None:
            try:
                return ask(self._inner)
            except DatabaseError as error:
                self._store.give_up(error)
        return otherwise()


def _changes_revisions(event: NewEvent) -> bool:
    return event.kind in {EventKind.REVISION_PENDING, EventKind.REVISION_SERVING, EventKind.REVISION_FAILED}


def _renumbered(
    event: NewEvent, transaction: LineageTransaction, numbers: dict[tuple[str | None, str | None, int], int]
) -> NewEvent:
    """Returns `event` with the revision numbers that the database gives; `numbers` remembers them."""
    if not _changes_revisions(event) or event.target is None or event.model is None:
        return event
    data: dict[str, Any] = dict(event.data)
    key = (event.target, event.model, data["revision"])
    if event.kind is EventKind.REVISION_PENDING:
        numbers[key] = transaction.next_revision(event.target, event.model)
        restores = data["restores"]
        data["restores"] = numbers.get((event.target, event.model, restores), restores)
    data["revision"] = numbers.get(key, data["revision"])
    return replace(event, data=data | {"spooled_at": format_time(event.at)})
