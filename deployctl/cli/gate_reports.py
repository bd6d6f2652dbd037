"""What the gates said, as a table, as JSON, and in the forms that CI systems read: JUnit and SARIF."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployctl import __version__
from deployctl.cli.render import style, write, write_table
from deployctl.documents.reports import why
from deployctl.domain.duration import format_duration
from deployctl.domain.printable import printable
from deployctl.errors import UsageError
from deployctl.gates.interface import Outcome

if TYPE_CHECKING:
    from deployctl.operations.validate import Judged, Report

_STYLES = {Outcome.PASSED: "green", Outcome.FAILED: "red", Outcome.INCONCLUSIVE: "yellow", Outcome.SKIPPED: "dim"}
# Beside controls and surrogates (https://www.w3.org/TR/xml/#charsets).
_NO_XML = "\ufffe\uffff"
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def write_report(report: Report) -> None:
    """Writes the report for people, the first failing reason on top."""
    refusal = report.refusal
    where = f" on {report.target}" if report.target else ""
    held = f"   held against {printable(report.serving)}" if report.serving else ""
    subject = printable(report.subject)
    if refusal is None:
        write(f"{subject}{where}   {style('passed', 'green', sys.stdout)}{held}")
    else:
        write(f"{subject}{where}   {style('refused', 'red', sys.stdout)} by {printable(refusal.gate)}: {why(refusal)}")
    rows = [
        (printable(each.gate), each.verdict.outcome.value, _took(each), printable(each.verdict.summary))
        for each in report.results
    ]
    write_table(("GATE", "OUTCOME", "TOOK", "SAYS"), rows)
    for each in report.results:
        for problem in each.verdict.problems:
            write(f"{style(printable(each.gate), _STYLES[each.verdict.outcome], sys.stdout)}: {printable(problem)}")


def _took(judged: Judged) -> str:
    return "earlier" if judged.reused else format_duration(judged.duration_s)


def junit(report: Report) -> str:
    """Returns the report as JUnit's XML: a test case for each gate."""
    outcomes = [each.verdict.outcome for each in report.results]
    failures, skipped = outcomes.count(Outcome.FAILED), len(outcomes) - outcomes.count(Outcome.FAILED)
    skipped -= outcomes.count(Outcome.PASSED)
    suite = f"name={_attribute(report.subject)} tests={_attribute(str(len(outcomes)))}"
    counts = f'failures="{failures}" errors="0" skipped="{skipped}" time="{report.duration_s:.3f}"'
    cases = "".join(_case(report, each) for each in report.results)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuite {suite} {counts}>\n{cases}</testsuite>\n'


def _case(report: Report, judged: Judged) -> str:
    opened = (
        f"  <testcase classname={_attribute(report.subject)} name={_attribute(judged.gate)} "
        f'time="{judged.duration_s:.3f}">'
    )
    verdict = judged.verdict
    match verdict.outcome:
        case Outcome.PASSED:
            inside = f"<system-out>{_text(verdict.summary)}</system-out>"
        case Outcome.FAILED:
            inside = f"<failure message={_attribute(why(judged))}>{_text(chr(10).join(verdict.problems))}</failure>"
        case Outcome.SKIPPED | Outcome.INCONCLUSIVE:
            inside = f"<skipped message={_attribute(f'{verdict.outcome.value}: {verdict.summary}')}/>"
    return f"{opened}{inside}</testcase>\n"


def _attribute(text: str) -> str:
    from xml.sax.saxutils import quoteattr

    return quoteattr(_allowed(text))


def _text(text: str) -> str:
    from xml.sax.saxutils import escape

    return escape(_allowed(text))


def _allowed(text: str) -> str:
    """Returns `text` without what XML 1.0 cannot hold, shown escaped."""
    return "".join(
        character
        if character in "\t\n"
        or (character >= " " and not "\ud800" <= character <= "\udfff" and character not in _NO_XML)
        else character.encode("unicode_escape").decode()
        for character in text
    )


def sarif(report: Report) -> dict[str, Any]:
    """Returns the report as a SARIF 2.1.0 log: a rule for each gate, a result for each problem."""
    rules = [
        {"id": each.gate, "name": each.gate, "shortDescription": {"text": f"gate {each.gate}"}}
        for each in report.results
    ]
    driver = {"name": "deployctl", "version": __version__, "rules": rules}
    results = [result for each in report.results for result in _sarif_results(report, each)]
    return {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _sarif_results(report: Report, judged: Judged) -> list[dict[str, Any]]:
    level = {Outcome.FAILED: "error", Outcome.INCONCLUSIVE: "warning"}.get(judged.verdict.outcome, "note")
    texts = judged.verdict.problems or ((judged.verdict.summary,) if level == "warning" else ())
    location = {"physicalLocation": {"artifactLocation": {"uri": _uri(report.subject)}}}
    return [
        {"ruleId": judged.gate, "level": level, "message": {"text": text}, "locations": [location]} for text in texts
    ]


def _uri(subject: str) -> str:
    """Returns a path, a version's name or an URL as an URI: what cannot stand in one is percent-encoded."""
    from urllib.parse import quote

    scheme, colon, rest = subject.partition("://")
    if not colon:
        scheme, rest = "", subject
    return scheme + colon + quote(rest, safe="/@", errors="surrogateescape")


def write_files(report: Report, *, junit_file: Path | None, sarif_file: Path | None) -> None:
    """Writes the forms that were asked for.

    Raises:
        UsageError: a file cannot be written.
    """
    forms = ((junit_file, junit), (sarif_file, lambda found: json.dumps(sarif(found), indent=1)))
    for file, form in forms:
        if file is not None:
            try:
                file.write_text(form(report), encoding="utf-8", errors="backslashreplace")
            except OSError as error:
                raise UsageError(f"cannot write {file}: {error.strerror}") from error
