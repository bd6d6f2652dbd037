"""What the gates said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deployctl.domain.json_values import finite

if TYPE_CHECKING:
    from deployctl.operations.validate import Judged, Report


def report_document(report: Report) -> dict[str, Any]:
    """Returns the report as JSON values."""
    refusal = report.refusal
    return {
        "subject": report.subject,
        "target": report.target,
        "serving": report.serving,
        "passed": refusal is None,
        "reason": f"{refusal.gate}: {why(refusal)}" if refusal else "",
        "duration_s": report.duration_s,
        "gates": [
            {
                "gate": each.gate,
                "outcome": each.verdict.outcome.value,
                "summary": each.verdict.summary,
                "problems": list(each.verdict.problems),
                "duration_s": each.duration_s,
                "reused": each.reused,
                "evidence": finite(each.verdict.evidence),
            }
            for each in report.results
        ],
    }


def why(judged: Judged) -> str:
    """Returns why a gate said what it did, in one sentence that may be written to a terminal."""
    return judged.reason
