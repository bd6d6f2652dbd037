"""The duties that keep targets as they are recorded, and the record itself in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from deployctl.bootstrap import Deployment
from deployctl.config.daemon_settings import DriftPolicy
from deployctl.config.settings import RuntimeName
from deployctl.daemon.interface import Duty, Work
from deployctl.daemon.logs import LogObserver
from deployctl.daemon.patience import Patience
from deployctl.domain.clock import Clock
from deployctl.domain.names import TargetName
from deployctl.domain.operation import OperationState
from deployctl.errors import DeployctlError, LockedError
from deployctl.operations.holds import Holds
from deployctl.operations.reconcile import (
    Found,
    Reconcile,
    Reconciled,
    Reconciliation,
    look,
    recorded_drift,
    standing,
)
from deployctl.operations.target import Target

_log = logging.getLogger(__name__)

# How often it is looked whether anything was recorded, which is a reason to look at the targets.
_NEWS_S = 1.0
_AUDIT_S = 24 * 3600.0
_QUIET = frozenset({Reconciliation.AS_RECORDED, Reconciliation.LATER, Reconciliation.STOPPED})


@contextmanager
def looking(work: Work, name: TargetName) -> Iterator[tuple[Deployment, Target]]:
    """Gives a target to look at while the block runs, over one connection to its server."""
    deployment = Deployment(work.settings, LogObserver(), over=work.shared)
    target = deployment.target(name)
    try:
        yield deployment, target
    finally:
        target.runtime.close()


class TargetReconciliation(Duty):
    """Keeps one target as it is recorded; each target has a thread of its own, so that none waits for another."""

    def __init__(self, target: TargetName, clock: Clock) -> None:
        self._name = target
        self._clock = clock
        self._acting = Patience(clock)
        self._known: tuple[str, ...] = ()
        self._said = ""

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"reconcile {self._name}"

    def run(self, work: Work) -> None:
        """Looks at the target every few seconds, and whenever something was recorded."""
        with looking(work, self._name) as (deployment, target):
            self._known = recorded_drift(target)
            while not work.stopping.is_set():
                sequence = work.board.sequence
                try:
                    self._round(work, deployment, target)
                except DeployctlError as error:
                    self._say(str(error))
                    work.board.change(self._name, partial(replace, trouble=str(error)))
                self._rest(work, sequence)

    def _round(self, work: Work, deployment: Deployment, target: Target) -> None:
        for lease in target.lock.clear():
            _log.info("the lease of %s, which is dead, was cleared away", lease)
        found = look(target, deployment.context.journal)
        reconcile = self._reconcile(work, deployment, target)
        if not reconcile.wanted(found):
            self._note(work, found, standing(found))
        elif self._acting.allows():
            self._act(work, target, found)
        else:
            work.board.change(self._name, partial(replace, drift=found.differences))

    def _act(self, work: Work, target: Target, found: Found) -> None:
        self._acting.used()
        with work.operation(f"daemon: reconcile {self._name}") as deployment:
            ours = replace(deployment.target(self._name), runtime=target.runtime)
            done = self._reconcile(work, deployment, ours)(found)
        if done.outcome is Reconciliation.LATER:
            self._acting.forgiven()
        self._known = recorded_drift(target)
        self._note(work, found, done)

    def _reconcile(self, work: Work, deployment: Deployment, target: Target) -> Reconcile:
        settings = work.settings.targets[self._name]
        return Reconcile(
            target,
            deployment.context,
            repair=work.settings.daemon.drift is DriftPolicy.REPAIR,
            start=settings.health.start and settings.runtime is not RuntimeName.EXTERNAL,
            start_timeout_s=settings.start_timeout_s,
            known=self._known,
        )

    def _note(self, work: Work, found: Found, done: Reconciled) -> None:
        if done.outcome is Reconciliation.LATER:
            return
        stopped = done.outcome is Reconciliation.STOPPED
        work.board.change(self._name, partial(replace, drift=done.drift, trouble=done.trouble, stopped=stopped))
        words = f"{done.outcome.value}: {done.trouble or '; '.join(done.drift)}".rstrip(": ")
        self._say("" if done.outcome in _QUIET else words)

    def _say(self, words: str) -> None:
        """Logs what is new."""
        if words and words != self._said:
            _log.warning("%s: %s", self._name, words)
        self._said = words

    def _rest(self, work: Work, sequence: int) -> None:
        until = self._clock.monotonic() + work.settings.daemon.reconcile_interval_s
        while self._clock.monotonic() < until:
            if work.pause(min(_NEWS_S, max(0.01, until - self._clock.monotonic()))) or work.board.sequence != sequence:
                return


class Upkeep(Duty):
    """Keeps the record itself in order: what was spooled, freezes that ran out, and whether events and state agree."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._audited_at = float("-inf")
        self._failing = False

    @property
    def name(self) -> str:
        """What logs call it."""
        return "upkeep"

    def run(self, work: Work) -> None:
        """Tells the other duties that something was recorded, and looks after the record every few seconds."""
        deployment = Deployment(work.settings, LogObserver(), over=work.shared)
        due = self._clock.monotonic()
        while not work.stopping.is_set():
            try:
                work.board.sequence = deployment.lineage.folded_sequence()
                if self._clock.monotonic() >= due:
                    due = self._clock.monotonic() + work.settings.daemon.reconcile_interval_s
                    self._round(work, deployment)
                self._failing = False
            except LockedError:
                pass
            except DeployctlError as error:
                if not self._failing:
                    _log.error("the record could not be looked after: %s", error)
                self._failing = True
            work.pause(_NEWS_S)

    def _round(self, work: Work, deployment: Deployment) -> None:
        drained = deployment.lineage.drain()
        if drained:
            _log.info("%d events that waited for the database were appended", drained)
        now = deployment.context.clock.now()
        for target in work.settings.targets:
            if all(freeze.in_force(now) for freeze in deployment.lineage.freezes(target)):
                continue
            with work.operation(f"daemon: unfreeze {target}") as ours:
                for freeze in Holds(ours.lineage, ours.context).lift_expired(target):
                    _log.info("ran out: %s", freeze)
        self._settle_publishings(work, deployment)
        self._audit(work, deployment)

    def _settle_publishings(self, work: Work, deployment: Deployment) -> None:
        """Of a publishing that was killed nothing is visible, and the repository clears away what it left."""
        journal = deployment.context.journal
        for record in journal.operations():
            if record.state is OperationState.INTERRUPTED and record.request.target is None:
                journal.settle(record.id, by=deployment.context.operation)
                _log.warning("%s was interrupted; if it is still wanted, begin it again", record)

    def _audit(self, work: Work, deployment: Deployment) -> None:
        """Holds events and state against each other; what differs is told, and not repaired."""
        lineage, due = deployment.lineage, self._clock.monotonic() - self._audited_at >= _AUDIT_S
        newest = lineage.history(limit=1)
        last, folded = newest[0].sequence if newest else 0, lineage.folded_sequence()
        if due or (last != folded and not work.board.lineage_problem):
            from deployctl.lineage.audit import examine

            self._audited_at = self._clock.monotonic()
            result = examine(lineage, tuple(work.settings.targets))
            broken = result.broken
            problem = f"event {broken.sequence} of the lineage: {broken.reason}" if broken else result.disagreement
            if problem:
                _log.error("%s; deployctl audit verify tells more", problem)
            work.board.lineage_problem = problem
