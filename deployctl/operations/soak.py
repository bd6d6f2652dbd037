"""Soak: a promoted version is watched for a while, and what served before it is restored where it does worse."""

from __future__ import annotations

from dataclasses import dataclass, replace

from deployctl.domain.duration import format_duration
from deployctl.domain.names import ModelName
from deployctl.domain.revision import Revision
from deployctl.errors import DegradedError, DeployctlError, PreconditionError, RestoredError
from deployctl.operations.context import Context
from deployctl.operations.promote import Promotion
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
        start = self.counts(promotion.model)
        deadline = self.context.deadline(soak_s)
        while deadline.left_s() > 0:
            self.context.clock.pause(min(_SAMPLE_S, deadline.left_s()))
            current = self.target.current(promotion.model)
            if current is None or current.number != promotion.revision:
                if current is not None and current.reason.startswith(REASON):
                    raise _restored(promotion, current.reason.removeprefix(REASON), current)
                self.context.observer.warn(f"{promotion.model} was changed by somebody else; no longer watching")
                return
            seen = self.counts(promotion.model).since(start)
            problem = worse(before, seen)
            if problem is not None:
                raise self._restore(promotion, problem)
        seen = self.counts(promotion.model).since(start)
        words = f"{seen.total} requests, {seen.failed} failed" if seen.total else "nobody called"
        self.context.observer.step("soak", f"{format_duration(soak_s)}: {words}")

    def _restore(self, promotion: Promotion, problem: str) -> DeployctlError:
        name = f"{promotion.model}@{promotion.version}"
        self.context.observer.step("soak", f"{name} {problem}; going back")
        try:
            take_back(self.target, self.context, promotion.model, promotion.revision, problem)
        except PreconditionError as error:
            current = self.target.current(promotion.model)
            if current is None or not current.reason.startswith(REASON):
                return error
        except DeployctlError as error:
            return DegradedError(
                f"{name} {problem}, and what served before could not be restored: {error}",
                hint=f"deployctl status {self.target.name}",
            )
        return _restored(promotion, problem, self.target.current(promotion.model))


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
    request = RollbackRequest(model, reason=f"{REASON}{problem}", if_current=revision)
    return Rollback(replace(target, soak_s=max(target.soak_s, soak_s)), context)(request)


def taken_back(target: Target, revision: Revision) -> bool:
    """Whether somebody has tried already to take `revision`, which is the current one, back after a soak."""
    later = target.lineage.revisions(target.name, revision.model, limit=_LOOK_BACK)
    return any(each.number > revision.number and each.reason.startswith(REASON) for each in later)


def _restored(promotion: Promotion, problem: str, back: Revision | None) -> RestoredError:
    name = f"{promotion.model}@{promotion.version}"
    version = back.desired.labels.get(promotion.label) if back else promotion.previous_version
    return RestoredError(
        f"{name} {problem}; @{version} was restored and verified",
        hint=f"deployctl logs {promotion.target} --since 1m",
    )


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
