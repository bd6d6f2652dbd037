"""Validate: the gates of a target judge a version; what they say is recorded, and reused while it holds."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

from deployctl import __version__
from deployctl.domain.event import EventKind
from deployctl.domain.json_values import finite
from deployctl.domain.names import TargetName
from deployctl.domain.printable import printable
from deployctl.errors import DeployctlError, GateRefusedError
from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict
from deployctl.gates.third_party import told
from deployctl.lineage.interface import LineageStore
from deployctl.operations.context import Context

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Judged:
    """One gate's result.

    Attributes:
        duration_s: what judging took, at the time when it was done.
        reused: whether the verdict is an earlier one, which still holds.
        error: whether the gate could not judge, for the reason that its verdict tells.
    """

    gate: str
    verdict: Verdict
    duration_s: float
    reused: bool = False
    error: bool = False

    @property
    def reason(self) -> str:
        """Why it refused, in one sentence that may be written to a terminal."""
        return printable(self.verdict.problems[0] if self.verdict.problems else self.verdict.summary)


@dataclass(frozen=True, slots=True)
class Report:
    """What the gates said.

    Attributes:
        subject: "digits@3", or an export's path.
        target: None where no target was meant.
        serving: what it was held against, "" for nothing.
        results: in the gates' order.
        advisory: gates whose refusal keeps nothing from being promoted.
    """

    subject: str
    target: TargetName | None
    serving: str
    results: tuple[Judged, ...]
    duration_s: float
    advisory: frozenset[str] = frozenset()

    @property
    def refusal(self) -> Judged | None:
        """The first gate that refused and is not advisory, None where the version may pass."""
        return next((each for each in self._refusals() if each.gate not in self.advisory), None)

    @property
    def advice(self) -> tuple[Judged, ...]:
        """The advisory gates that refused."""
        return tuple(each for each in self._refusals() if each.gate in self.advisory)

    def _refusals(self) -> Iterator[Judged]:
        return (each for each in self.results if each.verdict.outcome is Outcome.FAILED)

    def evidence(self) -> dict[str, Any]:
        """Returns what of the report is recorded with a promotion, as JSON values."""
        return {each.gate: f"{each.verdict.outcome.value}: {each.verdict.summary}" for each in self.results}


@dataclass(frozen=True, slots=True)
class Validate:
    """Runs gates.

    Attributes:
        gates: in the order in which they judge; those that only look do so also after one refused.
        lineage: where verdicts are recorded and looked up; None for neither.
        fresh: whether earlier verdicts count for nothing.
    """

    gates: Sequence[Gate]
    lineage: LineageStore | None
    context: Context
    target: TargetName | None = None
    fresh: bool = False

    def __call__(self, candidate: Candidate) -> Report:
        """Judges and returns the report; verdicts on a published version are recorded.

        Raises:
            DatabaseError: the verdicts cannot be looked up or recorded.
        """
        started = self.context.clock.monotonic()
        results: list[Judged] = []
        for gates in _side_by_side(self.gates):
            results += self._judge_all(gates, candidate, results)
        self._record(candidate, results)
        serving = candidate.serving.name if candidate.serving else ""
        duration_s = self.context.clock.monotonic() - started
        return Report(candidate.version.name, self.target, serving, tuple(results), duration_s)

    def _judge_all(self, gates: Sequence[Gate], candidate: Candidate, before: Sequence[Judged]) -> list[Judged]:
        """Returns the results of gates that judge beside each other, in their order."""
        refused = next((each for each in before if each.verdict.outcome is Outcome.FAILED), None)
        known: dict[int, Judged] = {}
        for place, gate in enumerate(gates):
            if gate.runs and refused is not None:
                verdict = Verdict(Outcome.SKIPPED, f"not run, since {refused.gate} refused the version")
                known[place] = Judged(gate.name, verdict, 0.0)
            elif earlier := self._earlier(gate, candidate):
                known[place] = earlier
        asked = [place for place in range(len(gates)) if place not in known]
        judged = self._together([gates[place] for place in asked], candidate)
        known |= dict(zip(asked, judged, strict=True))
        return [known[place] for place in range(len(gates))]

    def _together(self, gates: Sequence[Gate], candidate: Candidate) -> list[Judged]:
        if len(gates) < 2:
            return [self._judge(gate, candidate) for gate in gates]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(len(gates), thread_name_prefix="gate") as threads:
            try:
                return list(threads.map(lambda gate: self._judge(gate, candidate), gates))
            except BaseException:
                # Leaving the block waits for all of them.
                for gate in gates:
                    gate.give_up()
                raise

    def _judge(self, gate: Gate, candidate: Candidate) -> Judged:
        problem = candidate.version.problem
        if gate.needs_whole and problem is not None:
            return Judged(gate.name, Verdict(Outcome.SKIPPED, "the version cannot be loaded whole"), 0.0)
        started = self.context.clock.monotonic()
        try:
            # The key is made of the gate's settings, which are its own words, too.
            verdict_key(gate, candidate)
            verdict, error = _checked(gate.judge(candidate)), False
        except DeployctlError as failure:
            verdict, error = _unable(str(failure)), True
        # A gate of another package may raise anything; SystemExit(0) would end the command as if all had passed.
        except (Exception, SystemExit) as failure:  # noqa: BLE001
            logger.debug("the gate %s could not judge %s", gate.name, candidate.version.name, exc_info=True)
            verdict, error = _unable(told(failure)), True
        return Judged(gate.name, verdict, self.context.clock.monotonic() - started, error=error)

    def _earlier(self, gate: Gate, candidate: Candidate) -> Judged | None:
        if self.lineage is None or self.fresh or gate.reuse is Reuse.NEVER:
            return None
        try:
            key = verdict_key(gate, candidate)
        except (Exception, SystemExit):  # noqa: BLE001 - judging it then tells why
            return None
        if key is None:
            return None
        record = self.lineage.verdict(key)
        reusable = {Outcome.PASSED.value} | ({Outcome.FAILED.value} if gate.reuse is Reuse.ALWAYS else set())
        if record is None or record.outcome not in reusable:
            return None
        verdict = Verdict(Outcome(record.outcome), record.summary, record.problems, record.evidence)
        gate.take_over(candidate, verdict)
        return Judged(gate.name, verdict, record.duration_s, reused=True)

    def _record(self, candidate: Candidate, results: Sequence[Judged]) -> None:
        version = candidate.version
        if self.lineage is None or version.manifest is None:
            return
        model, number = version.manifest.model, version.manifest.version
        documents = [
            _document(gate, candidate, judged, self.context.operation)
            for gate, judged in zip(self.gates, results, strict=True)
            if not judged.reused
        ]
        if not documents:
            return
        data = {"version": number, "digest": version.manifest.digest, "gates": documents}
        event = self.context.event(EventKind.VERSION_VALIDATED, model=model, target=self.target, data=data)
        with self.lineage.transaction() as transaction:
            transaction.append(event)


def _unable(why: str) -> Verdict:
    words = printable(f"could not judge: {why}")
    return Verdict(Outcome.FAILED, words, (words,))


def _checked(verdict: Verdict) -> Verdict:
    """Returns what a gate said, with words and evidence of the types that are recorded.

    Raises:
        TypeError: it is no verdict.
    """
    if not isinstance(verdict, Verdict) or not isinstance(verdict.outcome, Outcome):
        raise TypeError(f"it returned {verdict!r}, which is no verdict")
    summary, given = printable(str(verdict.summary)), cast(Any, verdict.problems)
    problems = tuple(printable(str(each)) for each in ((given,) if isinstance(given, str) else given))
    if verdict.outcome is Outcome.FAILED and not problems:
        problems = (summary,)
    return Verdict(verdict.outcome, summary, problems, finite(dict(verdict.evidence)))


def _side_by_side(gates: Sequence[Gate]) -> Iterator[Sequence[Gate]]:
    """Parts gates into those that judge one after the other, and neighbours that judge beside each other."""
    for beside, group in groupby(gates, lambda gate: gate.beside_others):
        members = tuple(group)
        yield from [members] if beside else [(each,) for each in members]


def verdict_key(gate: Gate, candidate: Candidate) -> str | None:
    """Returns what a verdict holds for as one hash, None where something of it has no digest."""
    compared = (candidate.serving, candidate.fallback) if gate.compares else ()
    versions = [candidate.version, *(each for each in compared if each is not None)]
    if any(each.digest is None for each in versions):
        return None
    document = {
        "gate": f"{type(gate).__module__}:{gate.name}",
        "deployctl": __version__,
        "settings": finite(dict(gate.settings)),
        "digest": candidate.version.digest,
        "compared": [each.digest if each else None for each in compared],
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def check_passed(report: Report, *, hint: str) -> None:
    """Raises GateRefusedError, with the first reason and `hint`, where a gate refused."""
    refusal = report.refusal
    if refusal is None:
        return
    where = f" on {report.target}" if report.target else ""
    words = f"{report.subject} is refused{where} by the gate {refusal.gate}: {refusal.reason}"
    raise GateRefusedError(printable(words), hint=hint)


def _document(gate: Gate, candidate: Candidate, judged: Judged, operation: str) -> dict[str, Any]:
    key = None if judged.error else verdict_key(gate, candidate)
    # What must not be found again has a key that nothing asks for.
    unique = hashlib.sha256(f"{operation} {judged.gate}".encode()).hexdigest()
    return {
        "key": key or unique,
        "gate": judged.gate,
        "outcome": judged.verdict.outcome.value,
        "summary": judged.verdict.summary,
        "problems": list(judged.verdict.problems),
        "duration_s": judged.duration_s,
        "evidence": finite(judged.verdict.evidence),
    }
