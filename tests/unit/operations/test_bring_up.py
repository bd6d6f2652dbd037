from __future__ import annotations

import pytest

from deployctl.domain.event import EventKind
from deployctl.errors import DatabaseBusyError, LockedError, ServerStartError, StorageError
from tests.support.memory_server import Killed
from tests.support.world import HALF, World


def kinds(world: World) -> list[EventKind]:
    return [event.content.kind for event in world.lineage.events()]


def test_up_serves_what_is_recorded(world: World) -> None:
    world.promote(2)
    world.down()

    change = world.up()

    assert change.outcome == "started"
    assert world.server.available(HALF) == {2}
    assert world.server.labels(HALF) == {"stable": 2}


def test_up_twice_starts_one_server_and_records_one_start(world: World) -> None:
    assert world.up().outcome == "already running"

    assert kinds(world) == [EventKind.TARGET_STARTED]


def test_up_brings_a_running_server_back_to_what_is_recorded(world: World) -> None:
    world.promote(1)
    world.server.apply(world.target.config({}), timeout_s=1)
    assert world.server.available(HALF) == set()

    world.up()

    assert world.server.labels(HALF) == {"stable": 1}
    assert world.server.available(HALF) == {1}


def test_up_brings_back_a_server_that_was_too_busy_to_answer_at_first(world: World) -> None:
    world.promote(1)
    world.server.apply(world.target.config({}), timeout_s=1)
    world.server.lost = True

    def is_idle_again() -> None:
        world.server.lost = False

    world.fuse.at("up", 1, is_idle_again)

    assert world.up().outcome == "already running"

    assert world.server.available(HALF) == {1}


def test_down_twice_finds_nothing_and_records_one_stop(world: World) -> None:
    assert world.down().outcome == "stopped"
    assert world.down().outcome == "not running"

    assert kinds(world) == [EventKind.TARGET_STARTED, EventKind.TARGET_STOPPED]


def test_down_stops_the_server_though_it_cannot_be_recorded(world: World) -> None:
    def busy() -> None:
        raise DatabaseBusyError("the database is locked")

    world.fuse.at("begin", 1, busy)

    assert world.down().outcome == "stopped"
    assert world.journal.warnings == ["that local was stopped could not be recorded: the database is locked"]


def test_up_and_down_wait_for_another_operation(world: World) -> None:
    with world.lock().hold(model=HALF, purpose="promote half@2", timeout_s=0):
        with pytest.raises(LockedError):
            world.up()
        with pytest.raises(LockedError):
            world.down()


def test_up_tells_of_a_recorded_version_whose_directory_is_gone(world: World) -> None:
    world.promote(1)
    world.down()
    (world.directory / HALF / "1" / "saved_model.pb").unlink()
    (world.directory / HALF / "1").rmdir()

    with pytest.raises(StorageError, match="half@1 should be served on local, but its directory is gone"):
        world.up()


def test_a_server_that_cannot_load_what_is_recorded_does_not_start(world: World) -> None:
    world.promote(1)
    world.down()
    world.break_version(1, "Read less bytes than requested")

    with pytest.raises(ServerStartError, match="Read less bytes"):
        world.up()


def test_up_after_a_killed_promotion_serves_what_served_before_it(world: World) -> None:
    world.promote(1)
    world.fuse.left = 14
    with pytest.raises(Killed):
        world.promote(2)
    world.fuse.left = None
    world.server.crash()
    assert world.unsettled()

    world.up()

    assert world.server.labels(HALF) == {"stable": 1}
    assert world.unsettled() == ()
    assert world.journal.warnings[0].startswith("promote half@2 by ada@build-1 (operation op-0003) was interrupted")
