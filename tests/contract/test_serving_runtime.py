"""What every runtime does, with real models on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deployctl.domain.names import ModelName, TargetName
from deployctl.domain.saved_model import TensorSpec
from deployctl.domain.serving import ServerCondition, ServingConfig, VersionState
from deployctl.errors import (
    InvalidRequestError,
    NotFoundError,
    ServerRefusedError,
    ServerUnavailableError,
    StorageError,
)
from deployctl.serving.interface import PredictionRequest, ServingRuntime
from tests.support.serving import (
    HALF_PLUS_THREE,
    HALF_PLUS_TWO,
    TIMEOUT_S,
    Place,
    answer,
    await_available,
    await_end,
    spec,
)

pytestmark = pytest.mark.tensorflow

both_protocols = pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])


on_docker = pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.xdist_group("docker")])


@pytest.fixture(params=["process", on_docker])
def place(request: pytest.FixtureRequest) -> Place:
    place: Place = request.getfixturevalue(f"{request.param}_place")
    return place


@pytest.fixture
def process_place(tmp_path: Path) -> Iterator[Place]:
    from deployctl.serving.process import ProcessOptions, ProcessRuntime

    options = ProcessOptions(target=TargetName("local"), state_dir=tmp_path / "state", rest_port=0, grpc_port=0)
    runtime = ProcessRuntime(options)
    models = tmp_path / "models"
    models.mkdir()
    yield Place(runtime, models, lambda: ProcessRuntime(options))
    runtime.down(timeout_s=5)


@pytest.fixture
def runtime(place: Place) -> ServingRuntime:
    """The runtime of `place`, its server up without models."""
    place.runtime.up(ServingConfig(), timeout_s=TIMEOUT_S)
    return place.runtime


def test_is_stopped_before_it_is_up(place: Place) -> None:
    assert place.runtime.state(timeout_s=5).condition is ServerCondition.STOPPED
    assert place.runtime.down(timeout_s=5) is False


def test_is_ready_without_any_model(runtime: ServingRuntime) -> None:
    state = runtime.state(timeout_s=5)

    assert state.condition is ServerCondition.READY
    assert state.endpoints.rest.startswith("http://")
    assert state.endpoints.grpc
    assert runtime.statuses(ModelName("half_plus_two"), timeout_s=5) == ()


def test_a_server_that_is_up_is_left_as_it_is(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "half_plus_two", 1)
    runtime.apply(place.config("half_plus_two", 1), timeout_s=TIMEOUT_S)
    await_available(runtime, "half_plus_two", 1)
    endpoints = runtime.state(timeout_s=5).endpoints

    assert place.again().up(ServingConfig(), timeout_s=TIMEOUT_S) == endpoints
    assert answer(runtime, spec("half_plus_two"), grpc=False) == 3.0


def test_is_stopped_after_down_and_down_again_finds_nothing(runtime: ServingRuntime) -> None:
    assert runtime.down(timeout_s=5) is True

    assert runtime.state(timeout_s=5).condition is ServerCondition.STOPPED
    assert runtime.down(timeout_s=5) is False
    with pytest.raises(ServerUnavailableError) as raised:
        runtime.statuses(ModelName("half_plus_two"), timeout_s=5)
    assert raised.value.hint == "deployctl up local"


def test_another_command_stops_what_this_one_started(place: Place, runtime: ServingRuntime) -> None:
    assert place.again().down(timeout_s=5) is True

    assert runtime.state(timeout_s=5).condition is ServerCondition.STOPPED


def test_comes_up_with_models_and_labels_loaded(place: Place) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_THREE, "m", 2)

    place.runtime.up(place.config("m", 1, 2, stable=1, canary=2), timeout_s=TIMEOUT_S)

    assert answer(place.runtime, spec("m", label="stable"), grpc=False) == 3.0
    assert answer(place.runtime, spec("m", label="canary"), grpc=False) == 4.0


@both_protocols
def test_answers_by_version_by_label_and_by_neither(place: Place, runtime: ServingRuntime, grpc: bool) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_THREE, "m", 2)
    runtime.apply(place.config("m", 1, 2), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)
    await_available(runtime, "m", 2)
    runtime.apply(place.config("m", 1, 2, stable=1), timeout_s=TIMEOUT_S)

    assert answer(runtime, spec("m", version=1), grpc=grpc) == 3.0
    assert answer(runtime, spec("m", version=2), grpc=grpc) == 4.0
    assert answer(runtime, spec("m", label="stable"), grpc=grpc) == 3.0
    assert answer(runtime, spec("m"), grpc=grpc) == 4.0


@both_protocols
def test_what_is_not_served_is_not_found(place: Place, runtime: ServingRuntime, grpc: bool) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    runtime.apply(place.config("m", 1, stable=1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)

    for missing in (spec("m", version=2), spec("other")):
        with pytest.raises(NotFoundError):
            answer(runtime, missing, grpc=grpc)
    # As upstream: a label that it does not know is a malformed request.
    with pytest.raises(InvalidRequestError, match="canary"):
        answer(runtime, spec("m", label="canary"), grpc=grpc)


def test_no_version_answers_for_what_is_not_served(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    runtime.apply(place.config("m", 1, stable=1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)

    for missing in (spec("m", version=2), spec("other")):
        with pytest.raises(NotFoundError):
            runtime.answering_version(missing, timeout_s=TIMEOUT_S)
    with pytest.raises(InvalidRequestError, match="canary"):
        runtime.answering_version(spec("m", label="canary"), timeout_s=TIMEOUT_S)


@both_protocols
def test_a_malformed_request_is_refused(place: Place, runtime: ServingRuntime, grpc: bool) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)

    for request in (
        PredictionRequest(spec("m"), instances=["text"]),
        PredictionRequest(spec("m"), instances=[{"z": 1.0}]),
        PredictionRequest(spec("m"), instances=[[1.0], [1.0, 2.0]]),
        PredictionRequest(spec("m"), "no_such_signature", instances=[1.0]),
        PredictionRequest(spec("m"), inputs={"z": [1.0]}),
    ):
        with pytest.raises(InvalidRequestError):
            runtime.predict(request, grpc=grpc, timeout_s=TIMEOUT_S)


def test_grpc_says_which_version_answered(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 7)
    runtime.apply(place.config("m", 7), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 7)

    prediction = runtime.predict(PredictionRequest(spec("m"), inputs=[2.0, 4.0]), grpc=True, timeout_s=TIMEOUT_S)

    assert prediction.version == 7
    assert prediction.outputs == [3.0, 4.0]


def test_tells_which_version_answers_and_with_which_signatures(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_THREE, "m", 2)
    runtime.apply(place.config("m", 1, 2), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)
    await_available(runtime, "m", 2)
    runtime.apply(place.config("m", 1, 2, stable=1), timeout_s=TIMEOUT_S)

    version, signatures = runtime.answering_version(spec("m", label="stable"), timeout_s=TIMEOUT_S)

    assert version == 1
    assert signatures["serving_default"].inputs == {"x": TensorSpec("float32", (None, 1), "x:0")}
    assert runtime.answering_version(spec("m"), timeout_s=TIMEOUT_S)[0] == 2


def test_a_label_moves_only_to_a_version_that_is_loaded(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_THREE, "m", 2)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)
    runtime.apply(place.config("m", 1, stable=1), timeout_s=TIMEOUT_S)

    with pytest.raises(ServerRefusedError, match="not currently available") as raised:
        runtime.apply(place.config("m", 1, 2, stable=2), timeout_s=TIMEOUT_S)

    assert raised.value.code == "FAILED_PRECONDITION"
    assert answer(runtime, spec("m", label="stable"), grpc=False) == 3.0
    runtime.apply(place.config("m", 1, 2, stable=1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 2)
    runtime.apply(place.config("m", 1, 2, stable=2), timeout_s=TIMEOUT_S)
    assert answer(runtime, spec("m", label="stable"), grpc=False) == 4.0


def test_a_version_that_is_no_longer_wanted_is_unloaded_and_stays_known(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_THREE, "m", 2)
    runtime.apply(place.config("m", 1, 2), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 2)

    runtime.apply(place.config("m", 2), timeout_s=TIMEOUT_S)

    ended = await_end(runtime, "m", 1)
    assert not ended.failed
    assert [status.version for status in runtime.statuses(ModelName("m"), timeout_s=5)] == [2, 1]


def test_a_version_that_cannot_be_loaded_fails_with_the_servers_words_while_the_old_one_serves(
    place: Place, runtime: ServingRuntime
) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add_broken("m", 2)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)

    runtime.apply(place.config("m", 1, 2), timeout_s=TIMEOUT_S)

    failed = await_end(runtime, "m", 2)
    assert failed.failed
    assert "Read less bytes than requested" in failed.error or "checkpoint" in failed.error
    assert answer(runtime, spec("m"), grpc=False) == 3.0


def test_a_new_model_that_cannot_be_loaded_is_accepted_and_reported_as_failed(
    place: Place, runtime: ServingRuntime
) -> None:
    place.add_broken("m", 1)

    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)

    assert await_end(runtime, "m", 1).failed


def test_a_failed_version_is_tried_again_once_it_was_dropped(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    broken = place.add_broken("m", 2)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)
    runtime.apply(place.config("m", 1, 2), timeout_s=TIMEOUT_S)
    await_end(runtime, "m", 2)

    data = "variables/variables.data-00000-of-00001"
    (broken / data).write_bytes((HALF_PLUS_TWO / data).read_bytes())
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    runtime.apply(place.config("m", 1, 2), timeout_s=TIMEOUT_S)

    await_available(runtime, "m", 2)


def test_two_models_are_served_side_by_side(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "two", 1)
    place.add(HALF_PLUS_THREE, "three", 1)

    runtime.apply(ServingConfig((place.model("three", 1), place.model("two", 1))), timeout_s=TIMEOUT_S)

    await_available(runtime, "two", 1)
    await_available(runtime, "three", 1)
    assert answer(runtime, spec("two"), grpc=False) == 3.0
    assert answer(runtime, spec("three"), grpc=False) == 4.0


def test_a_model_that_is_left_out_is_no_longer_served(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "two", 1)
    place.add(HALF_PLUS_THREE, "three", 1)
    runtime.apply(ServingConfig((place.model("three", 1), place.model("two", 1))), timeout_s=TIMEOUT_S)
    await_available(runtime, "two", 1)

    runtime.apply(place.config("three", 1), timeout_s=TIMEOUT_S)

    await_end(runtime, "two", 1)
    with pytest.raises(NotFoundError):
        answer(runtime, spec("two"), grpc=False)


def test_a_restart_returns_to_what_was_live(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    place.add(HALF_PLUS_THREE, "m", 2)
    live = place.config("m", 1, 2, stable=1)
    runtime.apply(live, timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)
    await_available(runtime, "m", 2)

    runtime.down(timeout_s=5)
    place.again().up(live, timeout_s=TIMEOUT_S)

    assert answer(runtime, spec("m", label="stable"), grpc=False) == 3.0
    assert answer(runtime, spec("m"), grpc=True) == 4.0


def test_a_configuration_whose_directory_is_gone_changes_nothing(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    await_available(runtime, "m", 1)

    for gone in (place.config("m", 1, 2), ServingConfig((place.model("m", 1), place.model("other", 1)))):
        with pytest.raises(StorageError, match="does not exist"):
            runtime.apply(gone, timeout_s=TIMEOUT_S)

    assert answer(runtime, spec("m"), grpc=False) == 3.0


def test_does_not_start_with_a_configuration_whose_directory_is_gone(place: Place) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        place.runtime.up(place.config("m", 1), timeout_s=TIMEOUT_S)

    assert place.runtime.state(timeout_s=5).condition is ServerCondition.STOPPED


def test_shows_the_last_lines_of_the_servers_log(place: Place, runtime: ServingRuntime) -> None:
    place.add_broken("m", 1)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)
    await_end(runtime, "m", 1)

    everything = list(runtime.logs(lines=None, since_s=None, follow=False))

    assert everything
    assert list(runtime.logs(lines=1, since_s=None, follow=False)) == everything[-1:]
    assert list(runtime.logs(lines=None, since_s=TIMEOUT_S, follow=False))


def test_states_are_told_while_a_version_comes_and_goes(place: Place, runtime: ServingRuntime) -> None:
    place.add(HALF_PLUS_TWO, "m", 1)
    runtime.apply(place.config("m", 1), timeout_s=TIMEOUT_S)

    assert await_available(runtime, "m", 1).state is VersionState.AVAILABLE
    runtime.apply(ServingConfig(), timeout_s=TIMEOUT_S)
    assert await_end(runtime, "m", 1).error == ""
