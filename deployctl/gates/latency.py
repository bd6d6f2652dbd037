"""Gate: the version answers not much slower than the one that serves, measured side by side on one machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from deployctl.domain.clock import Clock
from deployctl.domain.golden import GoldenRecord
from deployctl.domain.names import ModelName
from deployctl.errors import InvalidRequestError
from deployctl.gates.golden import GoldenFile
from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict, Version
from deployctl.gates.scratch import ScratchServer, load_evidence
from deployctl.serving.interface import PredictionRequest, ServedSpec

_CALL_TIMEOUT_S = 60.0
_WARM_UP_CALLS = 3
# How often as many pairs are measured again before noise has the last word.
_ROUNDS = 3
_LONGEST_S = 60.0
# Of a normal distribution, for 95 %.
_QUANTILE = 1.96
_NOBODY = ServedSpec(ModelName("candidate"))


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of ratios, and an interval that holds the true median with 95 % confidence."""

    median: float
    low: float
    high: float


class LatencyGate(Gate):
    """Refuses a version that is slower than the serving one by more than a ratio; noise decides nothing.

    Args:
        golden: the requests that are asked, one after the other and from the start again; where the model has none,
            those that the version brings.
        max_ratio: the most that a call may take, in times of the serving version's.
        pairs: how many pairs of calls are measured at first.
    """

    name = "latency"
    compares = True
    runs = True
    reuse = Reuse.PASSED

    def __init__(
        self,
        scratch: ScratchServer,
        golden: GoldenFile,
        clock: Clock,
        *,
        max_ratio: float,
        pairs: int,
        timeout_s: float,
    ) -> None:
        self._scratch = scratch
        self._golden = golden
        self._requests: Sequence[GoldenRecord] = ()
        self._clock = clock
        self._max_ratio = max_ratio
        self._pairs = pairs
        self._timeout_s = timeout_s

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was configured with."""
        return {"max_ratio": self._max_ratio, "pairs": self._pairs, "requests": self._golden.digest}

    def judge(self, candidate: Candidate) -> Verdict:
        """Returns FAILED where the whole confidence interval of the ratio is above the limit."""
        serving = candidate.serving
        if serving is None or serving.name == candidate.version.name:
            return Verdict(Outcome.SKIPPED, "nothing else serves to compare with")
        try:
            golden = self._golden.of(candidate.version)
        except InvalidRequestError as error:
            return Verdict(Outcome.FAILED, str(error), (str(error),))
        self._requests = golden.records or ()
        if not self._requests:
            return Verdict(Outcome.SKIPPED, golden.absence)
        for version in (candidate.version, serving):
            load = self._scratch.load(version, timeout_s=self._timeout_s)
            if load.error:
                outcome = Outcome.FAILED if version is candidate.version else Outcome.INCONCLUSIVE
                words = f"{version.name} cannot be loaded: {load.error}"
                return Verdict(outcome, words, (words,))
        self._warm_up(candidate.version)
        try:
            self._warm_up(serving)
        except InvalidRequestError as error:
            return Verdict(Outcome.INCONCLUSIVE, f"{serving.name} does not answer the requests: {error}")
        return self._compare(candidate.version, serving)

    def take_over(self, candidate: Candidate, verdict: Verdict) -> None:
        """Keeps what loading took then: the gate `resources` judges by it."""
        self._scratch.remember(candidate.version, verdict.evidence)

    def _compare(self, new: Version, old: Version) -> Verdict:
        timed: list[tuple[float, float]] = []
        deadline, ratio = self._clock.monotonic() + _LONGEST_S, Ratio(1.0, 0.0, math.inf)
        for _ in range(_ROUNDS):
            timed += [self._pair(new, old, len(timed) + number) for number in range(self._pairs)]
            ratio = confident_ratio([mine / theirs for mine, theirs in timed])
            if self._outcome(ratio) is not Outcome.INCONCLUSIVE or self._clock.monotonic() > deadline:
                break
        outcome = self._outcome(ratio)
        ours, theirs = (median(pair[side] for pair in timed) for side in (0, 1))
        words = (
            f"{ratio.median:.2f} times as long as {old.name} ({ratio.low:.2f} to {ratio.high:.2f}), "
            f"{ours * 1e3:.2f} ms to {theirs * 1e3:.2f} ms; {self._max_ratio:g} is allowed"
        )
        evidence = {
            "ratio": ratio.median,
            "low": ratio.low,
            "high": ratio.high,
            "pairs": len(timed),
            "candidate_s": ours,
            "serving_s": theirs,
            **load_evidence(self._scratch.load(new, timeout_s=self._timeout_s)),
        }
        return Verdict(outcome, words, (words,) if outcome is Outcome.FAILED else (), evidence)

    def _warm_up(self, version: Version) -> None:
        for number in range(_WARM_UP_CALLS):
            self._seconds(version, number)

    def _outcome(self, ratio: Ratio) -> Outcome:
        if ratio.low > self._max_ratio:
            return Outcome.FAILED
        return Outcome.PASSED if ratio.high <= self._max_ratio else Outcome.INCONCLUSIVE

    def _pair(self, new: Version, old: Version, number: int) -> tuple[float, float]:
        # The order changes from pair to pair: what the first leaves in caches helps each as often.
        if number % 2:
            theirs = self._seconds(old, number)
            return self._seconds(new, number), theirs
        ours = self._seconds(new, number)
        return ours, self._seconds(old, number)

    def _seconds(self, version: Version, number: int) -> float:
        record = self._requests[number // 2 % len(self._requests)]
        request = PredictionRequest(_NOBODY, record.signature, record.instances, record.inputs)
        started = self._clock.monotonic()
        self._scratch.predict(version, request, grpc=False, timeout_s=_CALL_TIMEOUT_S)
        return self._clock.monotonic() - started


def confident_ratio(ratios: Sequence[float]) -> Ratio:
    """Returns the median of `ratios` with an interval by the sign test, which supposes no distribution."""
    ordered = sorted(ratios)
    reach = _QUANTILE * math.sqrt(len(ordered)) / 2
    low = max(0, math.floor(len(ordered) / 2 - reach))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + reach) - 1)
    return Ratio(median(ordered), ordered[low], ordered[max(high, low)])
