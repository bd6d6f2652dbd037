"""Freezes, quarantines and what is owed after one of them was passed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from deployctl.domain.manifest import Manifest
from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.revision import BREAK_GLASS
from deployctl.errors import (
    FrozenError,
    ManifestError,
    NotFoundError,
    QuarantinedError,
    RevisionNotFoundError,
)
from deployctl.operations.holds import manifest_of
from deployctl.operations.publish import Publish, PublishRequest
from deployctl.operations.status import target_status
from deployctl.savedmodel.reader import ProtobufSavedModelReader
from tests.support.repository import SMALL_EXPORT, publish, write_export
from tests.support.serving import HALF_PLUS_TWO
from tests.support.world import HALF, LOCAL, World

RANKER = ModelName("ranker")


@pytest.fixture
def manifests(world: World, tmp_path: Path) -> dict[int, Manifest]:
    """Versions 4 to 6 of `half`, of different bytes, with manifests."""
    found = {}
    for version in (4, 5, 6):
        export = write_export(tmp_path / f"export-{version}", {**SMALL_EXPORT, "x": bytes([version])})
        found[version] = publish(world.repository, HALF, export).manifest
    return found


def test_a_frozen_target_takes_no_promotion_of_any_model_and_goes_on_serving(world: World) -> None:
    world.promote(1)
    world.holds.freeze(LOCAL, None, reason="holidays", expires_at=None)

    with pytest.raises(FrozenError, match="target local is frozen by ada@build-1: holidays") as raised:
        world.promote(2)

    assert raised.value.exit_code == 7
    assert raised.value.hint is not None
    assert raised.value.hint.startswith("deployctl unfreeze local ")
    assert world.recorded().labels == {"stable": 1}
    assert world.unsettled() == ()


def test_a_dry_run_tells_of_the_freeze(world: World) -> None:
    world.holds.freeze(LOCAL, None, reason="holidays", expires_at=None)

    with pytest.raises(FrozenError):
        world.promote(1, dry_run=True)


def test_a_freeze_of_one_model_holds_no_other(world: World) -> None:
    world.add(1, model=RANKER)
    world.holds.freeze(LOCAL, HALF, reason="audit", expires_at=None)

    world.promote(1, model=RANKER)
    with pytest.raises(FrozenError, match="half on local is frozen") as raised:
        world.promote(1)

    assert raised.value.hint is not None
    assert "unfreeze local --model half" in raised.value.hint


def test_a_rollback_is_allowed_on_a_frozen_target(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.holds.freeze(LOCAL, None, reason="holidays", expires_at=None)

    assert world.rollback().version == 1


def test_a_freeze_ends_by_itself_or_when_it_is_lifted(world: World) -> None:
    soon = world.clock.now() + timedelta(seconds=30)
    world.holds.freeze(LOCAL, None, reason="deploy window", expires_at=soon)
    with pytest.raises(FrozenError, match=r"until 20\d\d-"):
        world.promote(1)
    world.clock.pause(31)
    world.promote(1)

    world.holds.freeze(LOCAL, None, reason="again", expires_at=None)
    assert world.holds.unfreeze(LOCAL, None, reason="").reason == "again"
    world.promote(2)


def test_a_freeze_that_replaces_another_tells_which(world: World) -> None:
    tomorrow = world.clock.now() + timedelta(hours=24)
    world.holds.freeze(LOCAL, HALF, reason="audit", expires_at=tomorrow)
    world.holds.freeze(LOCAL, None, reason="holidays", expires_at=tomorrow)
    assert world.journal.warnings == []

    world.holds.freeze(LOCAL, None, reason="short", expires_at=world.clock.now() + timedelta(seconds=1))
    (warning,) = world.journal.warnings
    assert warning.startswith("this replaces: target local is frozen by ada@build-1 until 20")
    assert warning.endswith("holidays")

    world.clock.pause(2)
    world.holds.freeze(LOCAL, None, reason="after it ran out", expires_at=None)
    assert len(world.journal.warnings) == 1


def test_what_is_not_frozen_cannot_be_unfrozen(world: World) -> None:
    world.holds.freeze(LOCAL, HALF, reason="audit", expires_at=None)

    with pytest.raises(NotFoundError, match="target local is not frozen"):
        world.holds.unfreeze(LOCAL, None, reason="")


def test_a_ticket_passes_a_freeze_and_is_owed_a_review(world: World) -> None:
    world.holds.freeze(LOCAL, None, reason="holidays", expires_at=None)

    promotion = world.promote(1, break_glass="INC-7")

    revision = world.lineage.revisions(LOCAL, HALF, limit=1)[0]
    assert promotion.outcome == "serving"
    assert revision.evidence[BREAK_GLASS]["ticket"] == "INC-7"
    assert "holidays" in revision.evidence[BREAK_GLASS]["passed"][0]
    shown = target_status(world.target, world.context)
    assert [each.number for each in shown.models[0].unreviewed] == [1]
    assert [each.reason for each in shown.freezes] == ["holidays"]


def test_a_ticket_that_passed_nothing_is_owed_no_review(world: World) -> None:
    world.promote(1, break_glass="INC-7")

    with pytest.raises(RevisionNotFoundError, match="no change that waits for a review"):
        world.holds.review(LOCAL, HALF, reason="")


def test_where_nothing_is_owed_the_hint_is_a_command_that_works(world: World) -> None:
    world.promote(1)

    for model, hint in ((HALF, "deployctl history half --target local"), (RANKER, "deployctl status local")):
        with pytest.raises(RevisionNotFoundError) as raised:
            world.holds.review(LOCAL, model, reason="")
        assert raised.value.hint == hint


def test_a_review_settles_what_is_owed(world: World) -> None:
    world.holds.freeze(LOCAL, None, reason="holidays", expires_at=None)
    for version in (1, 2):
        world.promote(version, break_glass="INC-7")

    reviewed = world.holds.review(LOCAL, HALF, reason="looked at")

    assert [each.number for each in reviewed] == [2, 1]
    assert target_status(world.target, world.context).models[0].unreviewed == ()


def test_quarantined_bytes_are_promoted_under_no_number_and_no_ticket(
    world: World, manifests: dict[int, Manifest]
) -> None:
    world.holds.quarantine(manifests[5], reason="leaks names")

    with pytest.raises(
        QuarantinedError, match="half@5 is not to be served: sha256:.* by ada@build-1: leaks names"
    ) as raised:
        world.promote(5, break_glass="INC-7")

    assert raised.value.exit_code == 3
    assert world.promote(6).version == 6


def test_a_rollback_passes_over_quarantined_bytes_and_says_so(world: World, manifests: dict[int, Manifest]) -> None:
    for version in (4, 5, 6):
        world.promote(version)
    world.holds.quarantine(manifests[5], reason="leaks names")

    shown = target_status(world.target, world.context).models[0].rollback
    assert shown is not None
    assert shown.version == 4
    assert world.rollback().version == 4
    assert any(step.startswith("skipped @5") for step in world.journal.steps)


def test_a_rollback_that_names_quarantined_bytes_is_refused(world: World, manifests: dict[int, Manifest]) -> None:
    for version in (4, 5):
        world.promote(version)
    world.holds.quarantine(manifests[4], reason="leaks names")

    with pytest.raises(QuarantinedError):
        world.rollback(to_version=4)

    assert world.recorded().labels == {"stable": 5}


def test_what_serves_when_it_is_quarantined_serves_until_it_is_rolled_back(
    world: World, manifests: dict[int, Manifest]
) -> None:
    world.promote(4)
    world.promote(5)
    world.holds.quarantine(manifests[5], reason="leaks names")

    assert world.promote(5).outcome == "unchanged"
    assert world.rollback().version == 4


def test_released_bytes_may_serve_again(world: World, manifests: dict[int, Manifest]) -> None:
    world.holds.quarantine(manifests[5], reason="leaks names")

    world.holds.release(manifests[5], reason="it did not")

    assert world.promote(5).version == 5
    with pytest.raises(NotFoundError, match="half@5 is not in quarantine"):
        world.holds.release(manifests[5], reason="")


def test_quarantined_bytes_are_not_published_again(world: World) -> None:
    operation = Publish(world.repository, ProtobufSavedModelReader(), world.lineage, world.context)
    first = operation(PublishRequest(HALF_PLUS_TWO, RANKER))
    assert first.version is not None
    manifest = manifest_of(world.repository, RANKER, first.version)
    world.holds.quarantine(manifest, reason="leaks names")

    for model in (RANKER, HALF):
        with pytest.raises(QuarantinedError, match="leaks names"):
            operation(PublishRequest(HALF_PLUS_TWO, model, allow_duplicate=True))

    assert world.repository.versions(RANKER) == (first.version,)
    assert world.repository.leftovers() == ()


def test_a_version_without_a_manifest_cannot_be_quarantined(world: World) -> None:
    with pytest.raises(ManifestError, match="half@1 has no manifest") as raised:
        manifest_of(world.repository, HALF, VersionNumber(1))

    assert raised.value.hint == "deployctl adopt half"
