from __future__ import annotations

from dataclasses import replace

import pytest

from deployctl.domain.names import STABLE, ModelName, VersionNumber
from deployctl.domain.serving import ServedModel, ServerCondition, ServingConfig
from deployctl.operations.rollout import RolloutClass
from deployctl.operations.status import TargetStatus, target_status
from tests.support.memory_server import Killed
from tests.support.world import HALF, World


def status(world: World) -> TargetStatus:
    return target_status(world.target, world.context)


def test_a_target_that_serves_what_is_recorded_is_healthy(world: World) -> None:
    world.promote(1)
    world.promote(2)

    found = status(world)

    (model,) = found.models
    assert found.healthy
    assert (model.name, model.live, model.standby, model.revision, model.drift) == (HALF, 2, (1,), 2, ())
    assert model.rollback is not None
    assert (model.rollback.version, model.rollback.rollout_class) == (1, RolloutClass.HOT)


def test_a_stopped_target_is_healthy_as_long_as_it_has_nothing_to_serve(world: World) -> None:
    world.down()
    assert status(world).healthy

    world.up()
    world.promote(1)
    world.down()

    assert status(world).state is ServerCondition.STOPPED
    assert not status(world).healthy


def test_a_server_that_does_not_answer_is_not_healthy_even_with_nothing_to_serve(world: World) -> None:
    world.server.lost = True

    assert not status(world).healthy


def test_what_the_server_lacks_and_what_it_has_too_much_is_drift(world: World) -> None:
    world.promote(1)
    world.promote(2)
    world.server.apply(world.target.config({HALF: world.recorded()}), timeout_s=1)
    recorded = world.recorded()
    world.server.apply(world.target.config({HALF: type(recorded)((3,), {})}), timeout_s=1)  # type: ignore[arg-type]
    world.clock.pause(5)

    found = status(world)

    assert not found.healthy
    assert set(found.models[0].drift) == {"@1 is END", "@2 is END", "@3 is served, but not recorded"}


def move_the_label(world: World, version: int) -> None:
    """Tells the server where `stable` is, past deployctl; the file stays as it was."""
    file = world.server.file
    model = replace(file.models[0], labels={STABLE: VersionNumber(version)})
    world.server.apply(ServingConfig((model,)), timeout_s=1.0)
    world.server.file = file


def test_a_label_that_was_moved_alone_is_drift(world: World) -> None:
    world.promote(1)
    world.promote(2)
    move_the_label(world, 1)

    found = status(world)

    assert not found.healthy
    assert found.models[0].drift == ("label stable is at @2 by the record, and @1 answers",)
    assert found.drift == ()


def test_a_file_that_was_edited_is_drift_of_the_target(world: World) -> None:
    world.promote(1)
    stranger = ServedModel(ModelName("stranger"), "/models/stranger", (VersionNumber(1),))
    world.server.file = ServingConfig((*world.server.file.models, stranger))

    found = status(world)

    assert not found.healthy
    assert (found.drift, found.models[0].drift) == (
        ("stranger is in the file that the server starts from, but not recorded",),
        (),
    )


def test_a_standby_that_is_loaded_and_whose_files_are_gone_is_told(world: World) -> None:
    world.promote(1)
    world.promote(2)
    (world.directory / HALF / "1" / "saved_model.pb").unlink()
    (world.directory / HALF / "1").rmdir()

    assert "@1 is served, but its files are not on this machine" in status(world).models[0].drift


def test_a_rollback_between_the_look_at_the_record_and_that_at_the_server_is_no_drift(world: World) -> None:
    world.promote(1)
    world.promote(2)

    def go_back() -> None:
        world.rollback()

    world.fuse.at("statuses", 1, go_back)

    found = status(world)

    assert (found.healthy, found.models[0].live) == (True, 1)


def test_an_interrupted_operation_is_told(world: World) -> None:
    world.promote(1)
    world.fuse.left = 14
    with pytest.raises(Killed):
        world.promote(2)
    world.fuse.left = None

    found = status(world)

    assert found.models[0].interrupted
    assert not found.healthy


def test_a_rollback_has_nowhere_to_go_after_the_first_promotion_or_a_first_canary(world: World) -> None:
    world.promote(1, label="canary")
    assert status(world).models[0].rollback is None

    world.promote(2)

    assert status(world).models[0].rollback is None
