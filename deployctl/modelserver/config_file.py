"""Text protos that the server is started with, and the model configuration in them and in reload requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from deployctl.modelserver.interface import Code, StatusError
from deployctl.modelserver.model_config import TENSORFLOW_PLATFORM, ConfiguredModel, PolicyKind, VersionPolicy

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from deployctl.protos.serving_pb2 import FileSystemStoragePathSourceConfig, ModelConfig, ModelServerConfig

    ProtoType = TypeVar("ProtoType", bound=Message)

logger = logging.getLogger(__name__)


def read_text_proto(path: str, message: ProtoType) -> ProtoType:
    """Parses the file at `path` into `message` and returns it.

    Raises:
        StatusError: NOT_FOUND or INVALID_ARGUMENT.
    """
    from google.protobuf import text_format

    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}'") from error
    except OSError as error:
        raise StatusError(Code.NOT_FOUND, f"{path}; {error.strerror}") from error
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        name = message.DESCRIPTOR.full_name.removeprefix("deployctl.wire.")
        logger.error("Error parsing text-format %s: %s", name, error)
        raise StatusError(Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{path}'") from error


def read_model_config(path: str) -> tuple[ConfiguredModel, ...] | None:
    """Returns the models of the ModelServerConfig at `path`; None when the file says nothing, not even "no models".

    Raises:
        StatusError: the file cannot be read, or asks for what is not supported.
    """
    from deployctl.protos.serving_pb2 import ModelServerConfig

    return models_from_proto(read_text_proto(path, ModelServerConfig()))


def models_from_proto(config: ModelServerConfig) -> tuple[ConfiguredModel, ...] | None:
    """Returns the models of `config`; None when it says nothing, not even "no models".

    Raises:
        StatusError: it asks for what is not supported.
    """
    match config.WhichOneof("config"):
        case "model_config_list":
            return tuple(_configured(model) for model in config.model_config_list.config)
        case "custom_model_config":
            raise StatusError(Code.UNIMPLEMENTED, "ModelServer does not yet support custom model config.")
        case _:
            return None


def _configured(model: ModelConfig) -> ConfiguredModel:
    return ConfiguredModel(
        model.name,
        model.base_path,
        _platform(model),
        _policy(model.model_version_policy),
        dict(model.version_labels),
    )


def _platform(model: ModelConfig) -> str:
    # ModelType: 0 is not set, 1 is TENSORFLOW.
    if model.model_type == 0:
        return model.model_platform
    logger.warning("Deprecated ModelServerConfig::model_type field used. Prefer ModelServerConfig::model_platform.")
    if model.model_platform:
        raise StatusError(
            Code.INVALID_ARGUMENT,
            "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform.",
        )
    if model.model_type != 1:
        raise StatusError(
            Code.INVALID_ARGUMENT, f"ModelServerConfig::model_type choice {model.model_type} not supported."
        )
    return TENSORFLOW_PLATFORM


def _policy(policy: FileSystemStoragePathSourceConfig.ServableVersionPolicy) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return VersionPolicy(PolicyKind.ALL)
        case "specific":
            return VersionPolicy(PolicyKind.SPECIFIC, specific=frozenset(policy.specific.versions))
        case _:
            return VersionPolicy(latest=policy.latest.num_versions)


class ConfigFilePoller:
    """Reads the file again every `interval_s` and applies it, changed or not, as TensorFlow Serving does.

    So a configuration that came by HandleReloadConfigRequest lasts until the next reading.
    """

    def __init__(self, path: str, apply: Callable[[tuple[ConfiguredModel, ...]], None], *, interval_s: float) -> None:
        self._path = path
        self._apply = apply
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="config file", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Reads no more; does not wait for a reload under way."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                models = read_model_config(self._path)
                if models is None:
                    logger.info("Taking no action for empty config.")
                else:
                    self._apply(models)
            except StatusError as error:
                logger.error("PollFilesystemAndReloadConfig failed to ReloadConfig: %s", error)
