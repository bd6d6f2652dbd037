from __future__ import annotations

import pytest

from deployctl.domain.reference import parse_reference
from deployctl.domain.revision import Routing
from deployctl.errors import LabelNotFoundError, ModelNotFoundError, NotFoundError, ServerUnavailableError
from deployctl.operations.predict import predict, served_spec, usual_spec
from deployctl.serving.interface import PredictionRequest, ServedSpec
from tests.support.world import HALF, World


def ask(world: World, spec: ServedSpec) -> object:
    return predict(world.target, PredictionRequest(spec, instances=[2.0]), grpc=True, timeout_s=1).version


def test_asks_as_the_clients_of_the_target_do(world: World) -> None:
    world.promote(1)
    assert usual_spec(world.target, HALF) == ServedSpec(HALF, label="stable")  # type: ignore[arg-type]

    world.routing = Routing.LATEST

    assert usual_spec(world.target, HALF) == ServedSpec(HALF)
    assert ask(world, usual_spec(world.target, HALF)) == 1


def test_latest_is_the_highest_published_version_and_a_number_is_the_servers_to_find(world: World) -> None:
    assert served_spec(world.target, parse_reference("half@latest")).version == 3
    assert served_spec(world.target, parse_reference("half@9")).version == 9


def test_a_label_that_the_target_does_not_have_is_not_found(world: World) -> None:
    world.promote(1)

    with pytest.raises(LabelNotFoundError, match="half has no label 'canary' on local"):
        ask(world, served_spec(world.target, parse_reference("half@canary")))


def test_a_model_that_is_not_promoted_is_told_apart_from_one_that_is_not_there(world: World) -> None:
    with pytest.raises(NotFoundError, match="half is not served on local") as raised:
        ask(world, usual_spec(world.target, HALF))
    assert raised.value.hint == "deployctl promote half@latest"

    with pytest.raises(ModelNotFoundError):
        ask(world, served_spec(world.target, parse_reference("nothing@stable")))


def test_a_version_that_is_not_loaded_is_not_found_with_the_status_to_look_at(world: World) -> None:
    world.promote(1)

    with pytest.raises(NotFoundError) as raised:
        ask(world, served_spec(world.target, parse_reference("half@3")))

    assert raised.value.hint == "deployctl status local"


def test_a_stopped_server_is_called_stopped(world: World) -> None:
    world.down()

    with pytest.raises(ServerUnavailableError, match="the server of local is stopped") as raised:
        ask(world, usual_spec(world.target, HALF))

    assert raised.value.hint == "deployctl up"
