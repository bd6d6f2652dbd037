"""Whether gates let a version be promoted; asked before the lock is taken, so that no rollback waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployctl.domain.names import ModelName, TargetName, VersionNumber
from deployctl.domain.revision import BREAK_GLASS
from deployctl.errors import PreconditionError
from deployctl.operations.context import Context
from deployctl.operations.validate import Judged, Report, check_passed

# Judges a version of a model against what serves now.
Judge = Callable[[ModelName, VersionNumber], Report]
GATES_SKIPPED = "the gates were not asked"


@dataclass(frozen=True, slots=True)
class Admission:
    """A version that may be promoted, as long as the same version is live as when it was judged.

    Attributes:
        live: what clients reached then, None for nothing.
        evidence: what is recorded with the promotion, as JSON values.
    """

    version: VersionNumber
    live: VersionNumber | None
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def check_current(
        self, target: TargetName, model: ModelName, version: VersionNumber, live: VersionNumber | None
    ) -> None:
        """Raises PreconditionError where another version is meant or live now."""
        if (version, live) == (self.version, self.live):
            return
        was, now = (f"@{each}" if each is not None else "nothing" for each in (self.live, live))
        what = f"{was} was live, and now {now} is" if live != self.live else f"@{version} is meant, not @{self.version}"
        raise PreconditionError(
            f"{model} on {target} changed while the gates judged {model}@{self.version}: {what}",
            hint=f"deployctl promote {model}@{self.version} --target {target}",
        )


def admit(
    judge: Judge | None,
    context: Context,
    target: TargetName,
    *,
    model: ModelName,
    version: VersionNumber,
    live: VersionNumber | None,
    ticket: str,
) -> Admission:
    """Returns the admission of a version; under a ticket, gates are not asked, and that is evidence.

    Raises:
        GateRefusedError: a gate refused it.
    """
    if judge is None:
        return Admission(version, live)
    if ticket:
        context.observer.warn(f"{GATES_SKIPPED}, under {ticket}")
        return Admission(version, live, {BREAK_GLASS: {"ticket": ticket, "passed": [GATES_SKIPPED]}})
    report = judge(model, version)
    check_passed(report, hint=f"deployctl validate {report.subject} --target {target}")
    context.observer.step("gates", ", ".join(map(_words, report.results)))
    for each in report.advice:
        context.observer.warn(f"the gate {each.gate} advises against {report.subject}: {each.reason}")
    return Admission(version, live, {"gates": report.evidence()})


def _words(judged: Judged) -> str:
    verdict = judged.verdict
    # What passed with problems was allowed to, which should be seen.
    return f"{judged.gate} {verdict.summary if verdict.problems else verdict.outcome.value}"
