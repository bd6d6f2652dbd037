"""What is written of a rollback, and of the question whether it would work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployctl.cli.options import Output
from deployctl.cli.render import write, write_json
from deployctl.documents.rollouts import labelled_rollback_document
from deployctl.domain.duration import format_duration

if TYPE_CHECKING:
    from deployctl.operations.rollback import RolledBack
    from deployctl.operations.validate import Report


def show_rollback(result: RolledBack, *, spooled: bool, output: Output) -> None:
    """Writes the outcome of a rollback; `spooled` where the database does not have it yet."""
    if output is Output.JSON:
        write_json("rollback", labelled_rollback_document(result) | {"spooled": spooled})
    elif output is Output.NAME:
        write(f"{result.model}@{result.version}")
    else:
        write(_rollback_line(result, spooled=spooled))


def _rollback_line(result: RolledBack, *, spooled: bool) -> str:
    name, labels = f"{result.model}@{result.version}", _labels(result)
    if result.outcome == "planned":
        if result.version == result.previous_version:
            return f"{name} would go on serving stable on {result.target}{labels}"
        return f"{name} would serve stable on {result.target} instead of @{result.previous_version}{labels}"
    if result.outcome == "recorded":
        what = f"{name} is recorded as stable on {result.target}, whose server is down"
        return f"{what}{labels}   revision {result.revision}   deployctl up {result.target}"
    took = format_duration(result.duration_s)
    revision = f"revision {result.revision}{' (spooled)' if spooled else ''}"
    verb = "serves" if result.outcome == "serving" else "already serves"
    return f"{name} {verb} stable on {result.target}{labels}   {revision}   {took}"


def _labels(result: RolledBack) -> str:
    return "".join(f"   {each}" for each in result.labels)


def show_check(plan: RolledBack, report: Report, output: Output) -> None:
    """Writes whether a planned rollback would work.

    Raises:
        GateRefusedError: it would not.
    """
    from deployctl.documents.reports import report_document

    if output is Output.JSON:
        write_json("rollback-check", {"plan": labelled_rollback_document(plan), "report": report_document(report)})
    else:
        write_check(plan, report, output)
    check_would_work(plan, report)


def write_check(plan: RolledBack, report: Report, output: Output) -> None:
    """Writes for people, or as a name, whether a planned rollback would work."""
    from deployctl.cli.gate_reports import write_report

    if output is Output.NAME:
        write(f"{plan.model}@{plan.version}")
        return
    write_report(report)
    about = f", about {format_duration(plan.estimate_s)}" if plan.estimate_s is not None else ""
    if report.refusal is None:
        would = f"a rollback of {plan.model} on {plan.target} would go to @{plan.version}"
        write(f"{would}: {plan.rollout_class}{about}{_labels(plan)}")


def check_would_work(plan: RolledBack, report: Report) -> None:
    """Raises GateRefusedError where a planned rollback would not work."""
    from deployctl.operations.validate import check_passed

    check_passed(report, hint=f"deployctl history {plan.model} --target {plan.target}")
