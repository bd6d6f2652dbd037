from __future__ import annotations

from dataclasses import replace

import pytest

from deployctl.domain.event import EventKind
from deployctl.domain.occasion import Occasion, occasion, refusals
from deployctl.domain.revision import RevisionKind
from tests.support.lineage import noted, settled, validated


@pytest.mark.parametrize("kind", EventKind)
def test_every_kind_of_event_can_be_told_of_but_a_change_that_has_not_ended(kind: EventKind) -> None:
    event = replace(noted(kind), data={"gates": [{"gate": "ops", "outcome": "failed"}]})

    assert (occasion(event, None) is None) == (kind is EventKind.REVISION_PENDING)


def test_a_change_that_serves_is_told_by_its_verb() -> None:
    assert occasion(settled(), RevisionKind.PROMOTE) is Occasion.PROMOTED
    assert occasion(settled(), RevisionKind.ROLLBACK) is Occasion.ROLLED_BACK


def test_a_change_that_failed_tells_whether_what_was_before_serves_again() -> None:
    restored = settled(serving=False, evidence={"error": "it does not load", "restored": True})
    degraded = settled(serving=False, evidence={"error": "it does not load", "restore": "nor does the other"})

    assert occasion(restored, RevisionKind.PROMOTE) is Occasion.RESTORED
    assert occasion(degraded, RevisionKind.PROMOTE) is Occasion.FAILED


def test_gates_that_let_a_version_pass_are_no_occasion() -> None:
    assert occasion(validated("key"), None) is None


def test_what_an_advisory_gate_refuses_is_no_occasion() -> None:
    event = validated("key", "other")
    ops, contract = ({**each, "outcome": "failed"} for each in event.data["gates"])
    event = replace(event, data={**event.data, "gates": [{**ops, "gate": "ops"}, {**contract, "gate": "contract"}]})

    assert [each["gate"] for each in refusals(event, {"ops"})] == ["contract"]
    assert occasion(event, None, advisory={"ops"}) is Occasion.GATE_REFUSED
    assert occasion(event, None, advisory={"ops", "contract"}) is None
