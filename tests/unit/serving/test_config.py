"""The rendered ModelServerConfig: equal text for equal meaning, and nothing that a server would misread."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployctl.domain.names import MAX_VERSION, LabelName, ModelName, VersionNumber
from deployctl.domain.serving import ServedModel, ServingConfig
from deployctl.errors import SettingsError
from deployctl.protos import serving_pb2
from deployctl.serving.config import from_proto, normal, parse, render, to_proto

GOLDEN = Path(__file__).parent / "golden"

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
versions = st.integers(0, MAX_VERSION).map(VersionNumber)
served_models = st.builds(
    ServedModel,
    name=text.map(ModelName),
    base_path=text,
    versions=st.lists(versions, max_size=4).map(tuple),
    labels=st.dictionaries(text.map(LabelName), versions, max_size=3),
)
configs = st.lists(served_models, max_size=4, unique_by=lambda model: model.name).map(
    lambda models: ServingConfig(tuple(models))
)


def model(name: str, *numbers: int, path: str = "/m", **labels: int) -> ServedModel:
    return ServedModel(
        ModelName(name),
        path,
        tuple(VersionNumber(number) for number in numbers),
        {LabelName(label): VersionNumber(number) for label, number in labels.items()},
    )


TWO_MODELS = ServingConfig(
    (
        model("ranker", 20170111173521, path='/srv/café "old"\\new\n/ranker'),
        model("digits", 10, 9, path="/srv/models/digits", stable=9, canary=10),
    )
)


def test_two_models_are_written_in_name_order_with_everything_escaped() -> None:
    assert render(TWO_MODELS) == (GOLDEN / "two_models.config").read_text()


def test_zero_models_are_an_explicit_empty_list() -> None:
    assert render(ServingConfig()) == (GOLDEN / "empty.config").read_text()


def test_an_empty_list_is_sent_as_such_and_not_as_no_change() -> None:
    assert to_proto(ServingConfig()).WhichOneof("config") == "model_config_list"


def test_a_model_without_versions_is_left_out() -> None:
    config = ServingConfig((model("gone"), model("kept", 1)))

    assert [entry.name for entry in to_proto(config).model_config_list.config] == ["kept"]
    assert render(config) == render(ServingConfig((model("kept", 1),)))


@given(configs)
def test_what_is_written_reads_back_as_the_same_configuration(config: ServingConfig) -> None:
    assert parse(render(config)) == normal(config)


@given(configs)
def test_the_file_and_the_reload_call_say_the_same(config: ServingConfig) -> None:
    assert parse(render(config)) == from_proto(to_proto(config))


@given(configs)
def test_the_order_of_models_versions_and_labels_does_not_show_in_the_text(config: ServingConfig) -> None:
    reordered = ServingConfig(
        tuple(
            ServedModel(
                model.name, model.base_path, model.versions[::-1], dict(sorted(model.labels.items(), reverse=True))
            )
            for model in reversed(config.models)
        )
    )

    assert render(reordered) == render(config)


@given(configs)
def test_every_model_names_its_platform(config: ServingConfig) -> None:
    assert {entry.model_platform for entry in to_proto(config).model_config_list.config} <= {"tensorflow"}


@pytest.mark.parametrize(
    "text",
    [
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow" } }',
        'model_config_list { config { name: "m" base_path: "/m" model_platform: "tensorflow"'
        " model_version_policy { latest { num_versions: 2 } } } }",
        'model_config_list { config { name: "m" base_path: "/m" model_version_policy { specific { versions: 1 } } } }',
        "model_config_list { config { nam",
    ],
)
def test_refuses_a_configuration_that_it_would_not_have_written(text: str) -> None:
    with pytest.raises(SettingsError):
        parse(text)


def test_the_message_is_the_one_of_the_reload_call() -> None:
    message = to_proto(ServingConfig((model("m", 1, 2, stable=2),)))

    assert message == serving_pb2.ModelServerConfig(
        model_config_list=serving_pb2.ModelConfigList(
            config=[
                serving_pb2.ModelConfig(
                    name="m",
                    base_path="/m",
                    model_platform="tensorflow",
                    model_version_policy=serving_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy(
                        specific=serving_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy.Specific(
                            versions=[1, 2]
                        )
                    ),
                    version_labels={"stable": 2},
                )
            ]
        )
    )
