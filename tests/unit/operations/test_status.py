from __future__ import annotations

import pytest

from deployctl.domain.serving import ServerCondition
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
