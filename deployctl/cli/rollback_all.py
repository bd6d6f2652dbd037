"""Rollback of every model of a target, and the question whether that would work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deployctl.cli.options import Output
from deployctl.cli.render import write_json
from deployctl.cli.rollback_reports import check_would_work, show_rollback, write_check
from deployctl.documents.reports import report_document
from deployctl.documents.rollouts import labelled_rollback_document
from deployctl.domain.moment import parse_moment
from deployctl.errors import DeployctlError
from deployctl.operations.rollback_all import Returned, RollbackAll
from deployctl.validation import rollback_report

if TYPE_CHECKING:
    from deployctl.bootstrap import Deployment
    from deployctl.operations.rollback import RolledBack
    from deployctl.operations.target import Target
    from deployctl.operations.validate import Report

# Exit codes of which the worst is told, the worst last.
_SEVERITY = (1, 3, 9, 8, 7, 10, 4, 5, 6)


@dataclass(frozen=True, slots=True)
class AllWishes:
    """What the words of the command say.

    Attributes:
        before: the moment, as it was typed.
        timeout_s: the longest that each model may take to load.
    """

    before: str
    reason: str
    timeout_s: float
    dry_run: bool = False


def roll_all_back(deployment: Deployment, place: Target, wishes: AllWishes, output: Output) -> None:
    """Returns every model of a target to what served then, and writes what became of each.

    Raises:
        RevisionNotFoundError: nothing served then.
        DeployctlError: the worst of those that kept a model where it was.
    """
    returned = _returned(deployment, place, wishes, dry_run=wishes.dry_run)
    spooled = deployment.lineage.offline
    if output is Output.JSON:
        documents = [labelled_rollback_document(each.result) for each in returned if each.result]
        found = {"target": place.name, "models": documents, "failed": _failures(returned), "spooled": spooled}
        write_json("rollback-all", found)
    else:
        for each in returned:
            if each.result:
                show_rollback(each.result, spooled=spooled, output=output)
    _raise_worst([each.error for each in returned if each.error])


def check_all(deployment: Deployment, place: Target, wishes: AllWishes, output: Output) -> None:
    """Proves for every model of a target whether it could return to what served then, and changes nothing.

    Raises:
        RevisionNotFoundError: nothing served then.
        DeployctlError: the worst of those that would keep a model where it is.
    """
    returned = _returned(deployment, place, wishes, dry_run=True)
    judged, failed = _judged(deployment, returned)
    if output is Output.JSON:
        checks = [
            {"plan": labelled_rollback_document(plan), "report": report_document(report)} for plan, report in judged
        ]
        write_json("rollback-all-check", {"target": place.name, "models": checks, "failed": _failures(failed)})
    else:
        for plan, report in judged:
            write_check(plan, report, output)
    _raise_worst([each.error for each in failed if each.error] + _refusals(judged))


def _returned(deployment: Deployment, place: Target, wishes: AllWishes, *, dry_run: bool) -> Sequence[Returned]:
    moment = parse_moment(wishes.before, deployment.context.clock.now())
    everything = RollbackAll(place, deployment.context)
    return everything(moment, reason=wishes.reason, timeout_s=wishes.timeout_s, dry_run=dry_run)


def _judged(
    deployment: Deployment, returned: Sequence[Returned]
) -> tuple[list[tuple[RolledBack, Report]], list[Returned]]:
    """Returns each plan with what the gates say of it, and the models that could not be planned or judged."""
    judged, failed = [], []
    for each in returned:
        if each.result is None:
            failed += [each] if each.error else []
            continue
        try:
            judged.append((each.result, rollback_report(deployment, each.result)))
        except DeployctlError as error:
            # One that cannot be judged keeps no other from it.
            deployment.context.observer.warn(f"{each.model}: {error}")
            failed.append(Returned(each.model, error=error))
    return judged, failed


def _refusals(judged: Sequence[tuple[RolledBack, Report]]) -> list[DeployctlError]:
    found: list[DeployctlError] = []
    for plan, report in judged:
        try:
            check_would_work(plan, report)
        except DeployctlError as error:
            found.append(error)
    return found


def _failures(returned: Sequence[Returned]) -> list[dict[str, Any]]:
    return [{"model": each.model, "error": str(each.error)} for each in returned if each.error]


def _raise_worst(errors: Sequence[DeployctlError]) -> None:
    if errors:
        raise max(errors, key=lambda error: _SEVERITY.index(error.exit_code) if error.exit_code in _SEVERITY else 0)
