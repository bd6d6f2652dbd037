"""Rollback of everything on a target: each model returns to what served at one moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from deployctl.domain.manifest import format_time
from deployctl.domain.names import ModelName
from deployctl.domain.revision import Revision, RevisionState
from deployctl.errors import DeployctlError, RevisionNotFoundError
from deployctl.operations.context import Context
from deployctl.operations.rollback import Rollback, RollbackRequest, RolledBack
from deployctl.operations.target import Target

_LOOK_BACK = 1000


@dataclass(frozen=True, slots=True)
class Returned:
    """What became of one model: `result`, or the `error` that kept it where it was; with neither, it did not serve."""

    model: ModelName
    result: RolledBack | None = None
    error: DeployctlError | None = None


@dataclass(frozen=True, slots=True)
class RollbackAll:
    """Returns every model on one target to the revision that served at a moment."""

    target: Target
    context: Context

    def __call__(
        self, before: datetime, *, reason: str = "", timeout_s: float = 300.0, dry_run: bool = False
    ) -> tuple[Returned, ...]:
        """Rolls back one model after another; one that fails keeps no other from returning.

        Raises:
            RevisionNotFoundError: nothing served then.
        """
        goals = {model: self._served_at(model, before) for model in self.target.recorded()}
        if not any(goals.values()):
            raise RevisionNotFoundError(
                f"nothing served on {self.target.name} at {format_time(before)[:19]}Z",
                hint=f"deployctl history --target {self.target.name}",
            )
        return tuple(
            self._return(number, model, goal, reason=reason, timeout_s=timeout_s, dry_run=dry_run)
            for number, (model, goal) in enumerate(sorted(goals.items()), start=1)
        )

    def _return(
        self, number: int, model: ModelName, goal: Revision | None, *, reason: str, timeout_s: float, dry_run: bool
    ) -> Returned:
        if goal is None:
            self.context.observer.warn(f"{model} did not serve then, and is left as it is")
            return Returned(model)
        # An operation of its own, which can be resumed or waited for like any other.
        context = replace(self.context, operation=f"{self.context.operation}-{number}")
        request = RollbackRequest(model, to_revision=goal.number, reason=reason, timeout_s=timeout_s, dry_run=dry_run)
        try:
            return Returned(model, Rollback(self.target, context)(request))
        except DeployctlError as error:
            self.context.observer.warn(f"{model}: {error}")
            return Returned(model, error=error)

    def _served_at(self, model: ModelName, moment: datetime) -> Revision | None:
        for revision in self.target.lineage.revisions(self.target.name, model, limit=_LOOK_BACK):
            if revision.state is RevisionState.SERVING and (revision.settled_at or revision.recorded_at) <= moment:
                return revision
        return None
