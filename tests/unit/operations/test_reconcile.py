"""A target is brought to what is recorded of it, whatever it was found to be; what somebody wants stays so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from deployctl.domain.event import Event, EventKind
from deployctl.domain.names import STABLE, ModelName, VersionNumber
from deployctl.domain.serving import ServedModel, ServingConfig
from deployctl.lineage.audit import disagreement
from deployctl.operations.reconcile import Reconcile, Reconciled, Reconciliation, recorded_drift
from tests.support.lineage import InMemoryLineageStore
from tests.support.memory_server import Killed
from tests.support.world import HALF, LOCAL, World


def reconcile(world: World, *, repair: bool = True, start: bool = True) -> Reconciled:
    """Makes one pass, as a daemon that knows the record would."""
    known = recorded_drift(world.target)
    return Reconcile(world.target, world.context, repair=repair, start=start, known=known)()


def events(world: World, kind: EventKind) -> list[Event]:
    return [event for event in InMemoryLineageStore.events(world.lineage) if event.content.kind is kind]


def serve_behind_its_back(world: World, *versions: int, stable: int) -> None:
    """Tells the server something that is not recorded, as somebody's own gRPC call would."""
    numbers = tuple(VersionNumber(version) for version in versions)
    base_path = str(world.repository.base_path(HALF))
    config = ServingConfig((ServedModel(HALF, base_path, numbers, {STABLE: VersionNumber(stable)}),))
    file = world.server.file
    for each in ({}, {STABLE: VersionNumber(stable)}):
        world.server.apply(ServingConfig((replace(config.models[0], labels=each),)), timeout_s=1.0)
        world.clock.pause(1.0)
    world.server.file = file


def kill_a_promotion(world: World) -> None:
    """Ends a promotion of version 3 when it is about to tell the server."""

    def kill() -> None:
        world.fuse.left = 0
        raise Killed("apply")

    world.fuse.at("apply", 1, kill)
    with pytest.raises(Killed):
        world.promote(3)
    world.fuse.hook, world.fuse.left = None, None
    assert world.unsettled()


@pytest.fixture
def promoted(world: World) -> World:
    """Version 2 serves, version 1 stands by."""
    world.promote(1)
    world.promote(2)
    return world


def test_what_is_as_recorded_is_left_alone_and_leaves_no_trace(promoted: World) -> None:
    before = len(promoted.context.journal.operations())

    assert reconcile(promoted) == Reconciled(Reconciliation.AS_RECORDED)

    assert len(promoted.context.journal.operations()) == before


def test_a_server_that_ended_is_started_with_the_same_versions(promoted: World) -> None:
    promoted.server.crash()

    assert reconcile(promoted).outcome is Reconciliation.STARTED

    assert promoted.server.available(HALF) == {1, 2}
    assert promoted.server.labels(HALF) == {"stable": 2}
    assert events(promoted, EventKind.TARGET_STARTED)[-1].content.reason == "the server was down"


def test_a_server_that_ended_is_only_told_of_where_it_is_not_to_be_started(promoted: World) -> None:
    promoted.server.crash()

    assert reconcile(promoted, start=False) == Reconciled(Reconciliation.DOWN, trouble="the server is stopped")


def test_a_server_that_runs_and_does_not_answer_is_left_to_people(promoted: World) -> None:
    promoted.server.lost = True

    assert reconcile(promoted) == Reconciled(Reconciliation.DOWN, trouble="the server runs, but does not answer")

    assert [record.request.verb for record in promoted.context.journal.operations()] == ["promote", "promote", "up"]


def test_a_server_that_somebody_stopped_stays_down(promoted: World) -> None:
    promoted.down()

    assert reconcile(promoted).outcome is Reconciliation.STOPPED

    promoted.up()
    promoted.server.crash()
    assert reconcile(promoted).outcome is Reconciliation.STARTED


def test_a_server_that_had_ended_before_somebody_stopped_it_stays_down(promoted: World) -> None:
    promoted.server.crash()
    promoted.down()

    assert reconcile(promoted).outcome is Reconciliation.STOPPED


def test_a_server_stopped_between_look_and_lease_stays_down(promoted: World) -> None:
    promoted.server.crash()
    looks = 0

    def down_after_the_second_look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            promoted.fuse.hook = None
            promoted.down()

    promoted.fuse.hook = lambda call: down_after_the_second_look() if call == "current" else None

    assert reconcile(promoted).outcome is Reconciliation.STOPPED
    assert promoted.server.available(HALF) == set() or promoted.server.state(timeout_s=1.0).condition == "stopped"


def test_a_server_without_anything_to_serve_is_not_started(world: World) -> None:
    world.server.crash()

    assert reconcile(world).outcome is Reconciliation.STOPPED


def test_versions_and_labels_changed_behind_its_back_are_put_back_and_recorded_once(promoted: World) -> None:
    serve_behind_its_back(promoted, 1, 3, stable=3)

    done = reconcile(promoted)

    assert done == Reconciled(Reconciliation.REPAIRED)
    assert promoted.server.available(HALF) == {1, 2}
    assert promoted.server.labels(HALF) == {"stable": 2}
    drifted = events(promoted, EventKind.TARGET_DRIFTED)
    assert [event.content.data["repaired"] for event in drifted] == [True]
    assert "half@3 is served, but not recorded" in drifted[0].content.data["differences"]
    assert reconcile(promoted).outcome is Reconciliation.AS_RECORDED


def test_a_label_alone_that_was_moved_is_put_back(promoted: World) -> None:
    serve_behind_its_back(promoted, 1, 2, stable=1)

    assert reconcile(promoted).outcome is Reconciliation.REPAIRED

    assert promoted.server.labels(HALF) == {"stable": 2}
    differences = events(promoted, EventKind.TARGET_DRIFTED)[0].content.data["differences"]
    assert differences == ["half: label stable is at @2 by the record, and @1 answers"]


def test_a_file_that_was_edited_is_written_again(promoted: World) -> None:
    right = promoted.server.file
    stranger = ServedModel(ModelName("stranger"), "/models/stranger", (VersionNumber(1),))
    promoted.server.file = ServingConfig((*right.models, stranger))

    assert reconcile(promoted).outcome is Reconciliation.REPAIRED

    assert promoted.server.file == right


def test_drift_is_only_recorded_where_it_is_not_to_be_repaired_and_each_change_of_it_once(promoted: World) -> None:
    serve_behind_its_back(promoted, 1, 2, stable=1)
    for _ in range(3):
        assert reconcile(promoted, repair=False).outcome is Reconciliation.DRIFTED
    assert promoted.server.labels(HALF) == {"stable": 1}
    assert len(events(promoted, EventKind.TARGET_DRIFTED)) == 1

    serve_behind_its_back(promoted, 1, 2, stable=2)
    for _ in range(3):
        reconcile(promoted, repair=False)

    told = [
        (event.content.data["repaired"], event.content.reason) for event in events(promoted, EventKind.TARGET_DRIFTED)
    ]
    assert told[1:] == [(True, "drift: gone")]
    assert recorded_drift(promoted.target) == ()


def test_a_repair_that_fails_is_recorded_once_with_why(promoted: World) -> None:
    serve_behind_its_back(promoted, 1, 2, stable=1)
    promoted.server.refuses = "no"

    for _ in range(2):
        done = reconcile(promoted)
        assert (done.outcome, "no" in done.trouble) == (Reconciliation.DRIFTED, True)

    drifted = events(promoted, EventKind.TARGET_DRIFTED)
    assert [event.content.data["repaired"] for event in drifted] == [False]
    promoted.server.refuses = ""
    assert reconcile(promoted).outcome is Reconciliation.REPAIRED


def test_a_standby_that_was_lost_is_loaded_again_where_memory_allows(promoted: World) -> None:
    serve_behind_its_back(promoted, 2, stable=2)

    assert reconcile(promoted).outcome is Reconciliation.REPAIRED

    assert promoted.server.available(HALF) == {1, 2}


def test_a_standby_that_failed_is_tried_again(promoted: World) -> None:
    serve_behind_its_back(promoted, 2, stable=2)
    promoted.break_version(1, "out of luck")
    assert reconcile(promoted).outcome is Reconciliation.DRIFTED

    promoted.server.broken.clear()

    assert reconcile(promoted).outcome is Reconciliation.REPAIRED
    assert promoted.server.available(HALF) == {1, 2}


def test_a_standby_whose_directory_is_gone_is_no_drift(promoted: World) -> None:
    serve_behind_its_back(promoted, 2, stable=2)
    promoted.server.file = ServingConfig((replace(promoted.server.file.models[0], versions=(VersionNumber(2),)),))
    for path in (promoted.directory / HALF / "1").iterdir():
        path.unlink()
    (promoted.directory / HALF / "1").rmdir()

    assert reconcile(promoted).outcome is Reconciliation.AS_RECORDED


@pytest.mark.parametrize("down", [False, True])
def test_what_a_killed_operation_left_is_settled(promoted: World, down: bool) -> None:
    kill_a_promotion(promoted)
    if down:
        promoted.server.crash()

    reconcile(promoted)

    assert promoted.unsettled() == ()
    assert promoted.server.labels(HALF) == {"stable": 2}
    assert promoted.server.available(HALF) == {1, 2}


def test_what_a_killed_operation_left_of_a_stopped_server_is_settled_and_it_stays_stopped(promoted: World) -> None:
    kill_a_promotion(promoted)
    promoted.down()

    assert reconcile(promoted).outcome in {Reconciliation.SETTLED, Reconciliation.STOPPED}

    assert promoted.unsettled() == ()
    assert promoted.server.state(timeout_s=1.0).condition == "stopped"


@pytest.mark.parametrize("model", [None, HALF])
def test_comes_later_where_an_operation_is_at_work(promoted: World, model: ModelName | None) -> None:
    serve_behind_its_back(promoted, 1, 2, stable=1)
    with promoted.lock("op-busy").hold(model=model, purpose="promote half@3", timeout_s=1.0):
        assert reconcile(promoted).outcome is Reconciliation.LATER
    assert promoted.server.labels(HALF) == {"stable": 1}

    assert reconcile(promoted).outcome is Reconciliation.REPAIRED


def test_a_change_that_is_just_being_made_is_no_drift(promoted: World) -> None:
    serve_behind_its_back(promoted, 1, 2, stable=1)
    began = promoted.clock.seconds
    put_back: Callable[[], None] = lambda: serve_behind_its_back(promoted, 1, 2, stable=2)  # noqa: E731
    promoted.fuse.hook = lambda _: None
    pause = promoted.clock.pause

    def pause_while_somebody_acts(seconds: float) -> None:
        pause(seconds)
        promoted.clock.pause = pause  # type: ignore[method-assign]
        put_back()

    promoted.clock.pause = pause_while_somebody_acts  # type: ignore[method-assign]

    assert reconcile(promoted).outcome is Reconciliation.AS_RECORDED
    assert promoted.clock.seconds > began
    assert events(promoted, EventKind.TARGET_DRIFTED) == []


def test_leases_of_the_dead_are_cleared_away(world: World) -> None:
    assert world.target.lock.clear() == ()
    with world.lock("op-alive").hold(model=HALF, purpose="promote half@1", timeout_s=1.0):
        assert world.target.lock.clear() == ()


def test_a_freeze_that_ran_out_is_lifted_and_recorded_once_and_a_new_one_stays(world: World) -> None:
    now = world.clock.now()
    world.holds.freeze(LOCAL, None, reason="the sale", expires_at=now + timedelta(seconds=5))
    world.holds.freeze(LOCAL, HALF, reason="a study", expires_at=None)
    assert world.holds.lift_expired(LOCAL) == ()

    world.clock.pause(5.0)

    assert [freeze.reason for freeze in world.holds.lift_expired(LOCAL)] == ["the sale"]
    assert world.holds.lift_expired(LOCAL) == ()
    assert [freeze.reason for freeze in world.lineage.freezes(LOCAL)] == ["a study"]
    assert len(events(world, EventKind.TARGET_UNFROZEN)) == 1


def test_state_that_is_not_what_the_events_say_is_told(promoted: World) -> None:
    assert disagreement(promoted.lineage, (LOCAL,)) == ""

    number = max(key for key in promoted.lineage._state.revisions)
    del promoted.lineage._state.revisions[number]

    words = "revision 1 of half on local is current by the state, and 2 by the events"
    assert disagreement(promoted.lineage, (LOCAL,)) == words
