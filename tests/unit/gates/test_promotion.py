"""Gates in front of a promotion: what they refuse is not promoted, and what they said is recorded with what is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.reference import parse_reference
from deployctl.domain.revision import BREAK_GLASS
from deployctl.errors import FrozenError, GateRefusedError, PreconditionError
from deployctl.gates.interface import Outcome, Verdict
from deployctl.operations.holds import Holds
from deployctl.operations.promote import Promote, PromoteRequest, Promotion
from deployctl.operations.validate import Judged, Report
from tests.support.world import HALF, LOCAL, World


class Judge:
    """Says what it is told to of every version, and remembers which it was asked about."""

    def __init__(self, outcome: Outcome, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.asked: list[int] = []
        self._outcome = outcome
        self._meanwhile = meanwhile

    def __call__(self, model: ModelName, version: VersionNumber) -> Report:
        self.asked.append(version)
        self._meanwhile()
        verdict = Verdict(self._outcome, "1 op", ("op ReadFile is not to be run",))
        return Report(f"{model}@{version}", LOCAL, "", (Judged("ops", verdict, 0.1),), 0.1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path / "models")
    world.add(1, 2, 3)
    world.up()
    world.promote(1)
    return world


def promote(world: World, judge: Judge, version: int = 2, **more: object) -> Promotion:
    request = PromoteRequest(reference=parse_reference(f"half@{version}"), **more)  # type: ignore[arg-type]
    return Promote(world.target, world.context, judge)(request)


def test_what_a_gate_refuses_is_not_promoted_and_the_first_reason_is_told(world: World) -> None:
    sent = len(world.server.sent)
    with pytest.raises(GateRefusedError, match="half@2 is refused on local by the gate ops: op ReadFile") as refused:
        promote(world, Judge(Outcome.FAILED))
    assert refused.value.hint == "deployctl validate half@2 --target local"
    assert len(world.server.sent) == sent
    assert world.recorded().labels == {"stable": 1}


@pytest.mark.parametrize("outcome", [Outcome.PASSED, Outcome.SKIPPED, Outcome.INCONCLUSIVE])
def test_what_gates_said_is_recorded_with_the_promotion(world: World, outcome: Outcome) -> None:
    promote(world, Judge(outcome))
    (revision,) = world.lineage.revisions(LOCAL, HALF, limit=1)
    assert revision.evidence["gates"] == {"ops": f"{outcome.value}: 1 op"}


def test_under_a_ticket_gates_are_not_asked_and_that_is_recorded(world: World) -> None:
    judge = Judge(Outcome.FAILED)
    Holds(world.lineage, world.context).freeze(LOCAL, None, reason="holiday", expires_at=None)

    promote(world, judge, break_glass="INC-7")

    assert judge.asked == []
    (revision,) = world.lineage.revisions(LOCAL, HALF, limit=1)
    assert revision.evidence[BREAK_GLASS]["ticket"] == "INC-7"
    frozen, skipped = revision.evidence[BREAK_GLASS]["passed"]
    assert "holiday" in frozen
    assert skipped == "the gates were not asked"


def test_gates_are_not_asked_about_what_cannot_be_promoted_anyway(world: World) -> None:
    judge = Judge(Outcome.PASSED)
    with pytest.raises(PreconditionError):
        promote(world, judge, if_current=7)
    Holds(world.lineage, world.context).freeze(LOCAL, None, reason="holiday", expires_at=None)
    with pytest.raises(FrozenError):
        promote(world, judge)
    assert judge.asked == []


def test_what_serves_already_is_not_judged_again(world: World) -> None:
    judge = Judge(Outcome.FAILED)
    assert promote(world, judge, version=1).outcome == "unchanged"
    assert judge.asked == []


def test_nobody_waits_for_a_gate_that_takes_long(world: World) -> None:
    judge = Judge(Outcome.PASSED, meanwhile=lambda: world.promote(3))
    with pytest.raises(PreconditionError, match="changed while the gates judged half@2: @1 was live, and now @3 is"):
        promote(world, judge)
    assert world.recorded().labels == {"stable": 3}


def test_a_dry_run_asks_the_gates_too(world: World) -> None:
    with pytest.raises(GateRefusedError):
        promote(world, Judge(Outcome.FAILED), dry_run=True)
    assert promote(world, Judge(Outcome.PASSED), dry_run=True).outcome == "planned"


def test_what_an_advisory_gate_refuses_is_promoted_with_a_warning(world: World) -> None:
    judge = Judge(Outcome.FAILED)

    def advise(model: ModelName, version: VersionNumber) -> Report:
        return replace(judge(model, version), advisory=frozenset({"ops"}))

    promoted = Promote(world.target, world.context, advise)(PromoteRequest(parse_reference("half@2")))

    assert promoted.outcome == "serving"
    assert world.journal.warnings == ["the gate ops advises against half@2: op ReadFile is not to be run"]
    (revision,) = world.lineage.revisions(LOCAL, HALF, limit=1)
    assert revision.evidence["gates"] == {"ops": "failed: 1 op"}
