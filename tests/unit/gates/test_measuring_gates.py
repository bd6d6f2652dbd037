"""The gates that measure: latency by pairs of calls, resources by what is left."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deployctl.domain.golden import GoldenRecord
from deployctl.errors import InvalidRequestError
from deployctl.gates.golden import GoldenFile
from deployctl.gates.interface import Candidate, Outcome, Verdict, Version
from deployctl.gates.latency import LatencyGate, confident_ratio
from deployctl.gates.resources import Headroom, ResourcesGate
from deployctl.gates.scratch import Load, ScratchServer
from deployctl.serving.interface import Prediction, PredictionRequest
from tests.support.gates import version
from tests.support.memory_server import InMemoryServer, ManualClock
from tests.support.world import HALF

MB = 1_000_000


class TimedScratch(ScratchServer):
    """Loads everything at once, and takes as long to answer as it is told."""

    def __init__(self, clock: ManualClock, seconds: Callable[[str], float]) -> None:
        super().__init__(Path("/nonexistent"), lambda *_: InMemoryServer(clock), clock)
        self.calls: list[str] = []
        self._manual = clock
        self._seconds = seconds

    def load(self, version: Version, *, timeout_s: float) -> Load:
        return Load("", 0.1)

    def predict(self, version: Version, request: PredictionRequest, *, grpc: bool, timeout_s: float) -> Prediction:
        self.calls.append(version.name)
        self._manual.pause(self._seconds(version.name))
        return Prediction(None, [1.0])


def latency(seconds: Callable[[str], float], *, serving: str | None = "half@1") -> tuple[Verdict, TimedScratch]:
    clock = ManualClock()
    scratch = TimedScratch(clock, seconds)
    golden = GoldenFile("golden.jsonl", (GoldenRecord(inputs=[1.0]),))
    gate = LatencyGate(scratch, golden, clock, max_ratio=1.2, pairs=20, timeout_s=1.0)
    held = version(name=serving) if serving else None
    return gate.judge(Candidate(version(name="half@2"), HALF, held)), scratch


def test_a_serving_version_that_cannot_answer_decides_nothing() -> None:
    def refuse(name: str) -> float:
        if name == "half@1":
            raise InvalidRequestError("there is no input 'z'")
        return 0.01

    verdict, _ = latency(refuse)

    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.summary == "half@1 does not answer the requests: there is no input 'z'"


def test_a_verdict_on_latency_holds_for_the_same_requests_only() -> None:
    def settings(value: float) -> Mapping[str, Any]:
        golden = GoldenFile("golden.jsonl", (GoldenRecord(inputs=[value]),))
        scratch = TimedScratch(ManualClock(), lambda name: 0.01)
        return LatencyGate(scratch, golden, ManualClock(), max_ratio=1.2, pairs=20, timeout_s=1.0).settings

    assert settings(1.0) == settings(1.0)
    assert settings(1.0) != settings(2.0)


def noisy(ratio: float, spread: float, seed: int = 1) -> Callable[[str], float]:
    generator = random.Random(seed)
    return lambda name: 0.01 * (ratio if name == "half@2" else 1.0) * generator.uniform(1 - spread, 1 + spread)


@pytest.mark.parametrize(
    ("ratio", "outcome"), [(0.5, Outcome.PASSED), (1.0, Outcome.PASSED), (1.5, Outcome.FAILED), (9.0, Outcome.FAILED)]
)
def test_a_version_may_be_slower_by_the_ratio_and_no_more(ratio: float, outcome: Outcome) -> None:
    verdict, _ = latency(noisy(ratio, 0.05))
    assert verdict.outcome is outcome
    assert verdict.evidence["low"] <= ratio * 1.1
    assert verdict.evidence["high"] >= ratio * 0.9


def test_noise_that_is_larger_than_the_margin_decides_nothing_and_more_pairs_are_measured() -> None:
    verdict, scratch = latency(noisy(1.2, 0.5))
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.evidence["pairs"] == 60
    assert len(scratch.calls) == 2 * 60 + 6


def test_calls_are_made_in_turns_and_each_version_is_first_as_often() -> None:
    _, scratch = latency(noisy(1.0, 0.01))
    pairs = list(zip(scratch.calls[6::2], scratch.calls[7::2], strict=True))
    assert set(pairs) == {("half@1", "half@2"), ("half@2", "half@1")}
    assert pairs.count(("half@1", "half@2")) == len(pairs) // 2


def test_without_another_version_there_is_nothing_to_measure() -> None:
    assert latency(noisy(1.0, 0.1), serving=None)[0].outcome is Outcome.SKIPPED
    assert latency(noisy(1.0, 0.1), serving="half@2")[0].outcome is Outcome.SKIPPED


def test_the_interval_holds_the_true_ratio_nearly_always() -> None:
    generator = random.Random(4)
    held = 0
    for _ in range(400):
        found = confident_ratio([generator.lognormvariate(0.0, 0.3) for _ in range(40)])
        held += found.low <= 1.0 <= found.high
    assert held >= 0.93 * 400


def resources(tmp_path: Path, room: Headroom, load: Load | None = None, *, size: int = 10 * MB) -> Verdict:
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(size)
    return ResourcesGate(lambda: room, lambda _: load).judge(Candidate(version(path=tmp_path)))


@pytest.mark.parametrize(
    ("free", "outcome", "strategy"),
    [
        (20 * MB, Outcome.PASSED, "fits beside what is loaded"),
        (8 * MB, Outcome.FAILED, "fits once the standby versions are let go"),
        (3 * MB, Outcome.FAILED, "fits only in place of the live version"),
        (0, Outcome.FAILED, "fits in no way"),
    ],
)
def test_the_strategy_that_fits_is_named(tmp_path: Path, free: int, outcome: Outcome, strategy: str) -> None:
    verdict = resources(tmp_path, Headroom(free, "free", live=6 * MB, standby=5 * MB))
    assert verdict.outcome is outcome
    assert strategy in verdict.summary


def test_what_was_measured_counts_more_than_an_estimate(tmp_path: Path) -> None:
    load = Load("", 1.0, peak_bytes=400 * MB, before_bytes=300 * MB)
    verdict = resources(tmp_path, Headroom(50 * MB, "free"), load)
    assert verdict.outcome is Outcome.FAILED
    assert "100 MB of memory (measured)" in verdict.summary
    assert verdict.evidence["estimated_bytes"] == 12 * MB


def test_what_is_not_known_decides_nothing(tmp_path: Path) -> None:
    assert resources(tmp_path, Headroom(None, "somebody else's machine")).outcome is Outcome.INCONCLUSIVE
