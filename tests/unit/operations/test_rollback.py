from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from deployctl.domain.names import STABLE, VersionNumber
from deployctl.domain.revision import Desired, RevisionKind, Routing
from deployctl.errors import (
    ModelNotFoundError,
    PreconditionError,
    RestoredError,
    RevisionNotFoundError,
    VersionNotFoundError,
)
from deployctl.operations.rollback_all import RollbackAll
from deployctl.operations.rollout import RolloutClass
from deployctl.operations.status import target_status
from deployctl.serving.interface import ServedSpec
from tests.support.memory_server import Killed
from tests.support.world import HALF, LOCAL, World


@pytest.fixture
def promoted(world: World) -> World:
    """Version 1, then 2, then 3 were promoted; 2 is the standby."""
    for version in (1, 2, 3):
        world.promote(version)
    world.server.sent.clear()
    return world


def test_goes_back_to_the_standby_by_labels_alone(promoted: World) -> None:
    result = promoted.rollback()

    assert promoted.sent() == [([2, 3], {"stable": 3}), ([2, 3], {"stable": 2})]
    assert (result.version, result.previous_version, result.restores, result.revision) == (2, 3, 2, 4)
    assert result.rollout_class is RolloutClass.HOT


def test_a_version_that_is_not_loaded_is_loaded_first(promoted: World) -> None:
    promoted.rollback()
    promoted.server.sent.clear()

    result = promoted.rollback()

    assert promoted.sent() == [([1, 2, 3], {"stable": 2}), ([1, 2], {"stable": 1})]
    assert result.rollout_class is RolloutClass.WARM


def test_is_recorded_as_a_new_revision_that_says_what_it_restores(promoted: World) -> None:
    promoted.rollback()

    newest = promoted.lineage.revisions(LOCAL, HALF, limit=1)[0]
    assert (newest.number, newest.kind, newest.restores) == (4, RevisionKind.ROLLBACK, 2)


def test_never_returns_to_what_was_rolled_back_from(promoted: World) -> None:
    assert [promoted.rollback().version, promoted.rollback().version] == [2, 1]

    with pytest.raises(RevisionNotFoundError, match="no earlier revision that served another version"):
        promoted.rollback()


def test_what_lies_far_back_is_found_by_rollback_and_status_alike(promoted: World) -> None:
    promoted.rollback()
    for _ in range(30):
        promoted.promote(3)
        promoted.rollback()

    told = target_status(promoted.target, promoted.context).models[0].rollback
    result = promoted.rollback()

    assert told is not None
    assert (told.version, result.version, result.restores) == (1, 1, 1)
    assert target_status(promoted.target, promoted.context).models[0].rollback is None
    assert promoted.rollback(to_revision=3).version == 3


def test_a_promotion_after_a_rollback_can_be_rolled_back_too(promoted: World) -> None:
    promoted.rollback()
    promoted.promote(3)

    assert promoted.rollback().version == 2


def test_goes_to_a_revision_by_its_number_and_to_a_version_by_its_own(promoted: World) -> None:
    assert promoted.rollback(to_revision=1).version == 1
    assert promoted.rollback(to_version=3).version == 3


def test_a_rollback_to_what_serves_already_makes_no_revision(promoted: World) -> None:
    result = promoted.rollback(to_version=3)

    assert (result.outcome, result.version, result.previous_version, result.revision) == ("unchanged", 3, 3, 3)
    assert promoted.sent() == [([2, 3], {"stable": 3})]
    assert promoted.lineage.revisions(LOCAL, HALF, limit=1)[0].number == 3


def test_a_standby_whose_directory_is_gone_keeps_nothing_from_changing(promoted: World) -> None:
    shutil.rmtree(promoted.directory / HALF / "2")

    result = promoted.rollback(to_version=1)

    assert result.outcome == "serving"
    assert promoted.recorded() == Desired((VersionNumber(1), VersionNumber(3)), {STABLE: VersionNumber(1)})
    assert "half@2 does not stand by: its directory is gone" in promoted.journal.warnings


def test_without_a_version_it_passes_over_one_whose_directory_is_gone(promoted: World) -> None:
    shutil.rmtree(promoted.directory / HALF / "2")

    assert promoted.rollback().version == 1
    assert "skipped @2: its directory is gone" in promoted.journal.steps


def test_a_server_comes_up_without_a_standby_whose_directory_is_gone(promoted: World) -> None:
    promoted.down()
    shutil.rmtree(promoted.directory / HALF / "2")

    assert promoted.up().outcome == "started"
    assert promoted.server.answering_version(ServedSpec(HALF), timeout_s=1.0)[0] == 3


def test_a_standby_that_no_longer_loads_keeps_no_rollback_from_serving(promoted: World) -> None:
    promoted.down()
    promoted.break_version(2, "cut short")
    promoted.up()

    result = promoted.rollback(to_version=1)

    assert result.outcome == "serving"
    assert promoted.recorded().labels == {"stable": 1}


def test_what_serves_is_promoted_again_beside_a_standby_that_no_longer_loads(promoted: World) -> None:
    promoted.down()
    promoted.break_version(2, "cut short")
    promoted.up()

    assert promoted.promote(3).outcome == "unchanged"
    assert any("half@2 cannot be loaded: cut short" in words for words in promoted.journal.warnings)


def test_a_revision_or_version_that_never_served_is_not_found(promoted: World) -> None:
    promoted.add(4)

    with pytest.raises(RevisionNotFoundError, match="no revision 9 that served") as raised:
        promoted.rollback(to_revision=9)
    with pytest.raises(RevisionNotFoundError, match="no revision that served @4"):
        promoted.rollback(to_version=4)

    assert raised.value.hint == "deployctl history half --target local"


def test_a_model_that_never_served_is_not_found(world: World) -> None:
    with pytest.raises(RevisionNotFoundError, match="half has never served on local"):
        world.rollback()
    with pytest.raises(ModelNotFoundError):
        world.rollback(model="nothing")


def test_a_version_whose_directory_is_gone_is_not_found_and_nothing_changes(promoted: World) -> None:
    shutil.rmtree(promoted.directory / HALF / "1")

    with pytest.raises(VersionNotFoundError):
        promoted.rollback(to_version=1)

    assert promoted.server.sent == []
    assert promoted.unsettled() == ()


def test_a_first_canary_is_nothing_to_return_to(world: World) -> None:
    world.promote(1, label="canary")
    with pytest.raises(RevisionNotFoundError):
        world.rollback()
    world.promote(2)

    with pytest.raises(RevisionNotFoundError):
        world.rollback()
    with pytest.raises(RevisionNotFoundError):
        world.rollback(to_revision=1)


def test_a_model_whose_only_label_is_canary_can_be_rolled_back_after_stable(world: World) -> None:
    world.promote(1, label="canary")
    world.promote(2)
    world.promote(3)

    result = world.rollback()

    assert result.version == 2
    assert world.server.labels(HALF) == {"canary": 1, "stable": 2}


def test_undoes_a_canary_alone_and_goes_further_back_after_that(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.promote(3, label="canary")

    undone = world.rollback()

    assert (undone.version, undone.previous_version, undone.undone_canary) == (2, 2, 3)
    assert world.server.labels(HALF) == {"stable": 2}
    assert world.rollback().version == 1
    assert world.server.labels(HALF) == {"stable": 1}


def test_a_finished_canary_is_rolled_back_like_any_promotion(world: World) -> None:
    world.promote(1)
    world.promote(2, label="canary")
    world.promote("canary")
    assert world.server.labels(HALF) == {"stable": 2}

    result = world.rollback()

    assert (result.version, result.undone_canary) == (1, None)
    assert world.server.labels(HALF) == {"stable": 1}


def test_if_current_refuses_another_revision(promoted: World) -> None:
    with pytest.raises(PreconditionError):
        promoted.rollback(if_current=2)

    assert promoted.rollback(if_current=3).revision == 4


def test_a_dry_run_changes_nothing(promoted: World) -> None:
    events = list(promoted.lineage.events())

    result = promoted.rollback(dry_run=True)

    assert (result.outcome, result.version, result.revision) == ("planned", 2, None)
    assert promoted.server.sent == []
    assert list(promoted.lineage.events()) == events


def test_a_dry_run_leaves_an_interrupted_revision_alone(promoted: World) -> None:
    promoted.add(4)
    promoted.fuse.left = 12
    with pytest.raises(Killed):
        promoted.promote(4)
    promoted.fuse.left = None
    assert promoted.unsettled()

    promoted.rollback(dry_run=True)

    assert promoted.unsettled()


def test_tells_how_long_it_will_take_from_what_earlier_ones_took(promoted: World) -> None:
    assert promoted.rollback().estimate_s is None

    promoted.promote(3)

    assert promoted.rollback().estimate_s is not None


def test_announces_from_where_to_where_before_it_starts(promoted: World) -> None:
    promoted.journal.steps.clear()

    promoted.rollback()

    assert promoted.journal.steps[0] == "half on local: @3 -> @2, revision 2, hot"


def test_a_version_that_cannot_be_loaded_again_leaves_the_live_one(promoted: World) -> None:
    promoted.break_version(1, "Read less bytes than requested")

    with pytest.raises(RestoredError, match="half@1 cannot be loaded: Read less bytes.*; @3 was restored"):
        promoted.rollback(to_version=1)

    assert promoted.server.labels(HALF) == {"stable": 3}


def test_while_the_server_is_down_it_is_recorded_and_served_once_it_is_up(promoted: World) -> None:
    promoted.server.crash()

    result = promoted.rollback()

    assert (result.outcome, result.version, result.revision) == ("recorded", 2, 4)
    assert promoted.unsettled() == ()
    promoted.up()
    assert promoted.server.labels(HALF) == {"stable": 2}
    assert promoted.rollback().version == 1


def test_with_routing_latest_the_higher_version_is_let_go(tmp_path: Path) -> None:
    world = World(tmp_path, routing=Routing.LATEST)
    world.add(1, 2)
    world.up()
    world.promote(1)
    world.promote(2)

    result = world.rollback()

    assert result.version == 1
    assert world.server.available(HALF) == {1}


def test_labels_made_for_the_other_routing_take_no_traffic_after_a_change_of_routing(world: World) -> None:
    world.promote(1)
    world.promote(3, label="canary")
    world.promote(2)
    world.routing = Routing.LATEST

    world.rollback(to_revision=1)

    assert world.server.available(HALF) == {1}
    assert world.recorded().labels == {"stable": 1}


class TestSoak:
    """A revision that served only for a moment is not known to be good."""

    @pytest.fixture
    def hasty(self, tmp_path: Path) -> World:
        world = World(tmp_path / "models", soak_s=60.0)
        world.add(1, 2, 3)
        world.up()
        world.promote(1)
        world.clock.pause(100)
        world.promote(2)
        world.clock.pause(5)
        world.promote(3)
        return world

    def test_a_rollback_passes_over_what_did_not_soak(self, hasty: World) -> None:
        shown = target_status(hasty.target, hasty.context).models[0].rollback
        assert shown is not None
        assert shown.version == 1

        assert hasty.rollback().version == 1

    def test_it_may_be_named(self, hasty: World) -> None:
        assert hasty.rollback(to_version=2).version == 2

    def test_where_nothing_soaked_the_newest_is_better_than_none(self, tmp_path: Path) -> None:
        world = World(tmp_path / "models", soak_s=60.0)
        world.add(1, 2)
        world.up()
        world.promote(1)
        world.promote(2)

        assert world.rollback().version == 1
        assert world.journal.warnings == ["no earlier revision of half served for 1 min; returning to revision 1"]


def test_what_was_only_recorded_while_the_server_was_down_is_not_known_to_be_good(promoted: World) -> None:
    promoted.server.crash()
    promoted.rollback()
    promoted.up()
    promoted.add(4)
    promoted.promote(4)

    assert promoted.rollback().version == 2


class TestAll:
    """Every model of a target returns to what served at a moment."""

    @pytest.fixture
    def busy(self, world: World) -> World:
        """half: 1 at 0 s, 2 at 100 s, 3 at 200 s; ranker: 1 at 0 s; late: 1 at 200 s."""
        world.add(1, 2, model="ranker")
        world.add(1, model="late")
        world.promote(1)
        world.promote(1, model="ranker")
        world.clock.pause(100)
        world.promote(2)
        world.clock.pause(100)
        world.promote(3)
        world.promote(1, model="late")
        return world

    def moment(self, world: World, seconds_ago: float) -> datetime:
        return world.clock.now() - timedelta(seconds=seconds_ago)

    def test_each_model_returns_to_what_served_then(self, busy: World) -> None:
        returned = RollbackAll(busy.target, busy.context)(self.moment(busy, 50))

        assert {each.model: each.result and each.result.version for each in returned} == {
            "half": 2,
            "ranker": 1,
            "late": None,
        }
        assert [each.result.outcome for each in returned if each.result] == ["serving", "unchanged"]
        assert busy.server.labels(HALF) == {"stable": 2}
        assert busy.server.labels("late") == {"stable": 1}
        assert busy.journal.warnings == ["late did not serve then, and is left as it is"]

    def test_one_that_fails_keeps_no_other_from_returning(self, busy: World) -> None:
        busy.clock.pause(10)
        busy.promote(2, model="ranker")
        shutil.rmtree(busy.directory / HALF / "1")

        returned = RollbackAll(busy.target, busy.context)(self.moment(busy, 150))

        errors = {each.model: each.error for each in returned}
        assert isinstance(errors[HALF], VersionNotFoundError)
        assert busy.server.labels("ranker") == {"stable": 1}
        assert busy.server.labels(HALF) == {"stable": 3}

    def test_each_is_an_operation_of_its_own(self, busy: World) -> None:
        RollbackAll(busy.target, busy.context)(self.moment(busy, 50))

        newest = [str(record.request) for record in busy.context.journal.operations()][:2]
        assert newest == ["rollback ranker", "rollback half"]

    def test_nothing_that_served_is_nothing_to_return_to(self, busy: World) -> None:
        with pytest.raises(RevisionNotFoundError, match="nothing served on local at 20"):
            RollbackAll(busy.target, busy.context)(self.moment(busy, 5000))
