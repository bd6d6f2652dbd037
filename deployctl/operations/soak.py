"""Soak: a promoted version is watched for a while, and what served before it is restored where it does worse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace

from deployctl.domain.duration import format_duration
from deployctl.domain.names import CANARY, STABLE, LabelName, ModelName
from deployctl.domain.operation import OperationRecord, OperationRequest, Phase
from deployctl.domain.revision import Revision
from deployctl.domain.serving import ServerCondition
from deployctl.errors import DatabaseError, DegradedError, DeployctlError, PreconditionError, RestoredError, ServerError
from deployctl.lineage.interface import OperationJournal, RunningOperation
from deployctl.operations.context import Context
from deployctl.operations.promote import Promote, PromoteRequest, Promotion
from deployctl.operations.rollback import Rollback, RollbackRequest, RolledBack
from deployctl.operations.target import Target
from deployctl.serving.interface import RequestCounts

_TIMEOUT_S = 10.0
_SAMPLE_S = 1.0
_LOOK_BACK = 20
# Fewer requests than these say nothing.
_FEWEST = 20
# What may be chance: so many more failures per request, so many times the latency.
_ERROR_MARGIN = 0.01
_LATENCY_FACTOR = 1.5
_LATENCY_MARGIN_S = 0.005
# Of what nothing is known before, only a version that fails most of its requests is blamed.
_MOST = 0.5
# How the reason of a rollback begins that nobody asked for.
REASON = "soak: "


@dataclass(frozen=True, slots=True)
class SoakedPromote:
    """Promotes, watches what was promoted, and is one operation that ends when both have.

    Attributes:
        soak: works under an operation of its own, as which it goes back.
    """

    promote: Promote
    soak: Soak

    def __call__(self, request: PromoteRequest, soak_s: float) -> Promotion:
        """Returns when the version has served for `soak_s` seconds no worse than what served before it.

        Raises:
            ServerError: the server does not tell of its requests; nothing changed.
            DeployctlError: see `Promote` and `Soak`.
        """
        before = self.soak.counts(request.reference.model)
        with ExitStack() as ended:
            journal = _Lasting(self.promote.context.journal, ended)
            promote = replace(self.promote, context=replace(self.promote.context, journal=journal))
            promotion = promote(request)
            if promotion.outcome == "serving":
                journal.enter(Phase.SOAK)
                self.soak(promotion, before, soak_s)
        return promotion


class _Lasting(OperationJournal):
    """A journal whose operation has not ended before `ended` is left, so that nobody waits for less."""

    def __init__(self, journal: OperationJournal, ended: ExitStack) -> None:
        self._journal = journal
        self._ended = ended
        self._running: RunningOperation | None = None

    @contextmanager
    def open(
        self, operation: str, request: OperationRequest, actor: str, *, first: Phase = Phase.LOCK
    ) -> Iterator[RunningOperation]:
        self._running = self._ended.enter_context(self._journal.open(operation, request, actor, first=first))
        yield self._running

    def enter(self, phase: Phase) -> None:
        """Writes that a phase of the operation begins."""
        if self._running is not None:
            self._running.enter(phase)

    def operations(self) -> tuple[OperationRecord, ...]:
        return self._journal.operations()

    def operation(self, operation: str) -> OperationRecord:
        return self._journal.operation(operation)

    def settle(self, operation: str, *, by: str) -> None:
        self._journal.settle(operation, by=by)


@dataclass(frozen=True, slots=True)
class Soak:
    """Watches what a server counts of its requests.

    No lock is held meanwhile: in an incident somebody must be able to act, and this then ends.
    """

    target: Target
    context: Context

    def counts(self, model: ModelName) -> RequestCounts:
        """Returns what the server has counted so far; to be asked before the promotion.

        Raises:
            ServerError: the server does not tell.
        """
        return self.target.runtime.request_counts(timeout_s=_TIMEOUT_S).get(model, RequestCounts())

    def __call__(self, promotion: Promotion, before: RequestCounts, soak_s: float) -> None:
        """Returns when the version has served for `soak_s` seconds no worse than what served before it.

        Args:
            promotion: what was promoted.
            before: what the server had counted when it was promoted; its averages are what is compared with.
            soak_s: for how long to watch.

        Raises:
            RestoredError: it did worse, and the revision before it serves again.
            DegradedError: it did worse, and the revision before it could not be restored.
        """
        start, seen = self._sample(promotion), RequestCounts()
        deadline = self.context.deadline(soak_s)
        while deadline.left_s() > 0:
            self.context.clock.pause(min(_SAMPLE_S, deadline.left_s()))
            current = self.target.current(promotion.model)
            if current is None or current.number != promotion.revision:
                if current is not None and current.reason.startswith(REASON):
                    raise _restored(promotion, current.reason.removeprefix(REASON), current)
                self.context.observer.warn(f"{promotion.model} was changed by somebody else; no longer watching")
                return
            counted = self._sample(promotion)
            if counted is None and self._is_stopped():
                self.context.observer.warn(f"{self.target.name} was stopped by somebody else; no longer watching")
                return
            start = start or counted
            if counted is None or start is None:
                continue
            seen = counted.since(start)
            problem = worse(before, seen)
            if problem is not None:
                raise self._restore(promotion, problem)
        words = f"{seen.total} requests, {seen.failed} failed" if seen.total else "nobody called"
        self.context.observer.step("soak", f"{format_duration(soak_s)}: {words}")

    def _sample(self, promotion: Promotion) -> RequestCounts | None:
        """Returns what the server has counted, None where that it does not tell says nothing of the version.

        Raises:
            RestoredError, DegradedError: the server is gone, and nobody has stopped it.
        """
        try:
            return self.counts(promotion.model)
        except ServerError as error:
            # Whoever is changing the server, or has stopped it, knows.
            if self.target.lock.leases() or self._is_stopped():
                return None
            if self.target.runtime.condition(timeout_s=_TIMEOUT_S) is ServerCondition.READY:
                return None
            raise self._restore(promotion, f"lost its server: {error}") from error

    def _is_stopped(self) -> bool:
        with suppress(DatabaseError):
            return self.target.lineage.running(self.target.name) is False
        return False

    def _restore(self, promotion: Promotion, problem: str) -> DeployctlError:
        name = f"{promotion.model}@{promotion.version}"
        self.context.observer.step("soak", f"{name} {problem}; going back")
        back = None
        try:
            back = take_back(self.target, self.context, promotion.model, promotion.revision, problem)
        except PreconditionError as error:
            current = self.target.current(promotion.model)
            if current is None or not current.reason.startswith(REASON):
                return error
        except DeployctlError as error:
            return DegradedError(
                f"{name} {problem}, and what served before could not be restored: {error}",
                hint=f"deployctl status {self.target.name}",
            )
        return _restored(promotion, problem, self.target.current(promotion.model), back)


def take_back(
    target: Target,
    context: Context,
    model: ModelName,
    revision: int | None,
    problem: str,
    *,
    soak_s: float = 0.0,
) -> RolledBack:
    """Returns a model to what served well before `revision`, unless somebody has changed it since.

    The `problem` of the version that serves is recorded; `soak_s` is for how many seconds a revision must have served
    to be returned to, if there is such a one.

    Raises:
        PreconditionError: `revision` is not the current one any more.
        DeployctlError: see `Rollback`.
    """
    request = RollbackRequest(
        model, reason=f"{REASON}{problem}", if_current=revision, label=_own_label(target.current(model))
    )
    return Rollback(replace(target, soak_s=max(target.soak_s, soak_s)), context)(request)


def taken_back(target: Target, revision: Revision) -> bool:
    """Whether somebody has tried already to take `revision`, which is the current one, back after a soak."""
    later = target.lineage.revisions(target.name, revision.model, limit=_LOOK_BACK)
    return any(each.number > revision.number and each.reason.startswith(REASON) for each in later)


def _own_label(revision: Revision | None) -> LabelName | None:
    """Returns the label that a promotion moved, None where a rollback without words undoes that by itself."""
    if revision is None:
        return None
    before = revision.before.labels
    moved = {label for label, version in revision.desired.labels.items() if before.get(label) != version}
    return None if moved & {STABLE, CANARY} else min(moved, default=None)


def _restored(
    promotion: Promotion, problem: str, revision: Revision | None, back: RolledBack | None = None
) -> RestoredError:
    name = f"{promotion.model}@{promotion.version}"
    version = revision.desired.labels.get(promotion.label) if revision else promotion.previous_version
    what = f"label {promotion.label}" if version is None else f"@{version}"
    if back is not None and back.outcome == "recorded":
        return RestoredError(
            f"{name} {problem}; {what} {'is gone' if version is None else 'serves'} once the server is up",
            hint=f"deployctl up {promotion.target}",
        )
    done = "was taken from it" if version is None else "was restored and verified"
    return RestoredError(f"{name} {problem}; {what} {done}", hint=f"deployctl logs {promotion.target} --since 1m")


def regression(before: RequestCounts, seen: RequestCounts) -> str | None:
    """Returns what `worse` does; where too little is known of `before`, whether most of what was `seen` failed."""
    if before.total >= _FEWEST:
        return worse(before, seen)
    if seen.total >= _FEWEST and seen.failed > seen.total * _MOST:
        return f"failed {seen.failed / seen.total:.1%} of {seen.total} requests"
    return None


def worse(before: RequestCounts, seen: RequestCounts) -> str | None:
    """Returns in which respect `seen` is worse than `before`, None where it is not, or too few requests were seen."""
    if seen.total < _FEWEST:
        return None
    usual = before.failed / before.total if before.total else 0.0
    rate = seen.failed / seen.total
    if rate > usual + _ERROR_MARGIN:
        return f"failed {rate:.1%} of {seen.total} requests, {usual:.1%} before"
    if before.timed < _FEWEST or seen.timed < _FEWEST:
        return None
    usual_s, mean_s = before.latency_s / before.timed, seen.latency_s / seen.timed
    if mean_s > usual_s * _LATENCY_FACTOR + _LATENCY_MARGIN_S:
        return f"took {mean_s * 1000:.1f} ms a request, {usual_s * 1000:.1f} ms before"
    return None
