from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deployctl.domain.names import ModelName, VersionNumber
from deployctl.domain.reference import parse_reference
from deployctl.domain.revision import RevisionState, Routing
from deployctl.errors import (
    DatabaseBusyError,
    DegradedError,
    LabelNotFoundError,
    LockedError,
    ModelNotFoundError,
    PreconditionError,
    RestoredError,
    ServerUnavailableError,
    StorageError,
    UsageError,
    VersionNotFoundError,
)
from deployctl.operations.promote import Promote, PromoteRequest
from tests.support.repository import SMALL_EXPORT, publish, write_export
from tests.support.world import HALF, LOCAL, World


def test_the_first_version_is_loaded_before_it_is_labelled(world: World) -> None:
    promotion = world.promote(1)

    assert world.sent() == [([1], {}), ([1], {"stable": 1})]
    assert (promotion.version, promotion.previous_version, promotion.revision) == (1, None, 1)
    assert promotion.outcome == "serving"
    assert promotion.standby == ()


def test_the_new_version_loads_beside_the_old_and_the_label_moves_after_that(world: World) -> None:
    world.promote(1)
    world.server.sent.clear()

    promotion = world.promote(2)

    assert world.sent() == [([1, 2], {"stable": 1}), ([1, 2], {"stable": 2})]
    assert (promotion.previous_version, promotion.standby) == (1, (1,))


def test_the_version_before_the_standby_is_let_go_last(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.server.sent.clear()

    world.promote(3)

    assert world.sent() == [([1, 2, 3], {"stable": 2}), ([2, 3], {"stable": 3})]


def test_without_warm_standby_the_old_version_is_let_go_with_the_labels_move(tmp_path: Path) -> None:
    world = World(tmp_path, warm_standby=0)
    world.add(1, 2)
    world.up()
    world.promote(1)
    world.server.sent.clear()

    promotion = world.promote(2)

    assert world.sent() == [([1, 2], {"stable": 1}), ([2], {"stable": 2})]
    assert promotion.standby == ()
    assert world.server.available(HALF) == {2}


def test_other_models_stay_in_every_configuration(world: World) -> None:
    world.add(1, model="other")
    world.promote(1, model="other")
    world.server.sent.clear()

    world.promote(1)

    assert world.sent("other") == [([1], {"stable": 1})] * 2


def test_a_canary_gets_its_label_and_the_stable_version_keeps_its_own(world: World) -> None:
    world.promote(1)

    promotion = world.promote(2, label="canary")

    assert world.server.labels(HALF) == {"stable": 1, "canary": 2}
    assert promotion.label == "canary"
    assert promotion.standby == ()


def test_a_canary_can_be_the_first_version_of_a_model(world: World) -> None:
    assert world.promote(1, label="canary").outcome == "serving"

    assert world.server.labels(HALF) == {"canary": 1}
    assert world.promote(2).previous_version is None


def test_a_label_that_is_there_already_changes_no_revision_and_is_verified_at_the_server(world: World) -> None:
    world.promote(1)
    world.server.sent.clear()

    promotion = world.promote(1)

    assert (promotion.outcome, promotion.revision) == ("unchanged", 1)
    assert world.sent() == [([1], {"stable": 1})]


def test_a_label_that_is_there_already_is_no_success_when_the_server_is_down(world: World) -> None:
    world.promote(1)
    world.server.crash()

    with pytest.raises(ServerUnavailableError, match="local is stopped"):
        world.promote(1)


def test_resolves_labels_against_the_target(world: World) -> None:
    world.promote(2)

    assert world.promote("stable", label="canary").version == 2
    with pytest.raises(LabelNotFoundError):
        world.promote("shadow")


def test_what_does_not_exist_is_not_found_and_nothing_is_sent(world: World) -> None:
    with pytest.raises(VersionNotFoundError):
        world.promote(9)
    with pytest.raises(ModelNotFoundError):
        world.promote(1, model="nothing")

    assert world.server.sent == []
    assert list(world.lineage.revisions(LOCAL, HALF, limit=9)) == []


def test_a_server_that_is_down_is_unavailable_and_nothing_is_recorded(world: World) -> None:
    world.server.crash()

    with pytest.raises(ServerUnavailableError) as raised:
        world.promote(1)

    assert raised.value.hint == "deployctl up local"
    assert world.lineage.revisions(LOCAL, HALF, limit=9) == ()


def test_if_current_lets_pass_the_revision_that_is_current(world: World) -> None:
    world.promote(1, if_current=0)

    assert world.promote(2, if_current=1).revision == 2


@pytest.mark.parametrize("expected", [0, 2, 7])
def test_if_current_refuses_any_other_revision(world: World, expected: int) -> None:
    world.promote(1)
    world.server.sent.clear()

    with pytest.raises(PreconditionError, match=f"is at revision 1, not {expected}"):
        world.promote(2, if_current=expected)

    assert world.server.sent == []
    assert world.recorded().labels == {"stable": 1}


def test_a_dry_run_changes_nothing(world: World) -> None:
    world.promote(1)
    world.server.sent.clear()
    events = list(world.lineage.events())

    promotion = world.promote(2, dry_run=True)

    assert (promotion.outcome, promotion.previous_version, promotion.standby) == ("planned", 1, (1,))
    assert world.server.sent == []
    assert list(world.lineage.events()) == events


def test_another_operation_on_the_target_is_waited_for_and_then_named(world: World) -> None:
    with (
        world.lock().hold(model=HALF, purpose="rollback half", timeout_s=0),
        pytest.raises(LockedError, match="rollback half"),
    ):
        world.promote(1)


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_serving(world: World) -> None:
    world.promote(1)
    world.break_version(2, "Op type not registered 'FancyNorm'")

    with pytest.raises(RestoredError, match=r"half@2 cannot be loaded: Op type .*; @1 was restored and verified") as e:
        world.promote(2)

    assert e.value.hint == "deployctl logs local --since 1m"
    assert world.server.available(HALF) == {1}
    assert world.server.labels(HALF) == {"stable": 1}
    assert world.sent()[-1] == ([1], {"stable": 1})
    newest = world.lineage.revisions(LOCAL, HALF, limit=1)[0]
    assert newest.state is RevisionState.FAILED
    assert newest.evidence["restored"] is True


def test_a_first_version_that_cannot_be_loaded_leaves_the_model_unserved(world: World) -> None:
    world.break_version(1, "Read less bytes than requested")

    with pytest.raises(RestoredError, match="half is not served, as before"):
        world.promote(1)

    assert world.server.file.models == ()


def test_a_version_that_failed_can_be_promoted_once_it_is_mended(world: World) -> None:
    world.promote(1)
    world.break_version(2, "no such op")
    with pytest.raises(RestoredError):
        world.promote(2)
    world.server.broken.clear()

    assert world.promote(2).revision == 3


def test_a_version_that_takes_too_long_is_given_up(world: World) -> None:
    world.promote(1)
    world.server.load_s = 100.0

    with pytest.raises(RestoredError, match="half@2 was still LOADING when the time for loading was over"):
        world.promote(2, timeout_s=30)

    assert world.server.labels(HALF) == {"stable": 1}
    assert 30 <= world.clock.seconds < 40


def test_a_reload_that_the_server_refuses_cannot_be_undone_and_says_so(world: World) -> None:
    world.promote(1)
    world.server.refuses = "the disk is on fire"

    with pytest.raises(DegradedError, match=r"the disk is on fire; and the previous state of half on local could not"):
        world.promote(2)

    assert world.lineage.revisions(LOCAL, HALF, limit=1)[0].state is RevisionState.FAILED


def test_a_missing_directory_of_another_model_is_told_before_anything_is_changed(world: World) -> None:
    world.add(1, model="other")
    world.promote(1, model="other")
    world.promote(1)
    shutil.rmtree(world.directory / "other" / "1")
    world.server.sent.clear()

    with pytest.raises(StorageError, match="other@1 should be served on local, but its directory is gone"):
        world.promote(2)

    assert world.server.sent == []
    assert world.unsettled() == ()
    assert world.lineage.revisions(LOCAL, HALF, limit=1)[0].number == 1


def test_bytes_that_do_not_match_the_manifest_never_reach_the_server(world: World, tmp_path: Path) -> None:
    world.promote(1)
    committed = publish(world.repository, HALF, write_export(tmp_path / "export", {**SMALL_EXPORT, "x": b"4"}))
    version = committed.manifest.version
    data = world.directory / HALF / str(version) / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(b"w")

    with pytest.raises(RestoredError, match=r"does not match its manifest: variables/variables.data.* is changed") as e:
        world.promote(version)

    assert e.value.hint == f"deployctl verify half@{version}"
    assert world.server.available(HALF) == {1}
    assert all(version not in versions for versions, _ in world.sent())


def busy() -> None:
    raise DatabaseBusyError("the database is locked")


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_record_that_cannot_be_written_in_the_end_takes_the_change_back(world: World) -> None:
    world.promote(1)
    world.fuse.at("begin", 2, busy)

    with pytest.raises(RestoredError, match="the database is locked; @1 was restored and verified"):
        world.promote(2)

    assert world.server.labels(HALF) == {"stable": 1}
    assert world.unsettled() == ()


def test_a_database_that_stays_locked_leaves_a_revision_for_the_next_command(world: World) -> None:
    world.promote(1)
    world.fuse.at("begin", 2, busy, and_after=True)
    with pytest.raises(RestoredError):
        world.promote(2)
    assert [revision.number for revision in world.unsettled()] == [2]
    world.fuse.hook = None

    assert world.promote(2).revision == 3
    assert "revision 2 of half could not be recorded as failed" in world.journal.warnings[0]
    assert "was interrupted" in world.journal.warnings[1]


@pytest.mark.parametrize(("call", "nth"), [("apply", 1), ("apply", 2), ("statuses", 2), ("answering_version", 1)])
def test_an_interrupted_promotion_puts_back_what_served(world: World, call: str, nth: int) -> None:
    world.promote(1)
    world.fuse.at(call, nth, interrupt)

    with pytest.raises(RestoredError, match="interrupted; @1 was restored and verified"):
        world.promote(2)

    assert world.server.labels(HALF) == {"stable": 1}
    assert world.unsettled() == ()
    assert world.server.file.models[0].versions == (1,)


def test_an_interrupt_after_the_record_lets_the_new_version_serve(world: World) -> None:
    world.promote(1)
    world.fuse.at("committed", 2, interrupt)

    with pytest.raises(KeyboardInterrupt):
        world.promote(2)

    assert world.recorded().labels == {"stable": 2}
    assert world.server.labels(HALF) == {"stable": 2}
    assert world.unsettled() == ()


def test_a_second_interrupt_leaves_the_rest_to_the_next_command(world: World) -> None:
    world.promote(1)
    world.fuse.at("apply", 2, interrupt, and_after=True)
    with pytest.raises(KeyboardInterrupt):
        world.promote(2)
    world.fuse.hook = None

    world.up()

    assert world.server.labels(HALF) == {"stable": 1}
    assert world.unsettled() == ()


def test_a_server_that_goes_away_in_the_middle_is_told_as_degraded(world: World) -> None:
    world.promote(1)
    world.fuse.at("answering_version", 1, lambda: setattr(world.server, "lost", True))

    with pytest.raises(DegradedError) as raised:
        world.promote(2)

    assert raised.value.hint == "deployctl status local"
    assert raised.value.exit_code == 6


class TestRoutingLatest:
    @pytest.fixture
    def latest(self, tmp_path: Path) -> World:
        world = World(tmp_path / "models", routing=Routing.LATEST)
        world.add(1, 2, 3)
        world.up()
        return world

    def test_a_lower_version_takes_the_traffic_once_the_higher_one_is_gone(self, latest: World) -> None:
        latest.promote(3)
        latest.server.sent.clear()

        promotion = latest.promote(2)

        assert latest.sent() == [([2, 3], {"stable": 3}), ([2], {"stable": 2})]
        assert latest.server.available(HALF) == {2}
        assert promotion.standby == ()

    def test_a_higher_version_keeps_the_lower_one_warm(self, latest: World) -> None:
        latest.promote(1)

        assert latest.promote(3).standby == (1,)

    def test_a_canary_above_the_live_version_is_refused(self, latest: World) -> None:
        latest.promote(1)

        with pytest.raises(UsageError, match="it would take all traffic from version 1"):
            latest.promote(2, label="canary")

    def test_stable_does_not_go_below_the_canary(self, latest: World) -> None:
        latest.promote(3)
        latest.promote(2, label="canary")

        with pytest.raises(UsageError, match="label 'canary' cannot be at version 2"):
            latest.promote(1)

        assert latest.recorded().labels == {"stable": 3, "canary": 2}


def test_versions_of_two_models_do_not_mix(world: World) -> None:
    world.add(1, 2, model="other")
    world.promote(1)
    world.promote(2, model="other")

    world.promote(3)

    assert world.server.available(ModelName("other")) == {2}
    assert world.recorded("other").labels == {"stable": 2}


class TestResourcePreserving:
    """The old version is let go before the new one is loaded."""

    @pytest.fixture
    def tight(self, tmp_path: Path) -> World:
        world = World(tmp_path / "models", resource_preserving=("half",))
        world.add(1, 2)
        world.add(1, model="ranker")
        world.up()
        world.promote(1, model="ranker")
        world.promote(1)
        world.server.sent.clear()
        return world

    def test_the_two_are_never_loaded_together(self, tight: World) -> None:
        promotion = tight.promote(2)

        assert tight.sent() == [([], {}), ([2], {}), ([2], {"stable": 2})]
        assert promotion.standby == ()
        assert tight.server.labels("ranker") == {"stable": 1}

    def test_the_gap_is_announced_and_measured(self, tight: World) -> None:
        tight.promote(2)

        evidence = tight.lineage.revisions(LOCAL, HALF, limit=1)[0].evidence
        assert evidence["gap_s"] >= tight.server.load_s
        gap = [step for step in tight.journal.steps if step.startswith("gap ")]
        assert gap[0] == "gap half answers nobody from now until @2 is loaded"
        assert gap[1].startswith("gap half did not answer for ")

    def test_the_old_version_is_loaded_again_when_the_new_one_cannot_be(self, tight: World) -> None:
        tight.break_version(2, "no such op")

        with pytest.raises(RestoredError, match="@1 was restored and verified"):
            tight.promote(2)

        assert tight.server.labels(HALF) == {"stable": 1}
        assert tight.server.available(HALF) == {1}

    def test_a_rollback_leaves_a_gap_too(self, tight: World) -> None:
        tight.promote(2)
        tight.server.sent.clear()

        assert tight.rollback().version == 1
        assert tight.sent() == [([], {}), ([1], {}), ([1], {"stable": 1})]


class TestMemory:
    """Standby versions stay as long as there is memory for them beside a new version."""

    @pytest.fixture
    def full(self, tmp_path: Path) -> World:
        """Versions 1 to 4 of 10 kB each; 3 is live, 2 and 1 stand by."""
        world = World(tmp_path / "models", warm_standby=2)
        for number in range(1, 5):
            export = write_export(tmp_path / f"export-{number}", {**SMALL_EXPORT, "x": bytes([number]) * 10_000})
            publish(world.repository, HALF, export)
        world.up()
        for number in (1, 2, 3):
            world.promote(number)
        world.server.sent.clear()
        return world

    def test_with_room_nothing_goes_before_the_new_version_is_there(self, full: World) -> None:
        full.free_bytes = 20_000

        full.promote(4)

        assert [versions for versions, _ in full.sent()] == [[1, 2, 3, 4], [2, 3, 4]]

    def test_the_oldest_goes_first_and_no_more_than_must(self, full: World) -> None:
        full.free_bytes = 5_000

        promotion = full.promote(4)

        assert [versions for versions, _ in full.sent()] == [[2, 3], [2, 3, 4], [2, 3, 4]]
        assert "standby @1 let go: there is no memory for it beside the new version" in full.journal.steps
        assert full.recorded().versions == (2, 3, 4)
        assert promotion.standby == (3, 2)

    def test_what_is_live_never_goes(self, full: World) -> None:
        full.free_bytes = 0

        full.promote(4)

        assert [versions for versions, _ in full.sent()][0] == [2, 3]
        full.free_bytes = -100_000
        full.server.sent.clear()
        full.rollback(to_version=1)
        assert [versions for versions, _ in full.sent()] == [[4], [1, 4], [1, 4]]

    def test_a_failed_promotion_brings_the_standby_back(self, full: World) -> None:
        full.free_bytes = 5_000
        full.break_version(4, "no such op")

        with pytest.raises(RestoredError):
            full.promote(4)

        assert full.server.available(HALF) == {1, 2, 3}


def test_a_version_that_answers_wrongly_on_the_target_gets_no_label(world: World) -> None:
    world.promote(1)
    asked: list[tuple[int, object]] = []

    def prove(version: VersionNumber) -> str | None:
        asked.append((version, dict(world.server.labels(HALF))))
        return "record 2: output 'y' is 4, not 3"

    with pytest.raises(RestoredError, match=r"half@2 answers otherwise than is recorded: record 2.*; @1 was restored"):
        Promote(world.target, world.context, prove=prove)(PromoteRequest(parse_reference("half@2")))

    assert asked == [(2, {"stable": 1})]
    assert world.server.labels(HALF) == {"stable": 1}
