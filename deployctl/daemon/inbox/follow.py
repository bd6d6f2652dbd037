"""The duty that does what the rules say of versions that an inbox has published: promote them, retire old ones.

It is apart from publishing, since gates and loading take their time. What is to follow stands in a file for each
version until it is done, refused, or overtaken by a newer version.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from threading import Event

from deployctl.daemon.inbox.handling import may_pass
from deployctl.daemon.inbox.memory import FollowUp, FollowUps
from deployctl.daemon.inbox.watching import inbox_directory
from deployctl.daemon.interface import Duty, Work
from deployctl.domain.manifest import format_time
from deployctl.domain.names import CANARY, STABLE, TargetName
from deployctl.domain.reference import ByNumber, Reference
from deployctl.domain.revision import RevisionState
from deployctl.errors import DeployctlError, StorageError, TargetNotFoundError, TimedOutError
from deployctl.operations.promote import Promote, PromoteRequest
from deployctl.operations.retire import Retire, RetireRequest
from deployctl.validation import Wishes, golden_prover, promotion_judge

_log = logging.getLogger(__name__)
_LOOK_BACK = 50
_LONGEST_PAUSE_S = 60.0
_LONGEST_WAIT_S = 1.0


@dataclass(slots=True)
class Following(Duty):
    """Promotes what one inbox has published.

    Attributes:
        inbox: its name in the settings.
        follow: set when something is to follow.
    """

    inbox: str
    follow: Event
    _attempts: int = field(default=0)

    @property
    def name(self) -> str:
        """What logs call it."""
        return f"inbox {self.inbox}, following up"

    def run(self, work: Work) -> None:
        """Does what is to follow until it is told to stop."""
        follow_ups = FollowUps(inbox_directory(work.settings, self.inbox))
        self.follow.set()
        while not work.stopping.is_set():
            if not self.follow.wait(_LONGEST_WAIT_S):
                continue
            self.follow.clear()
            left = [each for each in follow_ups.all() if not self._done_or_given_up(work, follow_ups, each)]
            self._attempts = self._attempts + 1 if left else 0
            if left:
                self.follow.set()
                work.pause(min(0.5 * 2.0**self._attempts, _LONGEST_PAUSE_S))

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
                if may_pass(error) and not isinstance(error, TimedOutError):
                    _log.warning("%s@%s waits for %s: %s", follow_up.model, follow_up.version, target, error)
                    return False
                _log.error("%s@%s is not promoted on %s: %s", follow_up.model, follow_up.version, target, error)
                went_well = False
            left = follow_up.targets[follow_up.targets.index(target) + 1 :] if went_well else ()
            follow_ups.put(replace(follow_up, targets=left))
            if not went_well:
                break
        self._retire(work, follow_up)
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
            # What was promoted before we were killed may have been rolled back since.
            for revision in place.lineage.revisions(target, model, limit=_LOOK_BACK):
                settled = revision.state is not RevisionState.PENDING
                ours = revision.desired.labels.get(label) == version and revision.before.labels.get(label) != version
                if ours and settled and format_time(revision.recorded_at) >= follow_up.began:
                    return revision.state is RevisionState.SERVING
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
            judge = promotion_judge(deployment, target, Wishes())
            promotion = Promote(place, deployment.context, judge, golden_prover(deployment, target, model))(request)
            _log.info("%s@%s serves %s on %s", model, version, promotion.label, target)
        return True

    def _retire(self, work: Work, follow_up: FollowUp) -> None:
        """Retires what is old; what cannot be now is with the next version."""
        if not follow_up.keep:
            return
        model = follow_up.model
        request = RetireRequest(model, keep=follow_up.keep, reason=f"inbox {self.inbox} keeps {follow_up.keep}")
        with work.operation(f"daemon: inbox {self.inbox} retires versions of {model}") as deployment:
            targets = [deployment.target(each) for each in work.settings.targets]
            try:
                done = Retire(deployment.repository, deployment.lineage, targets, deployment.context)(request)
            except DeployctlError as error:
                _log.warning("no version of %s is retired for now: %s", model, error)
                return
            if done.versions:
                _log.info("%s is retired", ", ".join(f"{model}@{version}" for version in done.versions))
