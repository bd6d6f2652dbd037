"""What a rollback makes of the labels other than stable, and of versions that may not or cannot be served."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deployctl.domain.manifest import Manifest
from deployctl.domain.names import CANARY, STABLE, LabelName, VersionNumber
from deployctl.domain.operation import OperationRequest
from deployctl.domain.revision import Desired, RevisionKind, Routing
from deployctl.domain.transition import LabelChange
from deployctl.errors import RestoredError, StorageError
from deployctl.operations.leased import leased
from deployctl.operations.rollout import Change, Rollout, RolloutClass
from deployctl.operations.status import target_status
from tests.support.repository import SMALL_EXPORT, publish, write_export
from tests.support.world import HALF, LOCAL, World

BLUE = LabelName("blue")


@pytest.fixture
def manifests(world: World, tmp_path: Path) -> dict[int, Manifest]:
    """Versions 4 to 6 of `half`, of different bytes, with manifests."""
    found = {}
    for version in (4, 5, 6):
        export = write_export(tmp_path / f"export-{version}", {**SMALL_EXPORT, "x": bytes([version])})
        found[version] = publish(world.repository, HALF, export).manifest
    return found


def change(label: str, before: int | None, after: int | None, reason: str = "") -> LabelChange:
    versions = [None if each is None else VersionNumber(each) for each in (before, after)]
    return LabelChange(LabelName(label), versions[0], versions[1], reason)


def test_a_label_that_the_revision_does_not_know_stays_where_it_is(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.promote(2, label="blue")

    result = world.rollback()

    assert world.server.labels(HALF) == {"stable": 1, "blue": 2}
    assert result.labels == ()


def test_a_label_that_the_revision_has_elsewhere_goes_there_and_that_is_told_before(world: World) -> None:
    world.promote(1)
    world.promote(1, label="blue")
    world.promote(2)
    world.promote(2, label="blue")

    planned = world.rollback(to_revision=2, dry_run=True)
    world.journal.steps.clear()
    result = world.rollback(to_revision=2)

    assert world.server.labels(HALF) == {"stable": 1, "blue": 1}
    assert planned.labels == result.labels == (change("blue", 2, 1),)
    assert world.journal.steps[0].endswith(", blue @2 -> @1")


def test_undoing_a_canary_leaves_every_other_label_alone(world: World) -> None:
    world.promote(1)
    world.promote(1, label="blue")
    world.promote(2, label="canary")
    world.promote(3, label="shadow")
    world.promote(3, label="blue")

    result = world.rollback()

    assert world.server.labels(HALF) == {"stable": 1, "shadow": 3, "blue": 3}
    assert result.labels == (change("canary", 2, None),)
    assert result.undone_canary == 2


def test_a_rollback_to_a_revision_that_is_named_goes_there_although_there_is_a_canary(world: World) -> None:
    world.promote(1)
    world.promote(1, label="blue")
    world.promote(2, label="blue")
    world.promote(3, label="canary")

    result = world.rollback(to_revision=2)

    assert world.server.labels(HALF) == {"stable": 1, "blue": 1}
    assert result.labels == (change("blue", 2, 1), change("canary", 3, None))


def test_a_second_rollback_after_a_canary_was_undone_keeps_the_labels_too(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.promote(3, label="shadow")
    world.promote(3, label="canary")
    world.rollback()

    assert world.rollback().version == 1
    assert world.server.labels(HALF) == {"stable": 1, "shadow": 3}


def test_undoing_a_canary_keeps_what_a_rollback_would_return_to_loaded(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.promote(3, label="canary")

    world.rollback()

    assert world.recorded() == Desired((VersionNumber(1), VersionNumber(2)), {STABLE: VersionNumber(2)})
    told = target_status(world.target, world.context).models[0].rollback
    assert told is not None
    assert (told.version, told.rollout_class) == (1, RolloutClass.HOT)


def test_a_label_does_not_return_to_quarantined_bytes(world: World, manifests: dict[int, Manifest]) -> None:
    world.promote(1)
    world.promote(4, label="blue")
    world.promote(2)
    world.promote(2, label="blue")
    world.holds.quarantine(manifests[4], reason="wrong answers")

    result = world.rollback(to_revision=2)

    assert world.server.labels(HALF) == {"stable": 1, "blue": 2}
    assert [(each.label, each.before, each.after) for each in result.labels] == [("blue", 2, 2)]
    assert result.labels[0].reason.startswith("@4: sha256:")
    assert "label blue stays @2, since half@4: sha256:" in world.journal.warnings[-1]
    assert world.server.available(HALF) == {1, 2}


def test_a_canary_does_not_return_to_quarantined_bytes(world: World, manifests: dict[int, Manifest]) -> None:
    world.promote(1)
    world.promote(4, label="canary")
    world.rollback()
    world.promote(3)
    world.holds.quarantine(manifests[4], reason="wrong answers")

    planned = world.rollback(to_revision=2, dry_run=True)
    result = world.rollback(to_revision=2)

    assert world.server.labels(HALF) == {"stable": 1}
    assert str(planned.labels[0]) == str(result.labels[0]) == "canary not restored"
    assert 4 not in world.server.available(HALF)


def test_a_rollback_ends_the_service_of_quarantined_bytes_under_every_label(
    world: World, manifests: dict[int, Manifest]
) -> None:
    world.promote(1)
    world.promote(4)
    world.promote(4, label="blue")
    world.holds.quarantine(manifests[4], reason="wrong answers")

    result = world.rollback()

    assert world.server.labels(HALF) == {"stable": 1}
    assert world.server.available(HALF) == {1}
    assert [(each.label, each.before, each.after) for each in result.labels] == [("blue", 4, None)]
    assert world.recorded().versions == (1,)


def test_quarantined_bytes_do_not_stand_by_after_a_promotion(world: World, manifests: dict[int, Manifest]) -> None:
    world.promote(1)
    world.promote(4)
    world.holds.quarantine(manifests[4], reason="wrong answers")

    assert world.promote(5).standby == (1,)


def test_a_label_does_not_return_to_a_version_that_is_gone(world: World) -> None:
    world.promote(1)
    world.promote(3, label="canary")
    world.rollback()
    world.promote(2)
    shutil.rmtree(world.directory / HALF / "3")
    began = world.clock.seconds

    result = world.rollback(to_revision=2)

    assert world.server.labels(HALF) == {"stable": 1}
    assert result.labels == (change("canary", None, None, "@3: its directory is gone"),)
    assert world.clock.seconds < began + 5


def test_with_routing_latest_a_label_above_the_live_version_goes_and_is_told(tmp_path: Path) -> None:
    world = World(tmp_path / "latest", routing=Routing.LATEST)
    world.add(1, 2)
    world.up()
    world.promote(1)
    world.promote(2)
    world.promote(2, label="blue")

    result = world.rollback()

    assert world.server.available(HALF) == {1}
    assert result.labels == (change("blue", 2, None, "@2: it would take all traffic from the live version"),)


def test_what_a_label_needs_and_is_not_there_is_missed_before_anything_is_sent(world: World) -> None:
    world.promote(1)
    shutil.rmtree(world.directory / HALF / "3")
    world.server.sent.clear()
    before, versions = world.recorded(), tuple(VersionNumber(each) for each in (1, 2, 3))
    after = Desired(versions, {STABLE: versions[1], CANARY: versions[2]})
    wanted = Change(HALF, versions[1], STABLE, RevisionKind.ROLLBACK, "", timeout_s=60.0)

    with (
        leased(world.target, world.context, OperationRequest("rollback", HALF, LOCAL, HALF)) as place,
        pytest.raises(StorageError, match="half@3 should be served on local, but its directory is gone"),
    ):
        Rollout(place)(wanted, before, after)

    assert world.server.sent == []
    assert world.unsettled() == ()


def test_a_label_is_not_put_on_damaged_bytes(world: World, manifests: dict[int, Manifest]) -> None:
    world.promote(1)
    world.promote(4, label="blue")
    world.promote(2)
    world.promote(2, label="blue")
    world.promote(3)
    (world.directory / HALF / "4" / "x").write_bytes(b"other")

    with pytest.raises(RestoredError, match="half@4 does not match its manifest"):
        world.rollback(to_revision=2)

    assert world.server.labels(HALF) == {"stable": 3, "blue": 2}
