"""The operation: verdicts are recorded, and reused for as long as what they were reached from is the same."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from deployctl.domain.event import EventKind
from deployctl.domain.names import VersionNumber
from deployctl.errors import GateRefusedError, MalformedSavedModelError, ServerError
from deployctl.gates.interface import Candidate, Gate, Outcome, Reuse, Verdict, Version
from deployctl.gates.ops import OpsGate
from deployctl.operations.candidate import against_target, of_export, of_version
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.operations.validate import Report, Validate, check_passed
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.gates import version
from tests.support.workspace import HALF_PLUS_THREE, HALF_PLUS_TWO
from tests.support.world import HALF, LOCAL, World

READER = ProtobufSavedModelReader()
_PATIENCE_S = 60.0


class CountingGate(Gate):
    """Says what it is told to, and counts."""

    name = "counting"

    def __init__(self, outcome: Outcome = Outcome.PASSED, **settings: Any) -> None:
        self.asked = 0
        self._outcome = outcome
        self._settings = settings

    @property
    def settings(self) -> Mapping[str, Any]:
        return self._settings

    def judge(self, candidate: Candidate) -> Verdict:
        self.asked += 1
        return Verdict(self._outcome, f"asked {self.asked} times", ("because",), {"number": math.nan})


class ComparingGate(CountingGate):
    name = "comparing"
    compares = True


class ForgetfulGate(CountingGate):
    name = "forgetful"
    reuse = Reuse.NEVER


class MeasuringGate(CountingGate):
    name = "measuring"
    reuse = Reuse.PASSED


class FailingGate(CountingGate):
    name = "failing"

    def judge(self, candidate: Candidate) -> Verdict:
        self.asked += 1
        raise ServerError("the scratch server is gone")


class BesideGate(CountingGate):
    """Ends once all that it is started with are judging, or when it is given up."""

    name = "beside"
    beside_others = True
    runs = True

    def __init__(self, together: Barrier, outcome: Outcome = Outcome.PASSED) -> None:
        super().__init__(outcome)
        self.together = together

    def judge(self, candidate: Candidate) -> Verdict:
        self.together.wait()
        return super().judge(candidate)

    def give_up(self) -> None:
        self.together.abort()


class InterruptedGate(BesideGate):
    def judge(self, candidate: Candidate) -> Verdict:
        raise KeyboardInterrupt


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Versions 1 and 2 of `half`, published, and nothing promoted."""
    world = World(tmp_path / "models")
    for export in (HALF_PLUS_TWO, HALF_PLUS_THREE):
        Publish(world.repository, READER, world.lineage, world.context)(PublishRequest(export, HALF))
    world.up()
    return world


def published(world: World, number: int) -> Version:
    return of_version(world.repository, READER, HALF, VersionNumber(number), world.journal)


def candidate(world: World, number: int, *, serving: int | None = None) -> Candidate:
    held = published(world, serving) if serving else None
    return Candidate(published(world, number), HALF, held, held)


def validate(world: World, gate: Gate, judged: Candidate, *, fresh: bool = False) -> Report:
    world.clock.pause(1.0)
    return Validate((gate,), world.lineage, world.context, target=LOCAL, fresh=fresh)(judged)


def test_a_verdict_holds_for_the_same_bytes_and_settings(world: World) -> None:
    first, second = CountingGate(limit=1), CountingGate(limit=1)

    validate(world, first, candidate(world, 1))
    report = validate(world, second, candidate(world, 1))

    assert second.asked == 0
    assert (report.results[0].reused, report.results[0].verdict.summary) == (True, "asked 1 times")


def test_other_bytes_or_settings_or_asking_afresh_are_judged_again(world: World) -> None:
    validate(world, CountingGate(limit=1), candidate(world, 1))
    for gate, judged, fresh in (
        (CountingGate(limit=2), candidate(world, 1), False),
        (CountingGate(limit=1), candidate(world, 2), False),
        (CountingGate(limit=1), candidate(world, 1), True),
    ):
        validate(world, gate, judged, fresh=fresh)
        assert gate.asked == 1


def test_only_what_compares_is_judged_again_when_another_version_serves(world: World) -> None:
    comparing, counting = ComparingGate(), CountingGate()
    for gate in (comparing, counting):
        validate(world, gate, candidate(world, 1))
        validate(world, gate, candidate(world, 1, serving=2))
        validate(world, gate, candidate(world, 1, serving=2))
    assert (comparing.asked, counting.asked) == (2, 1)


def test_which_ops_are_new_is_judged_again_when_another_version_serves(world: World) -> None:
    validate(world, OpsGate(), candidate(world, 2))
    alone = validate(world, OpsGate(), candidate(world, 2))
    held = validate(world, OpsGate(), candidate(world, 2, serving=1))
    assert (alone.results[0].reused, held.results[0].reused) == (True, False)


@pytest.mark.parametrize(
    ("gate", "asked"),
    [
        (CountingGate(Outcome.FAILED), 1),
        (CountingGate(Outcome.SKIPPED), 2),
        (CountingGate(Outcome.INCONCLUSIVE), 2),
        (MeasuringGate(Outcome.PASSED), 1),
        (MeasuringGate(Outcome.FAILED), 2),
        (ForgetfulGate(Outcome.PASSED), 2),
        (FailingGate(), 2),
    ],
    ids=["failed", "skipped", "inconclusive", "measured", "measured and failed", "files", "could not judge"],
)
def test_what_may_change_is_judged_again(world: World, gate: CountingGate, asked: int) -> None:
    for _ in range(2):
        validate(world, gate, candidate(world, 1))
    assert gate.asked == asked


def test_verdicts_are_recorded_with_evidence_and_duration(world: World) -> None:
    validate(world, CountingGate(Outcome.FAILED), candidate(world, 1))

    (event,) = world.lineage.history(model=HALF, target=LOCAL, limit=1)
    assert event.content.kind is EventKind.VERSION_VALIDATED
    assert event.content.data["version"] == 1
    (gate,) = event.content.data["gates"]
    assert (gate["gate"], gate["outcome"], gate["problems"]) == ("counting", "failed", ["because"])
    assert gate["evidence"] == {"number": "nan"}
    assert gate["duration_s"] >= 0


def test_nothing_is_recorded_where_nothing_new_was_judged(world: World) -> None:
    for _ in range(3):
        validate(world, CountingGate(), candidate(world, 1))
    events = [event for event in world.lineage.events() if event.content.kind is EventKind.VERSION_VALIDATED]
    assert len(events) == 1


def test_an_export_is_judged_and_nothing_is_recorded(world: World) -> None:
    before = world.lineage.folded_sequence()
    gate = CountingGate()
    for _ in range(2):
        validate(world, gate, Candidate(of_export(READER, HALF_PLUS_TWO)))
    assert gate.asked == 2
    assert world.lineage.folded_sequence() == before


def test_settings_and_evidence_that_are_no_json_values_are_recorded_as_text(world: World, tmp_path: Path) -> None:
    class PathGate(CountingGate):
        def judge(self, candidate: Candidate) -> Verdict:
            return dataclasses.replace(super().judge(candidate), evidence={"file": tmp_path, "names": {"b", "a"}})

    gate = PathGate(file=tmp_path)
    for _ in range(2):
        validate(world, gate, candidate(world, 1))

    (event,) = world.lineage.history(model=HALF, target=LOCAL, limit=1)
    assert event.content.data["gates"][0]["evidence"] == {"file": str(tmp_path), "names": ["a", "b"]}
    assert gate.asked == 1


def test_what_gates_say_is_kept_on_one_printable_line(world: World) -> None:
    class LoudGate(CountingGate):
        def judge(self, candidate: Candidate) -> Verdict:
            return Verdict(Outcome.PASSED, "ok\n\x1b[2J", ("line\r",))

    (result,) = validate(world, LoudGate(), candidate(world, 1)).results

    assert (result.verdict.summary, result.verdict.problems) == (r"ok\n\x1b[2J", (r"line\r",))


def test_settings_that_cannot_be_told_refuse(world: World) -> None:
    class UnsettledGate(CountingGate):
        @property
        def settings(self) -> Mapping[str, Any]:
            raise ValueError("no settings yet")

    report = validate(world, UnsettledGate(), candidate(world, 1))

    assert report.results[0].reason == "could not judge: ValueError: no settings yet"


def test_a_gate_that_cannot_judge_refuses(world: World) -> None:
    report = validate(world, FailingGate(), candidate(world, 1))
    with pytest.raises(GateRefusedError, match="gate failing: could not judge: the scratch server is gone"):
        check_passed(report, hint="deployctl doctor")


def test_every_gate_judges_and_the_first_reason_is_the_error(world: World) -> None:
    gates = (CountingGate(), FailingGate(), CountingGate(Outcome.FAILED, other=True))
    report = Validate(gates, world.lineage, world.context, target=LOCAL)(candidate(world, 2))
    assert [gate.asked for gate in gates] == [1, 1, 1]
    with pytest.raises(GateRefusedError, match=r"^half@2 is refused on local by the gate failing") as refused:
        check_passed(report, hint="deployctl show half@2")
    assert refused.value.exit_code == 3


def test_neighbours_judge_beside_each_other_and_none_waits_for_what_another_says(world: World) -> None:
    together = Barrier(3, timeout=_PATIENCE_S)
    beside = [BesideGate(together, outcome) for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.PASSED)]
    after = BesideGate(Barrier(1))
    gates = (CountingGate(), *beside, CountingGate(), after)

    report = Validate(gates, world.lineage, world.context, target=LOCAL)(candidate(world, 1))

    assert [each.gate for each in report.results] == ["counting", "beside", "beside", "beside", "counting", "beside"]
    assert [gate.asked for gate in gates] == [1, 1, 1, 1, 1, 0]
    assert report.results[-1].verdict.outcome is Outcome.SKIPPED


def test_an_interrupt_ends_what_judges_beside_it(world: World) -> None:
    together = Barrier(2, timeout=_PATIENCE_S)
    gates = (InterruptedGate(together), BesideGate(together))

    with pytest.raises(KeyboardInterrupt):
        Validate(gates, world.lineage, world.context, target=LOCAL)(candidate(world, 1))

    assert together.broken


def test_a_version_that_cannot_be_loaded_whole_is_not_shown_to_other_gates(world: World) -> None:
    gate = CountingGate()
    broken = dataclasses.replace(version(), problem=MalformedSavedModelError("half/1", "is not whole"))
    report = validate(world, gate, Candidate(broken))
    assert gate.asked == 0
    assert report.results[0].verdict.outcome is Outcome.SKIPPED


@pytest.fixture
def bare(tmp_path: Path) -> World:
    """Versions 1 and 2 of `half` without manifests, nothing promoted."""
    world = World(tmp_path / "bare")
    world.add(1, 2)
    world.up()
    return world


def held_against(world: World, number: int) -> tuple[str, str]:
    """Returns the names of what serves and of what a rollback would return to."""
    found = against_target(published(world, number), VersionNumber(number), HALF, world.target, READER, world.context)
    return (found.serving.name if found.serving else "", found.fallback.name if found.fallback else "")


def test_a_new_version_is_held_against_the_one_that_serves_both_ways(bare: World) -> None:
    assert held_against(bare, 1) == ("", "")
    bare.promote(1)
    assert held_against(bare, 2) == ("half@1", "half@1")


def test_the_version_that_serves_is_held_against_the_last_known_good(bare: World) -> None:
    bare.promote(1)
    assert held_against(bare, 1) == ("half@1", "")
    bare.promote(2)
    assert held_against(bare, 2) == ("half@2", "half@1")
