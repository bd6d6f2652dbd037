"""The duty that does what the rules say of versions that an inbox has published: promote them, retire old ones.

It is apart from publishing, since gates and loading take their time. What is to follow stands in a file for each
version until it is done, refused, or overtaken by a newer version. Of several versions of a model the newest comes
first, so that those that piled up are not each loaded only to be replaced: they are for the case that it is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import Event

from deployctl.daemon.inbox.handling import may_pass
from deployctl.daemon.inbox.judge import pause_after
from deployctl.daemon.inbox.memory import FollowUp, FollowUps
from deployctl.daemon.inbox.watching import inbox_directory
from deployctl.daemon.interface import Duty, Work
from deployctl.domain.manifest import format_time
from deployctl.domain.names import CANARY, STABLE, LabelName, ModelName, TargetName
from deployctl.domain.reference import ByNumber, Reference
from deployctl.domain.revision import Revision, RevisionState
from deployctl.domain.serving import ServerCondition
from deployctl.errors import (
    DeployctlError,
    LeaseLostError,
    LockedError,
    ServerUnavailableError,
    StorageError,
    TargetNotFoundError,
    TimedOutError,
)
from deployctl.operations.promote import Promote, PromoteRequest
from deployctl.operations.retire import Retire, RetireRequest
from deployctl.validation import Wishes, golden_prover, promotion_judge

_log = logging.getLogger(__name__)
_LOOK_BACK = 50
_LONGEST_WAIT_S = 1.0
_LOOK_TIMEOUT_S = 10.0
# What a revision failed of whose operation was killed; see `Place.settle_interrupted`.
_INTERRUPTED = "interrupted"
# A version whose load ends the daemon with it is not promoted for ever.
_MOST_CUT_OFF = 5


@dataclass(frozen=True, slots=True)
class _Wait:
    """How often what follows was tried in vain, and when it is tried again, on the clock's monotonic scale."""

    attempts: int = 0
    due: float = 0.0


@dataclass(slots=True)
class Following(Duty):
    """Promotes what one inbox has published.

    Attributes:
        inbox: its name in the settings.
        follow: set when something is to follow.
    """

    inbox: str
    follow: Event
    _waiting: dict[FollowUp, _Wait] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"inbox {self.inbox}, following up"

    def run(self, work: Work) -> None:
        """Does what is to follow until it is told to stop."""
        follow_ups, clock = FollowUps(inbox_directory(work.settings, self.inbox)), work.shared.context.clock
        self._waiting.clear()
        self.follow.set()
        while not work.stopping.is_set():
            told = self.follow.wait(_LONGEST_WAIT_S)
            due = any(each.due <= clock.monotonic() for each in self._waiting.values())
            if told or due or follow_ups.has_others(self._waiting):
                self.follow.clear()
                self._attend(work, follow_ups)

    def _attend(self, work: Work, follow_ups: FollowUps) -> None:
        """Does what is to follow; a version that waits holds up the older ones of its model, and no other."""
        clock, waiting = work.shared.context.clock, self._waiting
        self._waiting = {}
        held_up: dict[ModelName, _Wait] = {}
        for each in follow_ups.all():
            wait = held_up.get(each.model) or waiting.get(each, _Wait())
            if each.model not in held_up and wait.due <= clock.monotonic():
                if self._done_or_given_up(work, follow_ups, each):
                    continue
                wait = _Wait(wait.attempts + 1, clock.monotonic() + pause_after(wait.attempts + 1))
            self._waiting[each] = held_up[each.model] = wait

    def _done_or_given_up(self, work: Work, follow_ups: FollowUps, follow_up: FollowUp) -> bool:
        try:
            return self._done(work, follow_ups, follow_up)
        except StorageError as error:
            _log.warning("what follows for %s@%s waits: %s", follow_up.model, follow_up.version, error)
            return False
        except Exception:  # noqa: BLE001 - a bug met with one version must not keep the others waiting
            _log.exception("nothing follows for %s@%s: a bug", follow_up.model, follow_up.version)
            follow_ups.remove(follow_up)
            return True

    def _done(self, work: Work, follow_ups: FollowUps, follow_up: FollowUp) -> bool:
        """Whether nothing is left to follow; False where it waits for what may pass, or for the next start."""
        for target in follow_up.targets:
            if work.stopping.is_set():
                return False
            try:
                went_well = self._promote(work, follow_up, target)
            except DeployctlError as error:
                if isinstance(error, LeaseLostError) or (may_pass(error) and not isinstance(error, TimedOutError)):
                    _log.warning("%s@%s waits for %s: %s", follow_up.model, follow_up.version, target, error)
                    return False
                _log.error("%s@%s is not promoted on %s: %s", follow_up.model, follow_up.version, target, error)
                went_well = False
            left = follow_up.targets[follow_up.targets.index(target) + 1 :] if went_well else ()
            follow_ups.put(replace(follow_up, targets=left))
            if not went_well:
                break
        # One that is older may have to be promoted yet, and must still be there.
        if not follow_ups.has_more_of(follow_up) and not self._retire(work, follow_up):
            return False
        follow_ups.remove(follow_up)
        return True

    def _promote(self, work: Work, follow_up: FollowUp, target: TargetName) -> bool:
        """Promotes a version, unless it was already or a newer one was; returns whether others may follow."""
        model, version = follow_up.model, follow_up.version
        if target not in work.settings.targets:
            raise TargetNotFoundError(target)
        label = CANARY if follow_up.canary else STABLE
        with work.operation(f"daemon: inbox {self.inbox} promotes {model}@{version} on {target}") as deployment:
            place = deployment.target(target)
            ended = _ended(follow_up, label, place.lineage.revisions(target, model, limit=_LOOK_BACK))
            if ended is not None:
                return ended
            current = place.current(model)
            serving = current.desired.labels.get(label) if current else None
            if serving is not None and serving > version:
                _log.info("%s@%s is not promoted on %s: @%s is there already", model, version, target, serving)
                return False
            request = PromoteRequest(
                Reference(model, ByNumber(version)),
                label=label,
                reason=f"inbox {self.inbox}: {follow_up.export}",
                timeout_s=work.settings.targets[target].load_timeout_s,
            )
            condition = place.runtime.condition(timeout_s=_LOOK_TIMEOUT_S)
            if condition is not ServerCondition.READY:
                # Before the gates, whose verdicts would be recorded with each attempt.
                raise ServerUnavailableError(f"the server of {target} is {condition.value}")
            judge = promotion_judge(deployment, target, Wishes())
            promotion = Promote(place, deployment.context, judge, golden_prover(deployment, target, model))(request)
            _log.info("%s@%s serves %s on %s", model, version, promotion.label, target)
        return True

    def _retire(self, work: Work, follow_up: FollowUp) -> bool:
        """Retires what is old; what cannot be is with the next version. False where only a lock is in the way."""
        if not follow_up.keep:
            return True
        model = follow_up.model
        request = RetireRequest(model, keep=follow_up.keep, reason=f"inbox {self.inbox} keeps {follow_up.keep}")
        try:
            with work.operation(f"daemon: inbox {self.inbox} retires versions of {model}") as deployment:
                targets = [deployment.target(each) for each in work.settings.targets]
                done = Retire(deployment.repository, deployment.lineage, targets, deployment.context)(request)
        except DeployctlError as error:
            _log.warning("no version of %s is retired for now: %s", model, error)
            return not isinstance(error, LockedError)
        if done.versions:
            _log.info("%s is retired", ", ".join(f"{model}@{version}" for version in done.versions))
        return True


def _ended(follow_up: FollowUp, label: LabelName, revisions: Sequence[Revision]) -> bool | None:
    """Returns how the promotion ended that was made before we were killed, None where it is still to be made.

    It may have been rolled back since. One that was cut off and undone was no answer, unless that goes on for ever.
    """
    cut_off = 0
    for revision in revisions:
        moved = revision.before.labels.get(label) != revision.desired.labels.get(label) == follow_up.version
        if not moved or format_time(revision.recorded_at) < follow_up.began:
            continue
        if revision.state is RevisionState.SERVING:
            return True
        if revision.state is RevisionState.FAILED:
            if revision.evidence.get("error") != _INTERRUPTED:
                return False
            cut_off += 1
    return False if cut_off >= _MOST_CUT_OFF else None
