"""Gate: recorded requests are answered as they were, or as the serving version answers them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deployctl.domain.golden import (
    OWN_GOLDEN_PATH,
    Difference,
    GoldenRecord,
    Tolerance,
    columns,
    difference,
    not_finite,
    parse_golden,
)
from deployctl.domain.names import ModelName
from deployctl.domain.saved_model import DEFAULT_SIGNATURE
from deployctl.errors import DependencyError, InvalidRequestError, NotFoundError
from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict, Version
from deployctl.gates.ops import varying_ops
from deployctl.gates.scratch import Answering, load_evidence
from deployctl.serving.interface import PredictionRequest, ServedSpec

_CALL_TIMEOUT_S = 60.0
_SHOWN = 10
_WORST = 5
_NOBODY = ServedSpec(ModelName("candidate"))


@dataclass(frozen=True, slots=True)
class GoldenFile:
    """Golden records, and where they are.

    Attributes:
        path: "" where no model is named whose records they could be.
        records: None where there is no such file.
    """

    path: str
    records: tuple[GoldenRecord, ...] | None

    @property
    def digest(self) -> str:
        """A hash of what the records say."""
        lines = "\n".join(record.to_json() for record in self.records or ())
        return hashlib.sha256(lines.encode("utf-8", "backslashreplace")).hexdigest()

    @property
    def absence(self) -> str:
        """Why there are no records to judge by, as one sentence."""
        if not self.path:
            return "there are no golden requests without a model: --model NAME or --golden FILE says which"
        return f"there are no golden requests in {self.path}"

    def of(self, version: Version) -> GoldenFile:
        """Returns these records of the model, or the version's own where the model has none.

        Raises:
            InvalidRequestError: the version's own cannot be read.
        """
        file = version.path / OWN_GOLDEN_PATH
        if self.records is not None or not file.is_file():
            return self
        try:
            return GoldenFile(str(file), parse_golden(file.read_text(encoding="utf-8"), str(file)))
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"cannot read {file}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Compared:
    record: int
    output: str
    difference: Difference


class GoldenGate(Gate):
    """Refuses a version that answers golden requests wrongly.

    Where the model has no golden records, those that the version brings count.

    Args:
        against_live: whether the serving version's answers count, not the recorded ones.
        max_changed: the share of records that may differ from the serving version's answers.
    """

    name = "golden"
    runs = True
    reuse = Reuse.PASSED

    def __init__(
        self,
        scratch: Answering,
        golden: GoldenFile,
        *,
        tolerance: Tolerance,
        timeout_s: float,
        against_live: bool = False,
        max_changed: float = 0.0,
    ) -> None:
        self._scratch = scratch
        self._golden = golden
        self._tolerance = tolerance
        self._timeout_s = timeout_s
        self._against_live = against_live
        self._max_changed = max_changed
        self.compares = against_live

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with; records count by what they say."""
        return {
            "records": self._golden.digest,
            "rtol": self._tolerance.rtol,
            "atol": self._tolerance.atol,
            "against_live": self._against_live,
            "max_changed": self._max_changed,
        }

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED with one problem for each output that is wrong, the worst first."""
        try:
            golden, serving = self._golden.of(candidate.version), candidate.serving
        except InvalidRequestError as error:
            return Verdict(Outcome.FAILED, str(error), (str(error),))
        records = golden.records
        if not records:
            return Verdict(Outcome.SKIPPED, golden.absence)
        if self._against_live and serving is None:
            return Verdict(Outcome.SKIPPED, "nothing serves to compare with")
        against = serving if self._against_live else None
        for version in (candidate.version, *([against] if against else [])):
            load = self._scratch.load(version, timeout_s=self._timeout_s)
            if load.error:
                words = f"{version.name} cannot be loaded: {load.error}"
                return Verdict(Outcome.FAILED, words, (words,))
        varying = varying_ops(candidate.version.served) if candidate.version.served else []
        verdict = self._held(candidate.version, against, records, varying)
        load = self._scratch.load(candidate.version, timeout_s=self._timeout_s)
        return replace(verdict, evidence={**verdict.evidence, "varying": varying, **load_evidence(load)})

    def take_over(self, candidate: Candidate, verdict: Verdict) -> None:
        """Keeps what loading took then: the gate `resources` judges by it."""
        self._scratch.remember(candidate.version, verdict.evidence)

    def _held(
        self, version: Version, against: Version | None, records: Sequence[GoldenRecord], varying: Sequence[str]
    ) -> Verdict:
        """Returns the verdict on a version that is loaded, as is what it is held against, None for the records."""
        problems: list[str] = []
        compared: list[_Compared] = []
        apart: list[str] = []
        for number, record in enumerate(records, start=1):
            found = self._answer(version, record)
            if isinstance(found, str):
                problems.append(f"record {number}: {found}")
                continue
            problems += [f"record {number}: {words}" for words in _plain_problems(version, record, found)]
            if varying:
                apart.append(f"answers vary ({', '.join(varying)})")
                continue
            expected = self._answer(against, record) if against else record.outputs
            if isinstance(expected, str) and against:
                apart.append(f"{against.name} gave no answer: {expected}")
            elif not expected or isinstance(expected, str):
                apart.append("no answers are recorded")
            else:
                compared += self._compare(number, record, expected, found)
        return self._verdict(len(records), problems, compared, apart)

    def _answer(self, version: Version, record: GoldenRecord) -> dict[str, Any] | str:
        """Returns what the version answers by output, or why it does not."""
        signature = version.signatures.get(record.signature or DEFAULT_SIGNATURE)
        if signature is None:
            return f"there is no signature {record.signature or DEFAULT_SIGNATURE!r}"
        request = PredictionRequest(_NOBODY, record.signature, record.instances, record.inputs)
        try:
            prediction = self._scratch.predict(version, request, grpc=True, timeout_s=_CALL_TIMEOUT_S)
        except (InvalidRequestError, NotFoundError, DependencyError) as error:
            return str(error)
        return columns(prediction.outputs, rows=record.instances is not None, outputs=sorted(signature.outputs))

    def _compare(
        self, number: int, record: GoldenRecord, expected: Mapping[str, Any], found: Mapping[str, Any]
    ) -> Iterator[_Compared]:
        for output, value in sorted(expected.items()):
            if output not in found:
                yield _Compared(number, output, Difference("is absent"))
                continue
            tolerance = record.tolerance(output, self._tolerance)
            yield _Compared(number, output, difference(value, found[output], tolerance, record.comparison(output)))

    def _verdict(self, count: int, problems: list[str], compared: Sequence[_Compared], apart: Sequence[str]) -> Verdict:
        """Returns the verdict on `count` records; `apart` says of each that was only answered why it was."""
        wrong = [each for each in compared if each.difference.problem]
        wrong.sort(key=lambda each: -each.difference.max_abs)
        held, changed = len({each.record for each in compared}), len({each.record for each in wrong})
        evidence: dict[str, Any] = {"records": count, "compared": held, "changed": changed}
        evidence |= {"outputs": _by_output(compared), "worst": [_shown(each) for each in wrong[:_WORST]]}
        accepted = self._against_live and changed <= self._max_changed * held
        if not accepted:
            problems += [f"record {each.record}: output {each.output!r} {each.difference.problem}" for each in wrong]
        if problems:
            return Verdict(Outcome.FAILED, problems[0], tuple(problems[:_SHOWN]), evidence)
        why = "".join(f"; {number} not compared, since {reason}" for reason, number in Counter(apart).items())
        if not held:
            return Verdict(Outcome.INCONCLUSIVE, f"{count} records answered{why}", evidence=evidence)
        whose = "the serving version's answers" if self._against_live else "the recorded answers"
        some = f"{held} of {count} records" if apart else f"{count} records"
        words = f"{some}, {changed} differ from {whose}" if changed else f"{some} as {whose}"
        words += why + (_words(evidence["outputs"]) if self._against_live else "")
        return Verdict(Outcome.PASSED, words, evidence=evidence)


def _plain_problems(version: Version, record: GoldenRecord, found: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with an answer whatever was expected: numbers that are none, and other types than recorded."""
    signature = version.signatures[record.signature or DEFAULT_SIGNATURE]
    for output, value in sorted(found.items()):
        number = not_finite(value)
        if number is not None and not _expects_not_finite(record, output):
            yield f"output {output!r} holds {number}"
        dtype = signature.outputs[output].dtype if output in signature.outputs else ""
        if record.dtypes.get(output, dtype) != dtype:
            yield f"output {output!r} is {dtype}, not {record.dtypes[output]}"


def _expects_not_finite(record: GoldenRecord, output: str) -> bool:
    return record.outputs is not None and not_finite(record.outputs.get(output)) is not None


def _by_output(compared: Sequence[_Compared]) -> dict[str, dict[str, Any]]:
    """Returns largest and mean difference, and how often the first place agrees, by output."""
    found: dict[str, dict[str, Any]] = {}
    for output in sorted({each.output for each in compared}):
        of_it = [each.difference for each in compared if each.output == output]
        rows = sum(each.rows for each in of_it)
        found[output] = {
            "max_abs": max(each.max_abs for each in of_it),
            "mean_abs": sum(each.mean_abs for each in of_it) / len(of_it),
            "top1_agreement": sum(each.agreeing for each in of_it) / rows if rows else None,
        }
    return found


def _words(outputs: Mapping[str, Mapping[str, Any]]) -> str:
    words = ""
    for name, of_it in outputs.items():
        words += f"; {name} off by {of_it['max_abs']:.2g} at most, {of_it['mean_abs']:.2g} on average"
        if of_it["top1_agreement"] is not None:
            words += f", top 1 agrees in {of_it['top1_agreement']:.1%}"
    return words


def _shown(compared: _Compared) -> dict[str, Any]:
    return {
        "record": compared.record,
        "output": compared.output,
        "max_abs": compared.difference.max_abs,
        "problem": compared.difference.problem,
    }
