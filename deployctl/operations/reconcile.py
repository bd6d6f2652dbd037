"""Reconcile: a target is brought to what is recorded of it, or what differs is recorded."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from deployctl.domain.event import EventKind
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.operation import OperationRequest, OperationState, Phase
from deployctl.domain.revision import Desired
from deployctl.domain.serving import ServerCondition
from deployctl.errors import DeployctlError, LockedError, VersionNotFoundError
from deployctl.lineage.interface import OperationJournal
from deployctl.operations.bring_up import BringUp
from deployctl.operations.context import Context
from deployctl.operations.drift import drift, lost
from deployctl.operations.leased import CALL_TIMEOUT_S, LeasedTarget, leased
from deployctl.operations.rollout import needed_memory
from deployctl.operations.target import Target

_LOOK_TIMEOUT_S = 3.0
# What is seen only once may be a change that somebody is just making.
_SECOND_LOOK_S = 1.0
_UNLOAD_TIMEOUT_S = 10.0
_PATIENCE_S = 1.0
_POLL_S = 0.2
_LOOK_BACK = 200
_DOWN_REASON = "the server was down"


@dataclass(frozen=True, slots=True)
class Found:
    """What one look at a target found.

    Attributes:
        busy: whether an operation holds a lease, so that the rest says nothing.
        stopped: whether somebody has stopped the server, which is to stay so.
        unknown: why nobody can tell how the server is, "" where one can.
        hangs: whether it runs and does not answer; it may be loading, and only people can tell.
        recorded: whether it has anything to serve.
        interrupted: whether an operation that was cut off has left something.
        missing: versions that should be on this machine and are not.
        differences: see `drift`; () unless the server answers.
    """

    condition: ServerCondition
    busy: bool = False
    stopped: bool = False
    unknown: str = ""
    hangs: bool = False
    recorded: bool = False
    interrupted: bool = False
    missing: tuple[tuple[ModelName, VersionNumber], ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def is_down(self) -> bool:
        """Whether the server should run and does not answer."""
        return self.condition is not ServerCondition.READY and self.recorded and not self.stopped

    @property
    def can_start(self) -> bool:
        """Whether starting the server may help; to wait for one that hangs would keep people from the target."""
        return self.is_down and not self.unknown and not self.hangs


class Reconciliation(StrEnum):
    """How a pass over a target ended.

    DOWN: the server does not answer, and was not to be started. LATER: an operation was at work. DRIFTED: something
    differs still.
    """

    AS_RECORDED = "as recorded"
    STOPPED = "stopped"
    DOWN = "down"
    LATER = "later"
    SETTLED = "settled"
    STARTED = "started"
    REPAIRED = "repaired"
    DRIFTED = "drifted"


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A pass's outcome.

    Attributes:
        drift: what still differs, one sentence each.
        trouble: why it could not be put right, "" where it was, or was not to be.
    """

    outcome: Reconciliation
    drift: tuple[str, ...] = ()
    trouble: str = ""


def look(target: Target, journal: OperationJournal) -> Found:
    """Looks at a target without changing anything or keeping anybody waiting.

    Raises:
        ServerError: the server answered, and then no more.
        DatabaseError: the record cannot be read.
    """
    pending = target.lineage.pending(target.name)
    if target.lock.leases():
        return Found(target.runtime.condition(timeout_s=_LOOK_TIMEOUT_S), busy=True)
    state = target.runtime.state(timeout_s=_LOOK_TIMEOUT_S)
    recorded = target.recorded()
    ready = state.condition is ServerCondition.READY
    return Found(
        condition=state.condition,
        stopped=not ready and target.lineage.running(target.name) is False,
        unknown=state.detail.get("engine", ""),
        # Told of a process or a container that runs.
        hangs=not ready and "uptime" in state.detail,
        recorded=any(revision.desired.versions for revision in recorded.values()),
        interrupted=bool(pending) or _interrupted(target, journal),
        missing=tuple(
            (model, version)
            for model, revision in recorded.items()
            for version in revision.desired.versions
            if not target.repository.is_local(model, version)
        ),
        differences=drift(target, timeout_s=_LOOK_TIMEOUT_S) if ready else (),
    )


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Brings one target to what is recorded of it.

    Attributes:
        repair: whether what differs is put right, or only recorded.
        start: whether a server that is down is started.
        start_timeout_s: how long that may take.
        known: the drift that was recorded last and not repaired, () for none.
    """

    target: Target
    context: Context
    repair: bool = True
    start: bool = True
    start_timeout_s: float = 120.0
    known: tuple[str, ...] = ()

    def __call__(self, found: Found | None = None) -> Reconciled:
        """Makes one pass, after the look `found`, or a first one; does nothing where an operation is at work.

        Raises:
            DeployctlError: the target could not be looked at, or its server not be started.
        """
        found = found or look(self.target, self.context.journal)
        if self.wanted(found):
            self.context.clock.pause(_SECOND_LOOK_S)
            found = _seen_twice(found, look(self.target, self.context.journal))
        trouble = self._fetch(found)
        try:
            done = self._act(found)
        except LockedError:
            return Reconciled(Reconciliation.LATER)
        return replace(done, trouble=done.trouble or trouble)

    def wanted(self, found: Found) -> bool:
        """Whether there is anything to do after that look."""
        if found.busy:
            return False
        return (found.can_start and self.start) or found.interrupted or bool(found.missing) or self._differs(found)

    def _differs(self, found: Found) -> bool:
        if found.condition is not ServerCondition.READY:
            return False
        return found.differences != self.known or (self.repair and bool(found.differences))

    def _act(self, found: Found) -> Reconciled:
        if found.busy:
            return Reconciled(Reconciliation.LATER)
        # Whoever holds a lease does what this would do, so that nothing is lost by coming later.
        impatient = replace(self.target, lock_timeout_s=min(self.target.lock_timeout_s, _PATIENCE_S))
        if found.can_start and self.start:
            bring_up = BringUp(impatient, self.context)
            change = bring_up(timeout_s=self.start_timeout_s, reason=_DOWN_REASON, unless_stopped=True)
            stopped = change.outcome == "stopped"
            return Reconciled(Reconciliation.STOPPED if stopped else Reconciliation.STARTED)
        if found.interrupted or self._differs(found):
            return self._under_lease(impatient)
        return standing(found)

    def _under_lease(self, target: Target) -> Reconciled:
        """Settles what was interrupted, and puts right, or records, what differs once nobody else can change it."""
        request = OperationRequest("reconcile", target.name, target.name)
        with leased(target, self.context, request) as place:
            if place.condition() is not ServerCondition.READY:
                place.running.end("settled")
                return Reconciled(Reconciliation.SETTLED)
            found = drift(target, timeout_s=CALL_TIMEOUT_S)
            if self.repair and found:
                done = self._repaired(place, found)
            else:
                self._record(found, repaired=not found)
                done = Reconciled(Reconciliation.DRIFTED if found else Reconciliation.SETTLED, found)
            place.running.end(done.outcome.value)
            return done

    def _repaired(self, place: LeasedTarget, found: tuple[str, ...]) -> Reconciled:
        self.context.observer.warn(f"drift: {'; '.join(found)}")
        place.running.enter(Phase.RESTORE)
        try:
            without = self._without_room()
            self._let_go_of_failed(place)
            place.put_all_back(without)
            left = self._left(at_once=bool(without))
        except LockedError:
            raise
        except DeployctlError as error:
            self._record(found, repaired=False, problem=str(error))
            return Reconciled(Reconciliation.DRIFTED, found, str(error))
        if left:
            names = ", ".join(f"{model}@{version}" for model, versions in without.items() for version in versions)
            problem = f"there is no memory for {names}, to stand by" if names else f"it differs still: {left[0]}"
            self._record(left, repaired=False, problem=problem)
            return Reconciled(Reconciliation.DRIFTED, left, problem)
        self._record(found, repaired=True)
        self.context.observer.step("repaired", "; ".join(found))
        return Reconciled(Reconciliation.REPAIRED)

    def _left(self, *, at_once: bool) -> tuple[str, ...]:
        """Returns what differs still once what is to go has had time to, or `at_once`."""
        deadline = self.context.deadline(0.0 if at_once else _UNLOAD_TIMEOUT_S)
        left = drift(self.target, timeout_s=CALL_TIMEOUT_S)
        while left and deadline.left_s() > 0:
            self.context.clock.pause(_POLL_S)
            left = drift(self.target, timeout_s=CALL_TIMEOUT_S)
        return left

    def _without_room(self) -> dict[ModelName, tuple[VersionNumber, ...]]:
        """Returns the lost standby versions that do not fit into memory, by model."""
        gone = lost(self.target, timeout_s=CALL_TIMEOUT_S)
        free = self.target.free_bytes() if gone else None
        if free is None:
            return {}
        without: dict[ModelName, tuple[VersionNumber, ...]] = {}
        for model, versions in gone.items():
            for version in versions:
                needed = needed_memory(self.target, model, version)
                if needed > free:
                    without[model] = (*without.get(model, ()), version)
                else:
                    free -= needed
        return without

    def _let_go_of_failed(self, place: LeasedTarget) -> None:
        """A version that failed to load is tried again only after it was left out of a configuration."""
        trimmed, failed = {}, False
        for model, revision in self.target.recorded().items():
            statuses = self.target.runtime.statuses(model, timeout_s=CALL_TIMEOUT_S)
            desired = self.target.servable(model, revision.desired)
            trimmed[model] = _without(desired, {each.version for each in statuses if each.failed})
            failed = failed or trimmed[model] != desired
        if failed:
            with place.lease.turn(timeout_s=CALL_TIMEOUT_S):
                self.target.runtime.apply(self.target.config(trimmed), timeout_s=CALL_TIMEOUT_S)

    def _fetch(self, found: Found) -> str:
        """Brings versions here that should be here; returns why one could not be, "" where all were."""
        trouble = ""
        for model, version in () if found.busy else found.missing:
            try:
                self.target.repository.ensure_local(model, version, self.context.observer)
                self.context.observer.step("fetched", f"{model}@{version}")
            except VersionNotFoundError:
                # One that clients reach is told as drift; of a standby there is nothing left to tell.
                continue
            except DeployctlError as error:
                trouble = trouble or f"{model}@{version} could not be fetched: {error}"
        return trouble

    def _record(self, differences: tuple[str, ...], *, repaired: bool, problem: str = "") -> None:
        if not repaired and differences == self.known:
            return
        if repaired and not differences and not self.known:
            return
        data = {"differences": list(differences), "repaired": repaired, **({"problem": problem} if problem else {})}
        reason = "drift: " + ("; ".join(differences) or "gone")
        with self.target.lineage.transaction() as transaction:
            transaction.append(
                self.context.event(EventKind.TARGET_DRIFTED, target=self.target.name, reason=reason, data=data)
            )


def standing(found: Found) -> Reconciled:
    """Returns what is to be said after a look that asks for nothing to be done."""
    if found.busy:
        return Reconciled(Reconciliation.LATER)
    if found.is_down:
        words = "the server runs, but does not answer" if found.hangs else f"the server is {found.condition.value}"
        return Reconciled(Reconciliation.DOWN, trouble=f"{words}: {found.unknown}" if found.unknown else words)
    if found.condition is not ServerCondition.READY:
        return Reconciled(Reconciliation.STOPPED)
    return Reconciled(Reconciliation.DRIFTED if found.differences else Reconciliation.AS_RECORDED, found.differences)


def recorded_drift(target: Target) -> tuple[str, ...]:
    """Returns the drift that was recorded last of a target, () where it was repaired or there was none."""
    for event in target.lineage.history(target=target.name, limit=_LOOK_BACK):
        if event.content.kind is EventKind.TARGET_DRIFTED:
            data = event.content.data
            return () if data["repaired"] else tuple(data["differences"])
    return ()


def _interrupted(target: Target, journal: OperationJournal) -> bool:
    return any(
        record.state is OperationState.INTERRUPTED and record.request.target == target.name
        for record in journal.operations()
    )


def _seen_twice(first: Found, second: Found) -> Found:
    """Returns the second of two looks with what was seen both times; one that must be looked at again is `busy`."""
    if second.busy or second.condition is not first.condition:
        return replace(second, busy=True)
    return replace(
        second,
        interrupted=first.interrupted and second.interrupted,
        differences=tuple(each for each in second.differences if each in first.differences),
    )


def _without(desired: Desired, versions: Collection[VersionNumber]) -> Desired:
    labels = {label: version for label, version in desired.labels.items() if version not in versions}
    return Desired(tuple(version for version in desired.versions if version not in versions), labels)
