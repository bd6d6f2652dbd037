"""The ModelServerConfig of a server, as text, as values and as the message that a reload sends.

The format is tensorflow_serving/config/model_server_config.proto. Only `specific` versions are ever written, so that
a restarted server loads exactly what it served, and `model_platform` always, since a reload that lacks it is kept by
the server and makes every later one fail (server_core.cc, ValidateNoModelsChangePlatforms).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deployctl.domain.names import LabelName, ModelName, VersionNumber
from deployctl.domain.serving import ServedModel, ServingConfig
from deployctl.errors import SettingsError

if TYPE_CHECKING:
    from deployctl.protos import serving_pb2

PLATFORM = "tensorflow"
_HEADER = "# Written by deployctl, which replaces the whole file at every change.\n"
_ESCAPES = {ord("\\"): "\\\\", ord('"'): '\\"', ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}


def normal(config: ServingConfig) -> ServingConfig:
    """Returns `config` in the order in which it is written, without the models that have no version.

    A server that is told of a model without versions waits for one for ever at its start.
    """
    models = sorted((model for model in config.models if model.versions), key=lambda model: model.name)
    return ServingConfig(tuple(_normal_model(model) for model in models))


def render(config: ServingConfig) -> str:
    """Returns the text of the file that a server starts from; equal configurations give equal text.

    Zero models give `model_config_list {}`: an empty file would leave a server half initialised
    (tensorflow/serving#1565).
    """
    models = normal(config).models
    if not models:
        return f"{_HEADER}model_config_list {{}}\n"
    lines = ["model_config_list {", *(f"  {line}" for model in models for line in _model_lines(model)), "}"]
    return _HEADER + "".join(f"{line}\n" for line in lines)


def parse(text: str) -> ServingConfig:
    """Returns the configuration that `render` was given, in normal form.

    Raises:
        SettingsError: `text` is no ModelServerConfig, or one that deployctl would not write: another version
            policy than `specific`, or another platform.
    """
    from google.protobuf import text_format

    from deployctl.protos import serving_pb2

    message = serving_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise SettingsError(f"the model server's configuration cannot be read: {error}") from error
    return from_proto(message)


def to_proto(config: ServingConfig) -> serving_pb2.ModelServerConfig:
    """Returns what HandleReloadConfigRequest is sent."""
    from deployctl.protos import serving_pb2

    message = serving_pb2.ModelServerConfig()
    # Setting the list, even an empty one, tells the server to serve just that; leaving it out means "no change".
    message.model_config_list.SetInParent()
    for model in normal(config).models:
        entry = message.model_config_list.config.add(
            name=model.name, base_path=model.base_path, model_platform=PLATFORM
        )
        entry.model_version_policy.specific.versions.extend(model.versions)
        entry.version_labels.update({str(label): int(version) for label, version in model.labels.items()})
    return message


def from_proto(message: serving_pb2.ModelServerConfig) -> ServingConfig:
    """Returns `message` as values; the errors are those of `parse`."""
    return normal(ServingConfig(tuple(_served_model(entry) for entry in message.model_config_list.config)))


def _normal_model(model: ServedModel) -> ServedModel:
    return ServedModel(
        model.name, model.base_path, tuple(sorted(set(model.versions))), dict(sorted(model.labels.items()))
    )


def _model_lines(model: ServedModel) -> Iterator[str]:
    yield "config {"
    yield f"  name: {_quoted(model.name)}"
    yield f"  base_path: {_quoted(model.base_path)}"
    yield f"  model_platform: {_quoted(PLATFORM)}"
    yield "  model_version_policy {"
    yield "    specific {"
    for version in model.versions:
        yield f"      versions: {version}"
    yield "    }"
    yield "  }"
    for label, version in model.labels.items():
        yield "  version_labels {"
        yield f"    key: {_quoted(label)}"
        yield f"    value: {version}"
        yield "  }"
    yield "}"


def _quoted(text: str) -> str:
    """Returns a text format string literal: what is not printable ASCII as the octal escapes of its UTF-8 bytes."""
    return f'"{"".join(_escaped(character) for character in text)}"'


def _escaped(character: str) -> str:
    if ord(character) in _ESCAPES:
        return _ESCAPES[ord(character)]
    if " " <= character <= "~":
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def _served_model(entry: serving_pb2.ModelConfig) -> ServedModel:
    if entry.model_platform != PLATFORM:
        raise SettingsError(f"model {entry.name!r} is configured for the platform {entry.model_platform!r}")
    if entry.model_version_policy.WhichOneof("policy_choice") != "specific":
        raise SettingsError(f"model {entry.name!r} is configured without `specific` versions")
    return ServedModel(
        ModelName(entry.name),
        entry.base_path,
        tuple(VersionNumber(version) for version in entry.model_version_policy.specific.versions),
        {LabelName(label): VersionNumber(version) for label, version in entry.version_labels.items()},
    )
